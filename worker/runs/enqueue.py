"""Enqueue, retry and cancel runs: what `nightread enqueue`, `retry` and `cancel` do, for callers in Python.

Each commits first and publishes afterwards: a message that is lost is sent again, a row that is lost is not.
"""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

import db.cancellation
import db.runs
from db.engine import reading, write
from db.owner import Owner
from db.runs import NewRun, RunInfo, create_run, find_run, find_run_of_key
from db.tables import RUN_NAME_LENGTH
from nightread.failpoints import Point, failpoint
from nightread.machine import name_machine, read_start
from nightread.model.bundle import Bundle
from nightread.reasons import Reason
from nightread.scan.entry import Skip
from nightread.scan.files import encode_path, find_root
from nightread.scan.object_address import read_address, spell_address
from nightread.settings import Settings, check_shared_broker
from worker.errors import NothingNew, NothingToScore, WrongKey, WrongPaths
from worker.registry.choose import choose_bundle, describe_model
from worker.runs.guards import judge_run
from worker.runs.intake import Intake, store_path, take_in
from worker.runs.request import Request


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A run that has been written down.

    Attributes:
        run_id: its id.
        found: number of its scans.
        skipped: entries that became no row, counted by reason.
        existed: whether an earlier request with the same key made it.
    """

    run_id: str
    found: int
    skipped: dict[str, int]
    existed: bool = False


def enqueue_run(
    engine: Engine,
    settings: Settings,
    paths: Sequence[Path],
    *,
    name: str | None = None,
    request: Request | None = None,
    listed: Sequence[Path] | None = None,
    on_commit: Callable[[Enqueued], object] = lambda _: None,
) -> Enqueued:
    """Create a run for workers over everything below `paths`, and publish its first jobs.

    Args:
        engine: the database, its schema checked.
        settings: model, roots, job size and broker.
        paths: files and folders.
        name: for people; the first path's own name where None.
        request: key, priority, intake and guards; None: the defaults.
        listed: files and folders below `paths` to look at, instead of the paths themselves.
        on_commit: called with the run once it is committed; from then on it is safe, whatever becomes of the broker.

    Raises:
        SettingsError: the broker lives in one process, so no worker would see the run.
        WrongPaths: a path is missing, or outside the roots.
        NothingToScore: there is no scan below the paths; the run exists, and is marked `empty`.
        NothingNew: all scans are known, and only new ones were asked for; there is no run.
        WrongKey: an earlier run over other paths has the request's key.
        ModelError: the model's bundle is missing, damaged or another than the database knows.
        WrongStage: the model is retired.
        DatabaseError: nothing was written.
        BrokerUnavailable: the run is written, and published by the next sweep.
    """
    check_shared_broker(settings, "enqueue")
    bundle = choose_bundle(engine, settings).bundle
    request = request or Request(name=name)
    enqueued = write_run(engine, settings, bundle, paths, request, embedded=False, listed=listed)
    on_commit(enqueued)
    _publish_due(engine, settings)
    return enqueued


def retry_run(engine: Engine, settings: Settings, reference: str | None) -> tuple[RunInfo, int]:
    """Queue a run's failed scans again for workers, and publish its first jobs.

    `worker.runs.embedded.retry_here` does the same for a run that this process scores.

    Args:
        engine: the database, its schema checked.
        settings: job size and broker.
        reference: the run's id, a unique prefix of it, its name or its schedule's; None: the newest run.

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
        reference: the run's id, a unique prefix of it, its name or its schedule's; None: the newest run.

    Returns:
        The run as it was, and how many of its scans were still open; `retry_run` queues them again. If none was, the
        run as it is now: another process may have ended it meanwhile.

    Raises:
        UnknownRun: there is no such run.
    """
    with reading(engine) as connection:
        run = find_run(connection, reference)
    code, text = Reason.CANCELLED.value, "the run was cancelled before this scan"
    ended = db.cancellation.cancel_run(engine, run.id, code, text)
    if not ended:
        with reading(engine) as connection:
            run = find_run(connection, run.id)
    return run, ended


def requeue_failed(engine: Engine, settings: Settings, run: RunInfo, *, embedded: bool) -> int:
    """Write new jobs for a run's failed scans and return how many scans they have; publishes nothing.

    Args:
        engine: the database.
        settings: job size.
        run: the run.
        embedded: whether this process alone will work on it.
    """
    kept = {name: run.settings[name] for name in ("gate", "archives", "settle_s") if name in run.settings}
    described = describe_settings(settings) | {"gate": True} | kept
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
    engine: Engine,
    settings: Settings,
    bundle: Bundle,
    paths: Sequence[Path],
    request: Request,
    *,
    embedded: bool,
    listed: Sequence[Path] | None = None,
    resume: Callable[[NewRun, Intake], Enqueued | None] = lambda *_: None,
) -> Enqueued:
    """Write a run over everything below `paths`, its scans and its jobs in one transaction; publishes nothing.

    Args:
        engine: the database.
        settings: roots and job size.
        bundle: the run's model.
        paths: files and folders.
        request: what else is asked.
        embedded: whether this process alone will work on it.
        listed: files and folders below `paths` to look at, instead of the paths themselves.
        resume: returns an earlier run that goes on instead of the one that would be written.

    Raises:
        WrongPaths: a path is missing, or outside the roots.
        NothingToScore: there is no scan below the paths; the run exists, and is marked `empty`.
        NothingNew: all scans are known, and only new ones were asked for; there is no run.
        WrongKey: an earlier run over other paths has the request's key.
        DatabaseError: nothing was written.
    """
    sources = _resolve_sources(paths, settings.scan_roots, is_list=listed is not None)
    stored_sources = [store_path(str(source), settings) for source in sources]
    if existing := _find_existing(engine, request, stored_sources):
        return existing
    intake = take_in(engine, settings, bundle.digest, sources, request, listed=listed)
    if not len(intake.found) and request.only_new and intake.skipped.get(Skip.ALREADY_SCORED):
        raise NothingNew(f"nothing new: {intake.skipped[Skip.ALREADY_SCORED]:,} scans were scored before")
    is_empty = not len(intake.found)
    run = NewRun(
        name=_clean_name(request.name or sources[0].name or "/"),
        model=describe_model(bundle),
        sources=stored_sources,
        settings=describe_settings(settings) | ({"settle_s": request.settle_s} if request.settle_s else {}),
        embedded=embedded,
        owner=describe_owner() if embedded else None,
        skipped=intake.skipped,
        job_size=settings.job_size,
        priority=request.priority,
        # An empty folder may be filled later: its run does not keep the key.
        key=None if is_empty and not request.guards.allow_empty else request.key,
        schedule=request.schedule,
        night=request.night,
        guards=replace(request.guards, empty_sources=intake.empty_sources).to_json(),
        settle_s=request.settle_s,
    )
    if resumed := resume(run, intake):
        return resumed
    try:
        run_id = write(engine, lambda connection: create_run(connection, run, intake.found))
    except IntegrityError:  # another process has just made the run of this key
        if existing := _find_existing(engine, request, stored_sources):
            return existing
        raise
    failpoint(Point.ENQUEUE_AFTER_COMMIT)
    if is_empty:
        judge_run(engine, run_id)
        if not request.guards.allow_empty:
            raise NothingToScore(_explain_nothing(paths, intake.skipped))
    return Enqueued(run_id, len(intake.found), intake.skipped)


def _find_existing(engine: Engine, request: Request, sources: list[str]) -> Enqueued | None:
    """Return the run that an earlier request with the same key made.

    Raises:
        WrongKey: it is over other paths.
    """
    if request.key is None:
        return None
    with reading(engine) as connection:
        run = find_run_of_key(connection, request.key)
    if run is None:
        return None
    if run.sources != sources:
        raise WrongKey(
            f"the key {request.key!r} belongs to run {run.id[:8]}, which is over other paths: give each request a key "
            "of its own"
        )
    return Enqueued(run.id, run.found, run.skipped, existed=True)


def _explain_nothing(paths: Sequence[Path], skipped: dict[str, int]) -> str:
    passed_over = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    return (
        f"no scans in {', '.join(map(spell_address, paths))}"
        + (f" (skipped: {passed_over})" if passed_over else "")
        + "; name a folder that holds JPEG, PNG, TIFF or DICOM files, or pass --allow-empty"
    )


def describe_settings(settings: Settings) -> dict[str, object]:
    """Return what is stored with a run of the settings that it was started with."""
    return {
        "job_size": settings.job_size,
        "gate": settings.gate,
        "archives": settings.archives,
        "scan_roots": [encode_path(spell_address(root)) for root in settings.scan_roots],
    }


def describe_owner() -> Owner:
    """Return this process, as the owner of an embedded run."""
    return Owner(name_machine(), os.getpid(), read_start(os.getpid()))


def _resolve_sources(paths: Sequence[Path], roots: Sequence[Path], *, is_list: bool) -> list[Path]:
    """Return the sources of a run resolved; of a list, those that can be: each of its files gets a row in any case."""
    if not paths or isinstance(paths, str | os.PathLike):  # the characters of a text would be paths, "/" among them
        raise WrongPaths("paths must be a list of at least one file or folder")
    sources, faults = [], []
    for path in paths:
        try:
            sources.append(resolve_source(Path(path), roots))
        except WrongPaths as error:
            if not is_list:
                raise
            faults.append(error)
    if not sources:
        raise faults[0]
    return sources


def resolve_source(path: Path, roots: Sequence[Path]) -> Path:
    """Return a named path resolved; an address in object storage as it is, since only its list tells what is there.

    Raises:
        WrongPaths: it is missing, a folder that cannot be listed, an address that is not read, or, where there are
            roots, outside them.
    """
    try:
        address = read_address(path)
    except ValueError as error:
        raise WrongPaths(str(error)) from None
    if address is not None:
        return _check_root(path, path, roots)
    try:
        expanded = path.expanduser()
        _check_root(path, expanded.resolve(), roots)  # first: whoever enqueues learns nothing of what lies outside
        resolved = expanded.resolve(strict=True)
        if resolved.is_dir():
            with os.scandir(resolved) as entries:
                next(entries, None)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise WrongPaths(f"there is no {path}: name a file or folder that exists") from None
        raise WrongPaths(f"{path} cannot be looked into: {error.strerror}; is its share away?") from None
    except (RuntimeError, ValueError):  # a loop of links, or an unknown user; a character that no name can hold
        raise WrongPaths(f"there is no {path}: name a file or folder that exists") from None
    return _check_root(path, resolved, roots)


def _check_root(path: Path, resolved: Path, roots: Sequence[Path]) -> Path:
    if roots and find_root(str(resolved), roots) is None:
        allowed = ", ".join(map(spell_address, roots))
        raise WrongPaths(
            f"{spell_address(path)} lies outside the folders that may be read, {allowed} (NIGHTREAD_SCAN_ROOTS)"
        )
    return resolved


def _clean_name(name: str) -> str:
    """Return a name that every database can hold: bytes that are no UTF-8 become text."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")[:RUN_NAME_LENGTH]
