"""Reason codes: why a scan is `rejected` (the file is at fault) or `failed` (the system is at fault).

Codes are stored and exported, so none is ever renamed or removed. The text of a reason holds no path and no value from
the file, so that it carries no patient data to a log or a table.
"""

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Reason for a missing prediction; the value is the stored code."""

    # rejected: sending the same file again changes nothing
    EMPTY_FILE = "empty-file"
    NOT_AN_IMAGE = "not-an-image"
    UNSUPPORTED_FORMAT = "unsupported-format"
    DAMAGED = "damaged"
    TOO_LARGE = "too-large"
    TOO_SMALL = "too-small"
    BLANK = "blank"
    MULTI_FRAME = "multi-frame"
    NOT_A_RADIOGRAPH = "not-a-radiograph"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported-transfer-syntax"
    FOR_PROCESSING = "for-processing"
    NOT_FRONTAL = "not-frontal"
    COLOR_PHOTOGRAPH = "color-photograph"
    DOCUMENT = "document"
    ASPECT_RATIO = "aspect-ratio"
    INVERTED = "inverted"
    ROTATED = "rotated"
    NOT_A_CHEST_XRAY = "not-a-chest-xray"
    OUTSIDE_ROOTS = "outside-roots"
    NOT_A_FILE = "not-a-file"
    PATH_TOO_LONG = "path-too-long"

    # failed: `nightread retry` queues these again
    PERMISSION_DENIED = "permission-denied"
    MISSING_FILE = "missing-file"
    STORAGE_ERROR = "storage-error"
    STILL_CHANGING = "still-changing"
    OUT_OF_MEMORY = "out-of-memory"
    WORKER_CRASH = "worker-crash"
    DECODER_CRASH = "decoder-crash"
    DECODER_TIMEOUT = "decoder-timeout"
    MODEL_UNAVAILABLE = "model-unavailable"
    INVALID_SCORE = "invalid-score"
    CANCELLED = "cancelled"
    INTERNAL_ERROR = "internal-error"

    @property
    def is_rejection(self) -> bool:
        """Whether the file is at fault (`rejected`) rather than the system (`failed`)."""
        return self not in _FAILURES


_FAILURES = frozenset(
    {
        Reason.PERMISSION_DENIED,
        Reason.MISSING_FILE,
        Reason.STORAGE_ERROR,
        Reason.STILL_CHANGING,
        Reason.OUT_OF_MEMORY,
        Reason.WORKER_CRASH,
        Reason.DECODER_CRASH,
        Reason.DECODER_TIMEOUT,
        Reason.MODEL_UNAVAILABLE,
        Reason.INVALID_SCORE,
        Reason.CANCELLED,
        Reason.INTERNAL_ERROR,
    },
)

#: What each reason means, and what to do about it; `docs/reference/reason-codes.md` has the same table.
MEANINGS: Final[dict[Reason, tuple[str, str]]] = {
    Reason.EMPTY_FILE: (
        "no bytes",
        "ask the sender",
    ),
    Reason.NOT_AN_IMAGE: (
        "the content is no image, whatever its name",
        "ask the sender",
    ),
    Reason.UNSUPPORTED_FORMAT: (
        "an image or archive in another format or of an unsupported kind; the row names it: what is read",
        "convert it; `--archives` reads zip and tar",
    ),
    Reason.DAMAGED: (
        "truncated or corrupt",
        "send it again",
    ),
    Reason.TOO_LARGE: (
        "more pixels or bytes than the limits",
        "raise `NIGHTREAD_MAX_PIXELS` or `NIGHTREAD_MAX_FILE_BYTES`",
    ),
    Reason.TOO_SMALL: (
        "a side of less than 32 pixels: an icon",
        "nothing",
    ),
    Reason.BLANK: (
        "every pixel has the same value",
        "check the detector",
    ),
    Reason.MULTI_FRAME: (
        "more than one frame or page",
        "send single frames",
    ),
    Reason.NOT_A_RADIOGRAPH: (
        "a DICOM instance of another modality, or without an image",
        "nothing; `NIGHTREAD_MODALITIES` if it stands for radiographs",
    ),
    Reason.UNSUPPORTED_TRANSFER_SYNTAX: (
        "an unsupported DICOM compression: what is read",
        "convert it",
    ),
    Reason.FOR_PROCESSING: (
        "raw detector values, by Presentation Intent Type",
        "send the image FOR PRESENTATION; `NIGHTREAD_FOR_PROCESSING` reads it",
    ),
    Reason.NOT_FRONTAL: (
        "a lateral or oblique view, by its attributes",
        "nothing",
    ),
    Reason.COLOR_PHOTOGRAPH: (
        "colors, which a radiograph does not have (input gate, as the next five)",
        "nothing; `--no-gate` scores it",
    ),
    Reason.DOCUMENT: (
        "a page, a screenshot or a chart",
        "nothing; `--no-gate` scores it",
    ),
    Reason.ASPECT_RATIO: (
        "one side is more than four times the other",
        "nothing; `--no-gate` scores it",
    ),
    Reason.INVERTED: (
        "black and white appear swapped",
        "correct the export",
    ),
    Reason.ROTATED: (
        "not upright",
        "correct the export",
    ),
    Reason.NOT_A_CHEST_XRAY: (
        "too far from the scans that the model was trained on",
        "nothing; `--no-gate` scores it",
    ),
    Reason.OUTSIDE_ROOTS: (
        "a link or path that leads out of the allowed folders",
        "set `NIGHTREAD_SCAN_ROOTS`",
    ),
    Reason.NOT_A_FILE: (
        "by now a FIFO, socket or device",
        "nothing",
    ),
    Reason.PATH_TOO_LONG: (
        "a path of over 2,500 bytes, of which the row holds the beginning and a digest",
        "shorten the names of its folders",
    ),
    Reason.PERMISSION_DENIED: (
        "the worker's user could not read it in any attempt, or the command's user could not look into it",
        "fix the permissions or renew the ticket, then retry; a folder: run it again with `--only-new`",
    ),
    Reason.MISSING_FILE: (
        "existed when the run was created, and was missing in all attempts",
        "mount the share on every host",
    ),
    Reason.STORAGE_ERROR: (
        "reading failed in all attempts, or a folder could not be listed",
        "check the storage, then retry; a folder: run it again with `--only-new`",
    ),
    Reason.STILL_CHANGING: (
        "with `--settle`: it never stayed unchanged for that long",
        "retry when it is written completely",
    ),
    Reason.OUT_OF_MEMORY: (
        "the worker ran out of memory",
        "more memory, or fewer `NIGHTREAD_THREADS`",
    ),
    Reason.WORKER_CRASH: (
        "this one scan crashed its worker again and again",
        "keep the file and report it",
    ),
    Reason.DECODER_CRASH: (
        "its decoder crashed, in a sandbox",
        "keep the file and report it",
    ),
    Reason.DECODER_TIMEOUT: (
        "decoding did not end within `NIGHTREAD_DECODE_LIMIT_S`",
        "raise the limit if the machine was busy; else keep the file and report it",
    ),
    Reason.MODEL_UNAVAILABLE: (
        "for over an hour no worker had the run's model or its device",
        "`nightread models check`, `nightread doctor`",
    ),
    Reason.INVALID_SCORE: (
        "the model returned no number in [0, 1]",
        "check the model",
    ),
    Reason.CANCELLED: (
        "the run was cancelled",
        "`nightread retry`, if that was a mistake",
    ),
    Reason.INTERNAL_ERROR: (
        "a fault of Nightread",
        "read the worker's log; report it",
    ),
}
