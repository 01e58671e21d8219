"""The file of one scan in memory: its bytes and their hash, or why they are not there."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from db.jobs import OpenScan
from nightread.errors import ScanError, StorageError
from nightread.failpoints import Point, failpoint
from nightread.reasons import Reason
from nightread.scan.files import decode_path, read_file
from nightread.scan.formats import SNIFF_BYTES, Format, sniff
from nightread.scan.scan import DicomUids

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScanFile:
    """A scan whose bytes are in memory, or the reason why they are not."""

    scan: OpenScan
    data: bytes = b""
    sha256: str = ""
    error: ScanError | StorageError | None = None


def read_scan_files(scans: Sequence[OpenScan], roots: Sequence[Path], max_bytes: int) -> list[ScanFile]:
    """Read and hash the files of some scans, one after the other; arguments as for `read_scan_file`."""
    return [read_scan_file(scan, roots, max_bytes) for scan in scans]


def read_scan_file(scan: OpenScan, roots: Sequence[Path], max_bytes: int) -> ScanFile:
    """Read and hash a scan's file, whatever it does: one file must not end the job of 63 others.

    Args:
        scan: whose file.
        roots: folders below which it may lie.
        max_bytes: the largest file that is read.
    """
    try:
        failpoint(Point.WORKER_READING, _away)
        data = read_file(decode_path(scan.path), roots=roots, max_bytes=max_bytes)
    except (ScanError, StorageError) as error:
        return ScanFile(scan, error=error)
    except MemoryError:
        return ScanFile(scan, error=StorageError(Reason.OUT_OF_MEMORY, "not enough memory to read the file"))
    except Exception as error:  # noqa: BLE001  # one file must not end the job of 63 others
        _log.error("reading failed with %s", type(error).__name__)  # its text may hold the path
        return ScanFile(scan, error=StorageError(Reason.INTERNAL_ERROR, f"reading failed with {type(error).__name__}"))
    return ScanFile(scan, data, hashlib.sha256(data).hexdigest())


def find_uids(data: bytes) -> DicomUids | None:
    """Return the UIDs of a content that is not decoded, since its prediction is stored already."""
    if sniff(data[:SNIFF_BYTES]) is not Format.DICOM:
        return None
    from nightread.scan.dicom import read_uids  # pydicom takes 0.2 s to import, and most folders hold none

    try:
        return read_uids(data)
    except Exception as error:  # noqa: BLE001  # the boundary to untrusted bytes; the score is there all the same
        _log.error("reading UIDs failed with %s", type(error).__name__)
        return None


def _away(message: str) -> StorageError:
    return StorageError(Reason.STORAGE_ERROR, message)
