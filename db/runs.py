"""Runs: create, find, list, close and retry."""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, repeat
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, func, insert, select, update

from db.bulk import copy_in, write_time
from db.dialects import built_once
from db.engine import read_clock
from db.owner import Owner, make_owner_columns, read_owner
from db.partitions import begin_month
from db.registry import NewModel, refuse_retired, register_model
from db.tables import RUN_NAME_LENGTH, jobs, models, runs, scans
from db.tallies import begin_tally, change_tally
from db.types import JobStatus, Priority, RunStatus, ScanStatus, database_now
from nightread.errors import UnknownRun
from nightread.failpoints import Point, failpoint

_SCAN_COLUMNS = (
    "run_id", "job_id", "path", "size_bytes", "modified_ns", "status", "reason_code", "reason_text", "attempts",
    "reused", "created_at", "finished_at",
)  # fmt: skip

_SMALLEST_JOB = 16  # in scans; below it the overhead dominates
_LAST_JOBS = 3  # a job holds at most 1/3 of the remaining scans, so that jobs get smaller towards the end


@dataclass(frozen=True, slots=True)
class NewScan:
    """One file of a new run.

    Attributes:
        path: absolute path, encoded by `nightread.scan.files.encode_path`.
        size_bytes: size when the folder was listed.
        status: `queued`, or `rejected` or `failed` if listing already found a reason.
        reason_code: set if terminal, like `reason_text`.
        modified_ns: when it was last written, in ns since 1970; None if unknown.
        is_unsettled: whether it may still be written; such scans get jobs of their own, which wait.
    """

    path: str
    size_bytes: int
    status: ScanStatus = ScanStatus.QUEUED
    reason_code: str | None = None
    reason_text: str | None = None
    modified_ns: int | None = None
    is_unsettled: bool = False


