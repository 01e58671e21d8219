"""Finding a night's scans: which files of the given paths are scans, and what becomes of the others.

Every entry that a walk comes across is accounted for: it is found (a scan to be), refused (a row that says why it
cannot even be looked into), or skipped and counted, for what is plainly no scan.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath

from nightread.files import find_root
from nightread.formats import SNIFF_BYTES, Format, NoScan, sniff
from nightread.reasons import Reason


class Skip(StrEnum):
    """Why an entry is passed over and only counted."""

    HIDDEN = "hidden"
    ARCHIVE = "archive"
    NOT_A_SCAN = "not-a-scan"
    SPECIAL = "special"  # FIFO, socket, device
    LINK_LOOP = "link-loop"  # a link to a folder that the walk has been to already


@dataclass(frozen=True, slots=True)
class FoundScan:
    """One entry that becomes a row of the run.

    Attributes:
        path: absolute, not resolved.
        size_bytes: as listed; 0 where it is not known.
        reason: None for a scan to be scored, else why the entry cannot be looked into.
    """

    path: str
    size_bytes: int
    reason: Reason | None = None


@dataclass(slots=True)
class Walk:
    """The counts of a walk, complete once `find_scans` is exhausted."""

    skipped: Counter[Skip] = field(default_factory=Counter)


# Names by which somebody says "this is a scan": such a file gets a row, and a reason, whatever it holds.
_SCAN_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".dcm", ".dicom", ".dic", ".ima"}
)


def find_scans(paths: Iterable[Path], walk: Walk, *, roots: Sequence[Path]) -> Iterator[FoundScan]:
    """Yield every scan below `paths`, each once, folders in the order of their names.

    Told by the first bytes, not by the name. Hidden entries below a folder are skipped, unlike a hidden path that was
    named itself. Links are followed as long as they stay within `roots`.

    Args:
        paths: files and folders that exist.
        walk: is filled with the counts of what was skipped.
        roots: resolved folders below which reading is allowed.
    """
    seen_paths: set[str] = set()
    seen_folders: set[tuple[int, int]] = set()
    for path in paths:
        for found in _find_in(os.path.abspath(path), walk, roots, seen_folders):
            if found.path not in seen_paths:  # `score night night/ward-1` names some scans twice
                seen_paths.add(found.path)
                yield found


def _find_in(start: str, walk: Walk, roots: Sequence[Path], seen_folders: set[tuple[int, int]]) -> Iterator[FoundScan]:
    pending = [start]
    while pending:
        path = pending.pop()
        found, is_folder = _look_at(path, walk, roots)
        if found is not None:
            yield found
        elif is_folder:
            try:
                status = os.stat(path)
                names = sorted(os.listdir(path), reverse=True)
            except OSError:
                yield FoundScan(path, 0, Reason.PERMISSION_DENIED)
                continue
            if (status.st_dev, status.st_ino) in seen_folders:
                walk.skipped[Skip.LINK_LOOP] += 1
                continue
            seen_folders.add((status.st_dev, status.st_ino))
            hidden = sum(name.startswith(".") for name in names)
            if hidden:
                walk.skipped[Skip.HIDDEN] += hidden
            pending.extend(os.path.join(path, name) for name in names if not name.startswith("."))


def _look_at(path: str, walk: Walk, roots: Sequence[Path]) -> tuple[FoundScan | None, bool]:
    """Return (a row, or None where the entry is a folder or was skipped; whether it is a folder)."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            if find_root(os.path.realpath(path), roots) is None:
                return FoundScan(path, 0, Reason.OUTSIDE_ROOTS), False
            status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return None, True
        if not stat.S_ISREG(status.st_mode):
            walk.skipped[Skip.SPECIAL] += 1
            return None, False
        with open(path, "rb", buffering=0) as file:
            head = file.read(SNIFF_BYTES)
    except PermissionError:
        return FoundScan(path, 0, Reason.PERMISSION_DENIED), False
    except FileNotFoundError:  # gone since it was listed, or a link to nothing
        return FoundScan(path, 0, Reason.MISSING_FILE), False
    except OSError:
        return FoundScan(path, 0, Reason.STORAGE_ERROR), False
    skip = _tell_skip(path, head)
    if skip is not None:
        walk.skipped[skip] += 1
        return None, False
    return FoundScan(path, status.st_size), False


def _tell_skip(path: str, head: bytes) -> Skip | None:
    """Say why a regular file is plainly no scan; None where it is, or where its name claims that it is."""
    kind = sniff(head)
    name = PurePath(path).name
    if isinstance(kind, Format):
        return Skip.NOT_A_SCAN if name == "DICOMDIR" else None  # an index of other files; what it names is not followed
    if kind is NoScan.OTHER_IMAGE or PurePath(name).suffix.lower() in _SCAN_SUFFIXES:
        return None
    return Skip.ARCHIVE if kind is NoScan.ARCHIVE else Skip.NOT_A_SCAN
