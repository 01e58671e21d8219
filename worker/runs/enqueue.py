"""From paths to a run: list, write run, scans and jobs in one transaction, then publish."""

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy import Engine

from db.engine import write
from db.runs import NewRun, NewScan, Owner, create_run
from db.tables import RUN_NAME_LENGTH
from db.types import ScanStatus
from nightread.failpoints import Point, failpoint
from nightread.machine import read_start
from nightread.model.bundle import Bundle
from nightread.reasons import Reason
from nightread.scan.files import encode_path, find_root
from nightread.scan.walk import FoundScan, Walk, find_scans
from nightread.settings import Settings
from worker.errors import NothingToScore, WrongPaths
from worker.registry.choose import describe_model

_SCANS_PER_PACK = 5_000


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
            for path, size_bytes, *reason in json.loads(zlib.decompress(pack)):
                yield NewScan(path, size_bytes, *_read_reason(*reason)) if reason else NewScan(path, size_bytes)


_LISTING_TEXTS = {
    Reason.PERMISSION_DENIED: "no permission to look into it",
    Reason.OUTSIDE_ROOTS: "a link that leads out of the folders that may be read",
    Reason.MISSING_FILE: "gone since the folder was listed, or a link to nothing",
    Reason.NOT_A_FILE: "a link to itself",
    Reason.STORAGE_ERROR: "reading failed while the folder was listed",
}


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A run that has been written down."""

    run_id: str
    found: int
    skipped: dict[str, int]


def enqueue(
    engine: Engine, settings: Settings, bundle: Bundle, paths: Sequence[Path], *, name: str | None, embedded: bool
) -> Enqueued:
    """Write a run over everything below `paths` into the database; publishing is the caller's next step.

    Args:
        engine: the database.
        settings: roots and job size.
        bundle: the run's model.
        paths: files and folders.
        name: for people; the first path's own name where None.
        embedded: whether this process alone will work on it.

    Raises:
        WrongPaths: a path is missing, or outside the roots.
        NothingToScore: there is no scan below the paths.
        DatabaseError: nothing was written.
    """
    sources = [resolve_source(path, settings.scan_roots) for path in paths]
    walk = Walk()
    listed = find_scans(sources, walk, roots=settings.scan_roots or sources)
    found = PackedScans(map(_to_new_scan, listed))
    skipped = {reason.value: count for reason, count in sorted(walk.skipped.items())}
    if not len(found):
        passed_over = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        raise NothingToScore(
            f"no scans in {', '.join(map(str, paths))}"
            + (f" (skipped: {passed_over})" if passed_over else "")
            + "; name a folder that holds JPEG, PNG, TIFF or DICOM files"
        )
    run = NewRun(
        name=_clean_name(name or sources[0].name or "/"),
        model=describe_model(bundle),
        sources=[encode_path(source) for source in sources],
        settings=describe_settings(settings),
        embedded=embedded,
        owner=describe_owner() if embedded else None,
        skipped=skipped,
        job_size=settings.job_size,
    )
    run_id = write(engine, lambda connection: create_run(connection, run, found))
    failpoint(Point.ENQUEUE_AFTER_COMMIT)
    return Enqueued(run_id, len(found), skipped)


def describe_settings(settings: Settings) -> dict[str, object]:
    """Return what is stored with a run of the settings that it was started with."""
    return {
        "job_size": settings.job_size,
        "gate": settings.gate,
        "scan_roots": [encode_path(root) for root in settings.scan_roots],
    }


def describe_owner() -> Owner:
    """Return this process, as the owner of an embedded run."""
    return Owner(os.uname().nodename, os.getpid(), read_start(os.getpid()))


def resolve_source(path: Path, roots: Sequence[Path]) -> Path:
    """Return a named path resolved.

    Raises:
        WrongPaths: it is missing or, where there are roots, outside them.
    """
    try:
        resolved = path.expanduser().resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, or an unknown user
        raise WrongPaths(f"there is no {path}: name a file or folder that exists") from None
    if roots and find_root(str(resolved), roots) is None:
        allowed = ", ".join(map(str, roots))
        raise WrongPaths(f"{path} lies outside the folders that may be read, {allowed} (NIGHTREAD_SCAN_ROOTS)")
    return resolved


def _clean_name(name: str) -> str:
    """Return a name that every database can hold: bytes that are no UTF-8 become text."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")[:RUN_NAME_LENGTH]


def _to_new_scan(scan: FoundScan) -> NewScan:
    path = encode_path(scan.path)
    if scan.reason is None:
        return NewScan(path, scan.size_bytes)
    status = ScanStatus.REJECTED if scan.reason.is_rejection else ScanStatus.FAILED
    return NewScan(path, scan.size_bytes, status, scan.reason.value, _LISTING_TEXTS[scan.reason])


def _to_fields(scan: NewScan) -> tuple[str | int | None, ...]:
    if scan.status is ScanStatus.QUEUED:
        return scan.path, scan.size_bytes
    return scan.path, scan.size_bytes, scan.status.value, scan.reason_code, scan.reason_text


def _read_reason(status: str, code: str, text: str) -> tuple[ScanStatus, str, str]:
    return ScanStatus(status), code, text
