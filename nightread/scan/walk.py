"""Finding a night's scans: which files of the given paths are scans, and what becomes of the others.

Every entry that a walk comes across is accounted for: it is found (a scan to be), refused (a row that says why it
cannot even be looked into), or skipped and counted, for what is plainly no scan.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from nightread.reasons import Reason
from nightread.scan.files import find_root
from nightread.scan.formats import SNIFF_BYTES, Format, NoScan, sniff


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
    named itself. Links are followed as long as they stay within `roots`. What several of `paths` lead to is found, or
    skipped and counted, once.

    Args:
        paths: files and folders that exist.
        walk: is filled with the counts of what was skipped.
        roots: resolved folders below which reading is allowed.
    """
    starts = [os.path.abspath(path) for path in paths]
    search = _Search(walk, roots, starts)
    for start in starts:
        yield from search.look_below(start)


class _Search:
    """One walk over all the paths of a run, and what it has come across so far."""

    def __init__(self, walk: Walk, roots: Sequence[Path], starts: Iterable[str]) -> None:
        self._skipped = walk.skipped
        self._roots = roots
        # `score night night/ward-1` names some scans twice. A folder is listed once, by whatever path, so that what
        # lies in it cannot come up again but as a start: to remember every path of a large night is not needed.
        self._starts = frozenset(starts)
        self._seen_paths: set[str] = set()
        self._seen_folders: set[tuple[int, int]] = set()

    def look_below(self, start: str) -> Iterator[FoundScan]:
        if find_root(os.path.realpath(start), self._roots) is None:
            yield FoundScan(start, 0, Reason.OUTSIDE_ROOTS)
            return
        pending: list[Iterator[str]] = [iter([start])]
        while pending:
            path = next(pending[-1], None)
            if path is None:
                pending.pop()
                continue
            if path in self._seen_paths:
                continue
            if path in self._starts:
                self._seen_paths.add(path)
            try:
                found, is_folder = self._look_at(path)
                if is_folder:
                    self._seen_paths.add(path)
                    pending.append(self._list_folder(path))
            except OSError as error:
                found = FoundScan(path, 0, _explain(error))
            if found is not None:
                yield found

    def _look_at(self, path: str) -> tuple[FoundScan | None, bool]:
        """Return (a row, or None where the entry is a folder or was skipped; whether it is a folder)."""
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            if find_root(os.path.realpath(path), self._roots) is None:
                return FoundScan(path, 0, Reason.OUTSIDE_ROOTS), False
            status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return None, True
        if not stat.S_ISREG(status.st_mode):
            self._skipped[Skip.SPECIAL] += 1
            return None, False
        skip = _tell_skip(path, _read_head(path))
        if skip is not None:
            self._skipped[skip] += 1
            return None, False
        return FoundScan(path, status.st_size), False

    def _list_folder(self, path: str) -> Iterator[str]:
        """Return what a folder holds, by name; nothing where the walk has been in it by another path."""
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in self._seen_folders:
            self._skipped[Skip.LINK_LOOP] += 1
            return iter(())
        names = os.listdir(path)
        self._seen_folders.add((status.st_dev, status.st_ino))
        shown = sorted(name for name in names if not name.startswith("."))
        if len(shown) < len(names):
            self._skipped[Skip.HIDDEN] += len(names) - len(shown)
        return (os.path.join(path, name) for name in shown)  # made one by one: a folder may hold a million


def _read_head(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO put there by now does not hang
    try:
        return os.read(descriptor, SNIFF_BYTES)
    finally:
        os.close(descriptor)


def _explain(error: OSError) -> Reason:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Reason.PERMISSION_DENIED
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:  # gone since it was listed, or a link to nothing
        return Reason.MISSING_FILE
    if error.errno == errno.ELOOP:  # a link to itself
        return Reason.NOT_A_FILE
    return Reason.STORAGE_ERROR


def _tell_skip(path: str, head: bytes) -> Skip | None:
    """Say why a regular file is plainly no scan; None where it is, or where its name claims that it is."""
    kind = sniff(head)
    if isinstance(kind, Format):
        # An index of other files; what it names is not followed.
        return Skip.NOT_A_SCAN if os.path.basename(path).upper() == "DICOMDIR" else None
    if kind is NoScan.OTHER_IMAGE or os.path.splitext(path)[1].lower() in _SCAN_SUFFIXES:
        return None
    return Skip.ARCHIVE if kind is NoScan.ARCHIVE else Skip.NOT_A_SCAN
