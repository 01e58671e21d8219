"""Intake of a run: the scans below its sources, as rows that are not written yet."""

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine

from db.engine import reading
from db.known_scans import KnownScan, find_known
from db.runs import NewScan
from db.tables import REASON_TEXT_LENGTH
from db.types import ScanStatus
from nightread.errors import ScanError, StorageError
from nightread.reasons import Reason
from nightread.scan.entry import FoundScan, Skip
from nightread.scan.files import encode_path, is_settled, read_file
from nightread.scan.object_address import is_address, spell_address
from nightread.scan.walk import Walk, find_scans
from nightread.settings import Settings
from worker.runs.request import Request

_SCANS_PER_PACK = 5_000
_PATHS_PER_QUERY = 500
#: Largest stored path, in bytes: with the run's id a B-tree of PostgreSQL takes 2,704.
_LONGEST_PATH: Final = 2_500
_KEPT_OF_LONG_PATH: Final = 500

_LISTING_TEXTS = {
    Reason.PERMISSION_DENIED: "no permission to look into it",
    Reason.OUTSIDE_ROOTS: "a link that leads out of the folders that may be read",
    Reason.MISSING_FILE: "gone since the folder was listed, or a link to nothing",
    Reason.NOT_A_FILE: "a link to itself",
    Reason.PATH_TOO_LONG: f"its path has more than {_LONGEST_PATH:,} bytes",
    Reason.STORAGE_ERROR: "reading failed while the folder was listed",
}


class PackedScans:
    """Scans in the order in which they were given; a million takes some ten megabytes, as paths are much alike."""

    def __init__(self, found: Iterable[NewScan]) -> None:
        """Take in all of `found`, going through it once."""
        self._packs: list[bytes] = []
        self._count = 0
        scans = iter(found)
        while part := [_to_fields(scan) for scan in islice(scans, _SCANS_PER_PACK)]:
            self._packs.append(zlib.compress(json.dumps(part).encode(), 1))
            self._count += len(part)

    def __len__(self) -> int:
        """Return how many scans there are."""
        return self._count

    def __iter__(self) -> Iterator[NewScan]:
        """Yield the scans, as often as somebody asks for them."""
        for pack in self._packs:
            for fields in json.loads(zlib.decompress(pack)):
                yield _from_fields(*fields)


@dataclass(frozen=True, slots=True)
class Intake:
    """What the sources of a run hold.

    Attributes:
        found: its scans.
        skipped: entries that become no row, counted by reason.
        empty_sources: places of the folders among several that hold no scan, counted from one.
    """

    found: PackedScans
    skipped: dict[str, int]
    empty_sources: tuple[int, ...] = ()


def take_in(
    engine: Engine,
    settings: Settings,
    model_digest: str,
    sources: Sequence[Path],
    request: Request,
    *,
    listed: Sequence[Path] | None = None,
) -> Intake:
    """List the scans of a new run; reads no content, except of files that `only_new` finds touched.

    Args:
        engine: the database, which knows earlier runs.
        settings: roots and names of folders.
        model_digest: the run's model.
        sources: resolved files and folders, and addresses.
        request: what is asked of the run.
        listed: files and folders below `sources` to look at; None: the sources themselves. One that is missing or
            cannot be read becomes a row.
    """
    walk, counted = Walk(), _SourceCounts(sources)
    roots = settings.scan_roots or tuple(sources)
    entries: Iterable[FoundScan] = counted.count(
        find_scans(listed or sources, walk, roots=roots, archives=settings.archives)
    )
    if request.only_new:
        is_known = partial(_is_known, settings=settings, roots=roots)
        known = partial(_find_known, engine, settings, model_digest)
        entries = _leave_out_known(entries, known, is_known, walk)
    found = PackedScans(_to_new_scan(entry, settings, request.settle_s) for entry in entries)
    skipped = {reason.value: count for reason, count in sorted(walk.skipped.items())}
    return Intake(found, skipped, counted.find_empty() if listed is None else ())


