"""What a walk finds: scans that become rows, and entries that are only counted."""

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nightread.reasons import Reason
from nightread.scan.formats import SNIFF_BYTES, Format, NoScan, sniff


class Skip(StrEnum):
    """Why an entry is skipped and only counted."""

    HIDDEN = "hidden"
    NOT_A_SCAN = "not-a-scan"
    SPECIAL = "special"  # FIFO, socket, device
    LINK_LOOP = "link-loop"  # a link to a folder that was listed before
    ALREADY_SCORED = "already-scored"  # by this model, and not changed since; only where that was asked for


@dataclass(frozen=True, slots=True)
class FoundScan:
    """One entry that becomes a row of the run.

    Attributes:
        path: absolute, not resolved; or the address of an object.
        size_bytes: size when listed; 0 if unknown.
        reason: None for a scan to score, else why the entry cannot be read.
        text: the reason in words; "" if only the reason is known.
        modified_ns: when it was last written, in ns since 1970; None if unknown.
    """

    path: str
    size_bytes: int
    reason: Reason | None = None
    text: str = ""
    modified_ns: int | None = None


# Suffixes that claim "this is a scan": such a file gets a row with a reason, whatever it contains.
_SCAN_SUFFIXES: Final = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".jls", ".png", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom", ".dic",
        ".ima",
    }
)  # fmt: skip

# Those of archives and of pictures in other formats: such a file gets a row, too.
_OTHER_SUFFIXES: Final = frozenset(
    {
        ".zip", ".tar", ".tgz", ".gz", ".7z", ".rar",
        ".jp2", ".j2k", ".j2c", ".jpx", ".jph", ".jxl", ".jxr", ".heic", ".heif", ".avif", ".gif", ".pgm", ".nii",
        ".nrrd", ".mha",
    }
)  # fmt: skip


def claims_scan(path: str) -> bool:
    """Return whether a file's name says that it is a scan."""
    return _find_suffix(path) in _SCAN_SUFFIXES


def is_zip_name(path: str) -> bool:
    """Return whether a file's name says that it is a zip archive."""
    return _find_suffix(path) == ".zip"


def find_skip_reason(path: str, head: bytes) -> Skip | None:
    """Return why a regular file is skipped; None if it is a scan, or its suffix says that it may be."""
    kind = sniff(head)
    if isinstance(kind, Format):
        # DICOMDIR is an index of other files; it is not followed.
        return Skip.NOT_A_SCAN if os.path.basename(path).upper() == "DICOMDIR" else None
    if kind is not NoScan.UNKNOWN or claims_scan(path) or _claims_other(path, head):
        return None  # an image in another format, or an archive of scans, gets a row with a reason
    return Skip.NOT_A_SCAN


def _find_suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _claims_other(path: str, head: bytes) -> bool:
    suffix = _find_suffix(path)
    is_empty_tar = suffix == ".tar" and head == bytes(SNIFF_BYTES)  # it holds nothing but zeros
    return suffix in _OTHER_SUFFIXES and not is_empty_tar
