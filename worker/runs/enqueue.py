"""Enqueue, retry and cancel runs: what `nightread enqueue`, `retry` and `cancel` do, for callers in Python.

Each commits first and publishes afterwards: a message that is lost is sent again, a row that is lost is not.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy import Engine

import db.cancellation
import db.runs
from db.engine import reading, write
from db.owner import Owner
from db.runs import NewRun, NewScan, RunInfo, create_run, find_run
from db.tables import REASON_TEXT_LENGTH, RUN_NAME_LENGTH
from db.types import ScanStatus
from nightread.failpoints import Point, failpoint
from nightread.machine import read_start
from nightread.model.bundle import Bundle
from nightread.reasons import Reason
from nightread.scan.files import encode_path, find_root
from nightread.scan.walk import FoundScan, Walk, find_scans
from nightread.settings import Settings, check_shared_broker
from worker.errors import NothingToScore, WrongPaths
from worker.registry.choose import choose_bundle, describe_model

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


def enqueue_run(
    engine: Engine,
    settings: Settings,
    paths: Sequence[Path],
    *,
    name: str | None = None,
    on_commit: Callable[[Enqueued], object] = lambda _: None,
) -> Enqueued:
    """Create a run for workers over everything below `paths`, and publish its first jobs.

    Args:
        engine: the database, its schema checked.
        settings: model, roots, job size and broker.
        paths: files and folders.
        name: for people; the first path's own name where None.
        on_commit: called with the run once it is committed; from then on it is safe, whatever becomes of the broker.

    Raises:
        SettingsError: the broker lives in one process, so no worker would see the run.
        WrongPaths: a path is missing, or outside the roots.
        NothingToScore: there is no scan below the paths.
        ModelError: the model's bundle is missing, damaged or another than the database knows.
        WrongStage: the model is retired.
        DatabaseError: nothing was written.
        BrokerUnavailable: the run is written, and published by the next sweep.
    """
    check_shared_broker(settings, "enqueue")
    bundle = choose_bundle(engine, settings).bundle
    enqueued = write_run(engine, settings, bundle, paths, name=name, embedded=False)
    on_commit(enqueued)
    _publish_due(engine, settings)
    return enqueued


def retry_run(engine: Engine, settings: Settings, reference: str | None) -> tuple[RunInfo, int]:
    """Queue a run's failed scans again for workers, and publish its first jobs.

    `worker.runs.embedded.retry_here` does the same for a run that this process scores.

    Args:
        engine: the database, its schema checked.
        settings: job size and broker.
        reference: the run's id, a unique prefix of it, or its name; None: the newest run.

    Returns:
        The run as it was, and how many scans are queued again.

    Raises:
        UnknownRun: there is no such run.
        BrokerUnavailable: the jobs are written, and published by the next sweep.
    """
    with reading(engine) as connection:
        run = find_run(connection, reference)
    if queued := requeue_failed(engine, settings, run, embedded=False):
        _publish_due(engine, settings)
    return run, queued


def cancel_run(engine: Engine, reference: str | None) -> tuple[RunInfo, int]:
    """End a run at once: its open scans become `failed` with the reason `cancelled`; the others stay as they are.

    Args:
        engine: the database, its schema checked.
        reference: the run's id, a unique prefix of it, or its name; None: the newest run.

    Returns:
        The run as it was, and how many of its scans were still open; `retry_run` queues them again.

    Raises:
        UnknownRun: there is no such run.
    """
    with reading(engine) as connection:
        run = find_run(connection, reference)
    code, text = Reason.CANCELLED.value, "the run was cancelled before this scan"
    return run, db.cancellation.cancel_run(engine, run.id, code, text)


def requeue_failed(engine: Engine, settings: Settings, run: RunInfo, *, embedded: bool) -> int:
    """Write new jobs for a run's failed scans and return how many scans they have; publishes nothing.

    Args:
        engine: the database.
        settings: job size.
        run: the run.
        embedded: whether this process alone will work on it.
    """
    described = describe_settings(settings) | {
        "gate": run.settings.get("gate", True),
        "archives": run.settings.get("archives", False),
    }
    queued = write(
        engine,
        lambda connection: db.runs.retry_run(
            connection,
            run.id,
            settings.job_size,
            embedded=embedded,
            settings=described,
            owner=describe_owner() if embedded else None,
        ),
    )
    failpoint(Point.RETRY_AFTER_COMMIT)
    return queued


def _publish_due(engine: Engine, settings: Settings) -> None:
    from worker.queue.celery_app import make_app  # `score` writes runs too, and has no broker
    from worker.queue.publisher import Publisher

    Publisher(make_app(settings), settings).publish_due(engine)


def write_run(
    engine: Engine, settings: Settings, bundle: Bundle, paths: Sequence[Path], *, name: str | None, embedded: bool
) -> Enqueued:
    """Write a run over everything below `paths`, its scans and its jobs in one transaction; publishes nothing.

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
    listed = find_scans(sources, walk, roots=settings.scan_roots or sources, archives=settings.archives)
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
        "archives": settings.archives,
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
    text = scan.text[:REASON_TEXT_LENGTH] or _LISTING_TEXTS[scan.reason]
    return NewScan(path, scan.size_bytes, status, scan.reason.value, text)


def _to_fields(scan: NewScan) -> tuple[str | int | None, ...]:
    if scan.status is ScanStatus.QUEUED:
        return scan.path, scan.size_bytes
    return scan.path, scan.size_bytes, scan.status.value, scan.reason_code, scan.reason_text


def _read_reason(status: str, code: str, text: str) -> tuple[ScanStatus, str, str]:
    return ScanStatus(status), code, text
