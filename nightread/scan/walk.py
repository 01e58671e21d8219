"""The folder walk: which files below the given paths are scans, and what happens to the others.

Every entry is accounted for. It is found (a scan to score), refused (a row with the reason why it cannot be read), or
skipped and counted (plainly no scan).
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nightread.reasons import Reason
from nightread.scan.archive_entries import find_members
from nightread.scan.archive_source import FileSource
from nightread.scan.archives import can_list
from nightread.scan.entry import FoundScan, Skip, find_skip_reason
from nightread.scan.files import find_root, open_file
from nightread.scan.formats import SNIFF_BYTES
from nightread.scan.object_address import is_address, spell_address
from nightread.scan.object_list import find_objects


@dataclass(slots=True)
class Walk:
    """Counts of a walk; complete when `find_scans` is exhausted."""

    skipped: Counter[Skip] = field(default_factory=Counter)


def find_scans(
    paths: Iterable[Path], walk: Walk, *, roots: Sequence[Path], archives: bool = False
) -> Iterator[FoundScan]:
    """Yield every scan below `paths`, each once, folders in the order of their names, what lies in object storage last.

    Scans are recognised by their first bytes, not by name. Hidden entries of a folder are skipped, but a hidden path in
    `paths` is not. Links are followed as long as they stay within `roots`. An entry that several of `paths` lead to is
    found or counted once.

    Args:
        paths: existing files and folders, and addresses in object storage.
        walk: receives the counts of skipped entries.
        roots: resolved folders below which reading is allowed.
        archives: whether to list the scans in zip and tar archives, instead of one row for each archive.

    Raises:
        SettingsError: object storage refuses the listing.
        StorageError: it fails or does not answer.
    """
    paths = list(paths)
    starts = [os.path.abspath(path) for path in paths if not is_address(path)]
    search = _Search(walk, roots, starts, archives=archives)
    for start in starts:
        yield from search.look_below(start)
    if addresses := [spell_address(path) for path in paths if is_address(path)]:
        yield from find_objects(addresses, walk.skipped, roots, archives=archives)


class _Search:
    """State of one walk over all paths of a run."""

    def __init__(self, walk: Walk, roots: Sequence[Path], starts: Iterable[str], *, archives: bool) -> None:
        self._skipped = walk.skipped
        self._archives = archives
        self._roots = roots
        # `score night night/ward-1` names some scans twice. Since a folder is listed only once, its entries can recur
        # only as starts, so the walk need not remember every path of a large night.
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
            found: Iterable[FoundScan]
            try:
                found, is_folder = self._look_at(path)
                if is_folder:
                    self._seen_paths.add(path)
                    pending.append(self._list_folder(path))
            except OSError as error:
                found = [FoundScan(path, 0, _explain(error))]
            yield from found

    def _look_at(self, path: str) -> tuple[Iterable[FoundScan], bool]:
        """Return (rows, whether it is a folder); a folder or a skipped entry has no row."""
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            if find_root(os.path.realpath(path), self._roots) is None:
                return [FoundScan(path, 0, Reason.OUTSIDE_ROOTS)], False
            status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return (), True
        if not stat.S_ISREG(status.st_mode):
            self._skipped[Skip.SPECIAL] += 1
            return (), False
        head, found = _read_head(path), FoundScan(path, status.st_size, modified_ns=status.st_mtime_ns)
        if self._archives and can_list(path, head):
            open_source = lambda: FileSource(open_file(path, self._roots))  # noqa: E731  # it is asked for with care
            return find_members(found, open_source, self._skipped, os.path.lexists), False
        skip = find_skip_reason(path, head)
        if skip is not None:
            self._skipped[skip] += 1
            return (), False
        return [found], False

    def _list_folder(self, path: str) -> Iterator[str]:
        """Return the paths of a folder's entries, sorted by name; empty if it was listed before."""
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in self._seen_folders:
            self._skipped[Skip.LINK_LOOP] += 1
            return iter(())
        names = os.listdir(path)
        self._seen_folders.add((status.st_dev, status.st_ino))
        shown = sorted(name for name in names if not name.startswith("."))
        if len(shown) < len(names):
            self._skipped[Skip.HIDDEN] += len(names) - len(shown)
        return (os.path.join(path, name) for name in shown)  # lazy: a folder may have a million entries


def _read_head(path: str) -> bytes:
    descriptor = os.open(
        path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    )  # non-blocking: a FIFO swapped in does not hang
    try:
        return os.read(descriptor, SNIFF_BYTES)
    finally:
        os.close(descriptor)


def _explain(error: OSError) -> Reason:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Reason.PERMISSION_DENIED
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:  # deleted since it was listed, or a dangling link
        return Reason.MISSING_FILE
    if error.errno == errno.ENAMETOOLONG:
        return Reason.PATH_TOO_LONG
    if error.errno == errno.ELOOP:  # a link to itself
        return Reason.NOT_A_FILE
    return Reason.STORAGE_ERROR