@dataclass(slots=True)
class _SourceCounts:
    """Counts, for each of several folders, whether a scan was found below it."""

    sources: Sequence[Path]
    met: set[str] = field(default_factory=set)

    def count(self, entries: Iterable[FoundScan]) -> Iterator[FoundScan]:
        waiting = {str(source) for source in self.sources} if len(self.sources) > 1 else set()
        for entry in entries:
            if waiting:
                found = waiting & {entry.path, *map(str, Path(entry.path).parents)}
                waiting -= found
                self.met |= found
            yield entry

    def find_empty(self) -> tuple[int, ...]:
        if len(self.sources) < 2:  # a run without any scan has a guard of its own
            return ()
        return tuple(
            place
            for place, source in enumerate(self.sources, 1)
            if str(source) not in self.met and (source.is_dir() or is_address(source))
        )


def _leave_out_known(
    entries: Iterable[FoundScan],
    find: Callable[[Sequence[FoundScan]], Iterable[Sequence[KnownScan]]],
    is_known: Callable[[FoundScan, Sequence[KnownScan]], bool],
    walk: Walk,
) -> Iterator[FoundScan]:
    """Yield the entries that the model has not come across, or that have changed since; count the others."""
    entries = iter(entries)
    while part := list(islice(entries, _PATHS_PER_QUERY)):
        for entry, rows in zip(part, find(part), strict=True):
            if is_known(entry, rows):
                walk.skipped[Skip.ALREADY_SCORED] += 1
            else:
                yield entry


def _find_known(
    engine: Engine, settings: Settings, model_digest: str, part: Sequence[FoundScan]
) -> list[Sequence[KnownScan]]:
    names = [store_path(entry.path, settings) for entry in part]
    with reading(engine) as connection:
        known = find_known(connection, model_digest, names)
    return [known.get(name, ()) for name in names]


def _is_known(entry: FoundScan, rows: Sequence[KnownScan], *, settings: Settings, roots: Sequence[Path]) -> bool:
    if entry.reason is not None:
        return False  # told in each run for as long as it lasts
    # Without the gate a scan that the gate rejected may be scored.
    rows = [row for row in rows if row.status is not ScanStatus.REJECTED or settings.gate]
    if any((row.size_bytes, row.modified_ns) == (entry.size_bytes, entry.modified_ns) for row in rows):
        return True
    if is_address(entry.path):  # its time tells of its ETag: it has changed
        return False
    digests = {row.sha256 for row in rows if row.status is ScanStatus.SCORED}
    if not digests or all(row.size_bytes != entry.size_bytes for row in rows):
        return False
    try:
        data = read_file(entry.path, roots=roots, max_bytes=settings.max_file_bytes)
    except (ScanError, StorageError):
        return False  # a worker tells why
    return hashlib.sha256(data).hexdigest() in digests


def store_path(path: str, settings: Settings) -> str:
    """Return a path of this host as rows hold it; an address is the same on every host."""
    return encode_path(settings.local_paths.to_shared(spell_address(path)))


def _to_new_scan(scan: FoundScan, settings: Settings, settle_s: float) -> NewScan:
    path, reason = store_path(scan.path, settings), scan.reason
    if len(path.encode()) > _LONGEST_PATH:
        digest = hashlib.sha256(path.encode()).hexdigest()
        path, reason = f"{path[:_KEPT_OF_LONG_PATH]}...{digest}", Reason.PATH_TOO_LONG
    if reason is None:
        is_unsettled = not is_settled(scan.modified_ns, settle_s, time.time())
        return NewScan(path, scan.size_bytes, modified_ns=scan.modified_ns, is_unsettled=is_unsettled)
    status = ScanStatus.REJECTED if reason.is_rejection else ScanStatus.FAILED
    text = scan.text[:REASON_TEXT_LENGTH] or _LISTING_TEXTS[reason]
    return NewScan(path, scan.size_bytes, status, reason.value, text)


def _to_fields(scan: NewScan) -> tuple[str | int | bool | None, ...]:
    fields = (scan.path, scan.size_bytes, scan.modified_ns)
    if scan.status is ScanStatus.QUEUED:
        return (*fields, scan.is_unsettled)
    return (*fields, scan.status.value, scan.reason_code, scan.reason_text)


def _from_fields(path: str, size_bytes: int, modified_ns: int | None, *rest: Any) -> NewScan:
    if len(rest) == 1:
        return NewScan(path, size_bytes, modified_ns=modified_ns, is_unsettled=rest[0])
    status, code, text = rest
    return NewScan(path, size_bytes, ScanStatus(status), code, text, modified_ns)