@dataclass(frozen=True, slots=True)
class NewRun:
    """A request for a run.

    Attributes:
        owner: process of an embedded run.
        id: a request that is repeated after a lost connection creates one run.
        priority: whose jobs go first.
        key: idempotency key: a request that is repeated with it gets the run that exists.
        schedule: name of the schedule that makes it, for its `night`.
        guards: limits by which it is judged when it ends; None: it is not judged.
        settle_s: seconds that jobs of unsettled files wait first.
    """

    name: str
    model: NewModel
    sources: list[str]
    settings: dict[str, Any]
    embedded: bool
    skipped: dict[str, int]
    job_size: int
    owner: Owner | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    priority: Priority = Priority.NORMAL
    key: str | None = None
    schedule: str | None = None
    night: str | None = None
    guards: dict[str, Any] | None = None
    settle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run with its model's name; a row of the table `runs`.

    Attributes:
        found: scans that it holds.
        owner: of an embedded run, if known.
        guard: `passed`, or the code of the guard that tripped; None: not judged.
        pruned: scans that it held before and that `prune` deleted.
    """

    id: str
    name: str
    model: str
    model_digest: str
    preprocessing: str
    sources: list[str]
    settings: dict[str, Any]
    embedded: bool
    skipped: dict[str, int]
    found: int
    status: RunStatus
    created_at: datetime
    finished_at: datetime | None
    owner: Owner | None = None
    priority: Priority = Priority.NORMAL
    key: str | None = None
    schedule: str | None = None
    night: str | None = None
    guards: dict[str, Any] | None = None
    guard: str | None = None
    guard_text: str | None = None
    notified_at: datetime | None = None
    pruned: int = 0


def create_run(connection: Connection, run: NewRun, found: Iterable[NewScan]) -> str:
    """Insert a run, its scans and its jobs, and return its id; the caller commits, then publishes.

    Args:
        connection: in a transaction.
        run: the request.
        found: its scans, in the order in which they are assigned to jobs; iterated twice.

    Raises:
        DatabaseError: the model's name and version are stored with another digest.
        WrongStage: the model is retired.
    """
    if connection.execute(select(runs.c.id).where(runs.c.id == run.id)).scalar() is not None:
        return run.id  # committed before, but the database's answer was lost
    register_model(connection, run.model)
    refuse_retired(connection, run.model.digest)
    by_status = Counter((scan.status.value, scan.reason_code or "") for scan in found)
    found_count = by_status.total()
    queued = by_status.pop((ScanStatus.QUEUED.value, ""), 0)
    unsettled = sum(scan.is_unsettled for scan in found) if run.settle_s else 0
    connection.execute(
        insert(runs).values(
            id=run.id, name=run.name, model_digest=run.model.digest, sources=run.sources, settings=run.settings,
            embedded=run.embedded, skipped=run.skipped, found=found_count, created_at=database_now(),
            status=RunStatus.QUEUED if queued else RunStatus.FINISHED,
            finished_at=None if queued else database_now(), priority=run.priority, key=run.key,
            schedule=run.schedule, night=run.night, guards=run.guards, **make_owner_columns(run.owner),
        )
    )  # fmt: skip
    now = read_clock(connection)
    begin_month(connection, now)
    created_at = write_time(connection, now)
    later = write_time(connection, now + timedelta(seconds=run.settle_s))
    dealt: list[Iterator[str]] = []
    for scan_count, not_before in ((queued - unsettled, None), (unsettled, later)):
        sizes = list(divide_into_jobs(scan_count, run.job_size))
        job_ids = sorted(uuid.uuid4().hex for _ in sizes)  # sorted: jobs are published in the order of their ids
        stored = {"created_at": created_at, "not_before": not_before}
        new_jobs = ({**new_job(job_id, run.id, now), **stored} for job_id in job_ids)
        copy_in(connection, jobs, [*new_job("", "", now), "not_before"], (tuple(job.values()) for job in new_jobs))
        dealt.append(chain.from_iterable(map(repeat, job_ids, sizes)))
    failpoint(Point.ENQUEUE_IN_TRANSACTION)
    copy_in(connection, scans, _SCAN_COLUMNS, _make_scan_rows(found, run, dealt, created_at))
    begin_tally(connection, run.id, found_count, by_status)
    failpoint(Point.ENQUEUE_BEFORE_COMMIT)
    return run.id


def divide_into_jobs(scans: int, most: int) -> Iterator[int]:
    """Yield the job sizes of a run: one job if `most` scans suffice, else jobs that get smaller towards the end.

    Smaller last jobs let all workers finish at about the same time.
    """
    smallest = _SMALLEST_JOB if scans > most else scans
    while scans:
        size = min(most, max(smallest, scans // _LAST_JOBS), scans)
        yield size
        scans -= size


def new_job(job_id: str, run_id: str, now: datetime, *, crashes: int = 0) -> dict[str, Any]:
    """Return the row of a new job."""
    return {
        "id": job_id, "run_id": run_id, "status": JobStatus.QUEUED, "attempts": 0, "crashes": crashes,
        "lease_token": 0, "created_at": now,
    }  # fmt: skip


def find_run(connection: Connection, reference: str | None) -> RunInfo:
    """Return a run by id, by a unique prefix of it, by name or by schedule (the newest of it); None for the newest run.

    Raises:
        UnknownRun: no run matches, or the prefix matches several.
    """
    query = _select_runs().limit(2)
    if reference == "":
        raise UnknownRun("the name of the run is empty; leave it out for the newest run")
    if reference is None:
        rows = connection.execute(query).all()
        if not rows:
            raise UnknownRun("there is no run yet: start one with `nightread score FOLDER`")
        return _to_info(rows[0])
    # The full id comes first, so that workers find their run even if another run has that id as its name.
    row = connection.execute(_select_run(connection), {"of_run": reference}).first()
    for column in (runs.c.name, runs.c.schedule):
        if row is None:
            row = connection.execute(query.where(column == reference[:RUN_NAME_LENGTH])).first()
    if row is not None:
        return _to_info(row)
    rows = connection.execute(query.where(runs.c.id.startswith(reference.lower(), autoescape=True))).all()
    if len(rows) == 1:
        return _to_info(rows[0])
    if rows:
        raise UnknownRun(f"several runs begin with {reference!r}: give more of the id (`nightread runs` lists them)")
    raise UnknownRun(f"there is no run {reference!r}: `nightread runs` lists them")


def find_run_of_key(connection: Connection, key: str) -> RunInfo | None:
    """Return the run that has this idempotency key."""
    row = connection.execute(_select_runs().where(runs.c.key == key)).first()
    return None if row is None else _to_info(row)


def list_runs(
    connection: Connection,
    limit: int,
    *,
    after: str | None = None,
    name: str | None = None,
    since: datetime | None = None,
    statuses: Sequence[RunStatus] = (),
    model: str | None = None,
) -> list[RunInfo]:
    """Return up to `limit` runs, newest first: all, those with `name` in any case, of the `model` NAME@VERSION..."""
    query = _select_runs().limit(limit)
    if name is not None:
        query = query.where(runs.c.name.icontains(name, autoescape=True))
    if since is not None:
        query = query.where(runs.c.created_at >= since)
    if statuses:
        query = query.where(runs.c.status.in_(statuses))
    if model is not None:
        query = query.where(models.c.name + "@" + models.c.version == model)
    if after is not None:
        created_at = select(runs.c.created_at).where(runs.c.id == after).scalar_subquery()
        is_of_then = runs.c.created_at == created_at
        query = query.where((runs.c.created_at < created_at) | (is_of_then & (runs.c.id > after)))
    return [_to_info(row) for row in connection.execute(query)]


def close_finished_runs(connection: Connection) -> int:
    """Close every run without open jobs; returns their number.

    Call it after a job's commit, in a transaction of its own: two transactions that end the last two jobs of a run do
    not see each other's end, but a later one sees both.
    """
    candidates = connection.execute(_lock_ended_runs(connection)).scalars().all()
    if not candidates:
        return 0
    failpoint(Point.SWEEP_IN_CLOSING)
    # Checked again under the lock: a retry that held it may have added jobs that the first query did not see.
    return connection.execute(
        update(runs)
        .where(runs.c.id.in_(candidates), _has_ended())
        .values(status=RunStatus.FINISHED, finished_at=database_now())
    ).rowcount


def has_open_jobs(connection: Connection, run_id: str) -> bool:
    """Return whether a run has a job that is not done."""
    return bool(connection.execute(_select_open_job(connection), {"of_run": run_id}).scalar())


@built_once
def _select_open_job(_: str) -> Select[bool]:
    return select(_open_job_of(bindparam("of_run")))


def _has_ended() -> ColumnElement[bool]:
    return is_open() & ~_open_job_of(runs.c.id)


def is_open() -> ColumnElement[bool]:
    """Match the runs that have not ended."""
    return runs.c.status.in_([RunStatus.QUEUED, RunStatus.RUNNING])


def _open_job_of(run_id: ColumnElement[str]) -> ColumnElement[bool]:
    return select(jobs.c.id).where(jobs.c.run_id == run_id, jobs.c.status != JobStatus.DONE).exists()


@built_once
def _lock_ended_runs(_: str) -> Select[str]:
    return select(runs.c.id).where(_has_ended()).order_by(runs.c.id).with_for_update(key_share=True)


def retry_run(
    connection: Connection,
    run_id: str,
    job_size: int,
    *,
    embedded: bool,
    settings: dict[str, Any],
    owner: Owner | None = None,
) -> int:
    """Queue a run's failed scans again, as new jobs; returns their number.

    Safe while the run is in progress: scans with another status are not touched. Scans of jobs that crashed a worker
    get jobs of their own, which begin with one crash and so are isolated early.
    """
    lock_run(connection, run_id)
    failed = connection.execute(
        select(scans.c.id, func.coalesce(jobs.c.crashes, 0) > 0, scans.c.reason_code)
        .outerjoin(jobs, jobs.c.id == scans.c.job_id)
        .where(scans.c.run_id == run_id, scans.c.status == ScanStatus.FAILED)
        .order_by(scans.c.id)
    ).all()
    if not failed:
        return 0
    now = read_clock(connection)
    for crashes in (0, 1):
        ids = [scan_id for scan_id, has_crashed, _ in failed if has_crashed == bool(crashes)]
        for start in range(0, len(ids), job_size):
            job_id = uuid.uuid4().hex
            connection.execute(insert(jobs), [new_job(job_id, run_id, now, crashes=crashes)])
            connection.execute(
                update(scans)
                .where(scans.c.id.in_(ids[start : start + job_size]))
                .values(status=ScanStatus.QUEUED, reason_code=None, reason_text=None, finished_at=None, job_id=job_id)
            )
            failpoint(Point.RETRY_IN_TRANSACTION)
    connection.execute(
        update(runs)
        .where(runs.c.id == run_id)
        .values(
            status=RunStatus.QUEUED, finished_at=None, guard=None, guard_text=None, notified_at=None, counted_at=None,
            sending=None, sending_not_before=None, embedded=embedded, settings=settings, **make_owner_columns(owner),
        )
    )  # fmt: skip
    reasons = Counter((ScanStatus.FAILED.value, reason_code) for _, _, reason_code in failed)
    change_tally(connection, run_id, {reason: -count for reason, count in reasons.items()})
    return len(failed)


def lock_run(connection: Connection, run_id: str) -> None:
    """Serialise closing, cancelling and retrying a run until the transaction ends."""
    connection.execute(select(runs.c.id).where(runs.c.id == run_id).with_for_update(key_share=True))


def find_open_embedded_runs(connection: Connection) -> list[RunInfo]:
    """Return the embedded runs that have not ended, whether or not their process is alive."""
    return [_to_info(row) for row in connection.execute(_select_runs().where(runs.c.embedded, is_open()))]


def _make_scan_rows(
    found: Iterable[NewScan], run: NewRun, dealt: Sequence[Iterator[str]], created_at: str
) -> Iterator[tuple[str | int | bool | None, ...]]:
    """Yield the rows of a new run's scans, with the columns of `_SCAN_COLUMNS`.

    Args:
        found: the scans.
        run: their run.
        dealt: for each queued scan the id of its job; first of settled ones, then of unsettled ones.
        created_at: as stored.
    """
    for scan in found:
        is_queued = scan.status is ScanStatus.QUEUED
        job_ids = dealt[bool(scan.is_unsettled and run.settle_s)]
        yield (
            run.id, next(job_ids) if is_queued else None, scan.path, scan.size_bytes, scan.modified_ns,
            scan.status.value, scan.reason_code, scan.reason_text, 0, False, created_at,
            None if is_queued else created_at,
        )  # fmt: skip


@built_once
def _select_run(_: str) -> Select[Any]:
    return _select_runs().where(runs.c.id == bindparam("of_run"))


def _select_runs() -> Select[Any]:
    return (
        select(runs, models.c.name.label("model_name"), models.c.version, models.c.preprocessing)
        .join(models, models.c.digest == runs.c.model_digest)
        .order_by(runs.c.created_at.desc(), runs.c.id)
    )


def _to_info(row: Row[Any]) -> RunInfo:
    return RunInfo(
        id=row.id, name=row.name, model=f"{row.model_name}@{row.version}", model_digest=row.model_digest,
        preprocessing=row.preprocessing, sources=row.sources, settings=row.settings, embedded=row.embedded,
        skipped=row.skipped, found=row.found, status=row.status, created_at=row.created_at,
        finished_at=row.finished_at, owner=read_owner(row), priority=row.priority, key=row.key, schedule=row.schedule,
        night=row.night, guards=row.guards, guard=row.guard, guard_text=row.guard_text, notified_at=row.notified_at,
        pruned=row.pruned or 0,
    )  # fmt: skip
