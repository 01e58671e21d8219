"""Reason codes: why a scan is `rejected` (the file is at fault) or `failed` (the system is at fault).

Codes are stored and exported, so none is ever renamed or removed. The text of a reason holds no path and no value from
the file, so that it carries no patient data to a log or a table.
"""

from enum import StrEnum


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
