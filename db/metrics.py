"""Metrics of the whole ledger, for monitoring: each is one small query, and none reads scans.

Counts are those of the tables at this moment: `prune` lowers them, so all metrics are gauges.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, func, or_, select

from db.deliveries import deliveries
from db.due_jobs import count_leases, count_waiting_jobs, has_expired_lease, is_due
from db.engine import read_clock
from db.pace import count_recent
from db.registry import find_production
from db.schema import find_version
from db.tables import STAGES, jobs, runs, scans, schedule_nights, schedules, tallies
from db.tallies import FOUND, REUSED
from db.types import DeliveryStatus, JobStatus, NightStatus, RunStatus, ScanStatus, UtcDateTime, database_now

#: The rate is that of jobs that ended in this time, in seconds.
RATE_WINDOW_S: Final = 300


@dataclass(slots=True)
class Metric:
    """One metric with its samples.

    Attributes:
        name: without the prefix `nightread_`; ends in its unit.
        help: what it measures.
        labels: names of its labels.
        samples: values of the labels, and the value.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def add(self, value: float | None, *labels: str) -> None:
        """Add a sample, unless its value is unknown."""
        if value is not None:
            self.samples.append((labels, float(value)))


def read_metrics(connection: Connection) -> list[Metric]:
    """Return all metrics.

    Args:
        connection: for reading; all metrics are those of one snapshot.
    """
    return [
        *_read_scans(connection), *_read_jobs(connection), *_read_runs(connection), *_read_schedules(connection),
        *_read_deliveries(connection), *_read_registry(connection),
    ]  # fmt: skip


def _read_scans(connection: Connection) -> Iterator[Metric]:
    by_status = Metric("scans", "Scans of all stored runs by status and reason code.", ("status", "reason"))
    reused = Metric("scans_reused", "Scored scans whose score was stored before.")
    counts: dict[tuple[str, str], int] = dict.fromkeys(((status.value, "") for status in ScanStatus), 0)
    sums = select(tallies.c.kind, tallies.c.name, func.sum(tallies.c["count"])).group_by(tallies.c.kind, tallies.c.name)
    found = 0
    for kind, name, count in connection.execute(sums):
        if kind == FOUND:
            found = int(count)
        elif kind in list(ScanStatus):
            counts[kind, name] = int(count)
    reuses = counts.pop((ScanStatus.SCORED.value, REUSED), 0)
    counts[ScanStatus.SCORED.value, ""] += reuses
    counts[ScanStatus.QUEUED.value, ""] = found - sum(counts.values())
    for status, reason, is_reused, count in _count_untallied(connection):
        counts[status.value, reason or ""] = counts.get((status.value, reason or ""), 0) + count
        reuses += count if is_reused else 0
    for (name, reason), count in sorted(counts.items()):
        if count or not reason:
            by_status.add(count, name, reason)
    reused.add(reuses)
    yield by_status
    yield reused


def _count_untallied(connection: Connection) -> Sequence[Any]:
    """Count the scans of runs of older releases, which have no tally, by status, reason and reuse."""
    has_tally = select(tallies.c.run_id).where(tallies.c.run_id == runs.c.id, tallies.c.kind == FOUND).exists()
    without = connection.execute(select(runs.c.id).where(~has_tally)).scalars().all()
    if not without:
        return ()
    kinds = (scans.c.status, scans.c.reason_code, scans.c.reused)
    return connection.execute(select(*kinds, func.count()).where(scans.c.run_id.in_(without)).group_by(*kinds)).all()


def _read_jobs(connection: Connection) -> Iterator[Metric]:
    waiting = count_waiting_jobs(connection)
    open_jobs = Metric("jobs", "Open jobs by state: due, backoff, leased or expired.", ("state",))
    states = {
        "due": is_due(),
        "backoff": and_(jobs.c.status == JobStatus.QUEUED, jobs.c.not_before > database_now()),
        "leased": and_(jobs.c.status == JobStatus.LEASED, jobs.c.lease_expires_at >= database_now()),
        "expired": has_expired_lease(),
    }
    for state, where in states.items():
        # `status <> 'done'` chooses the partial index.
        query = select(func.count()).select_from(jobs).where(jobs.c.status != JobStatus.DONE, where)
        open_jobs.add(connection.execute(query).scalar_one(), state)
    yield open_jobs
    due = Metric("jobs_due", "Jobs that a worker could take now, without those of embedded runs.")
    due.add(waiting.jobs)
    yield due
    oldest = Metric("oldest_due_job_seconds", "Waiting time of the oldest due job; 0 if none waits.")
    oldest.add(waiting.longest_s)
    yield oldest
    workers = Metric("workers", "Worker processes that hold a lease.")
    workers.add(count_leases(connection))
    yield workers
    names = ("attempts", "crashes", "batches", "batched_scans", *(f"{stage}_s" for stage in STAGES))
    sums = connection.execute(select(*(func.coalesce(func.sum(jobs.c[name]), 0).label(name) for name in names))).one()
    for name, what in (("attempts", "attempts"), ("crashes", "crashes"), ("batches", "calls of the model")):
        metric = Metric(f"job_{name}", f"Sum of the {what} of all stored jobs.")
        metric.add(getattr(sums, name))
        yield metric
    batched = Metric(
        "job_batched_scans", "Scans in the calls of the model; divided by the calls, their mean batch size."
    )
    batched.add(sums.batched_scans)
    yield batched
    stages = Metric("job_stage_seconds", "Seconds of all stored jobs in each stage, of all threads.", ("stage",))
    for stage in STAGES:
        stages.add(getattr(sums, f"{stage}_s"), stage)
    yield stages
    rate = Metric("scans_per_second", f"Rate of the scans that became terminal in the last {RATE_WINDOW_S} s.")
    rate.add(count_recent(connection, RATE_WINDOW_S) / RATE_WINDOW_S)
    yield rate


def _read_runs(connection: Connection) -> Iterator[Metric]:
    by_status = Metric(
        "runs", "Stored runs by status and guard; guard is empty if it was not judged.", ("status", "guard")
    )
    query = select(runs.c.status, runs.c.guard, func.count()).group_by(runs.c.status, runs.c.guard)
    found = {(status.value, ""): 0 for status in RunStatus}
    found |= {(status.value, guard or ""): count for status, guard, count in connection.execute(query)}
    for (status, guard), count in sorted(found.items()):
        by_status.add(count, status, guard)
    yield by_status
    created = Metric("last_run_created_timestamp_seconds", "Creation of the newest run, in seconds since 1970.")
    created.add(_to_timestamp(connection, select(func.max(runs.c.created_at, type_=UtcDateTime()))))
    yield created
    finished = Metric("last_run_finished_timestamp_seconds", "End of the last finished run, in seconds since 1970.")
    of_finished = runs.c.status == RunStatus.FINISHED
    finished.add(
        _to_timestamp(connection, select(func.max(runs.c.finished_at, type_=UtcDateTime())).where(of_finished))
    )
    yield finished
    clock = Metric("database_time_seconds", "The database's clock, in seconds since 1970.")
    clock.add(read_clock(connection).timestamp())
    yield clock


def _read_schedules(connection: Connection) -> Iterator[Metric]:
    nights = Metric("schedule_nights", "Nights of each schedule by status.", ("schedule", "status"))
    query = select(schedule_nights.c.schedule, schedule_nights.c.status, func.count())
    for schedule, status, count in connection.execute(
        query.group_by(schedule_nights.c.schedule, schedule_nights.c.status)
    ):
        nights.add(count, schedule, status.value)
    yield nights
    success = Metric(
        "schedule_last_success_timestamp_seconds",
        "End of the last run of a schedule that finished and tripped no guard, in seconds since 1970; 0 if none did.",
        ("schedule",),
    )
    # A night without a scan is no success: its status is `empty`, and it has no run.
    good = and_(
        runs.c.id == schedule_nights.c.run_id,
        runs.c.status == RunStatus.FINISHED,
        or_(runs.c.guard.is_(None), runs.c.guard == "passed"),
        schedule_nights.c.status == NightStatus.STARTED,
    )
    ends = (
        select(schedules.c.name, func.max(runs.c.finished_at, type_=UtcDateTime()))
        .select_from(
            schedules.outerjoin(schedule_nights, schedule_nights.c.schedule == schedules.c.name).outerjoin(runs, good)
        )
        .group_by(schedules.c.name)
    )
    for name, ended_at in connection.execute(ends):
        success.add(ended_at.timestamp() if ended_at else 0.0, name)
    yield success


def _read_deliveries(connection: Connection) -> Iterator[Metric]:
    unsent = Metric("unsent_deliveries", "Objects that a destination has not got: waiting or dead.", ("status",))
    query = select(deliveries.c.status, func.count()).where(deliveries.c.status != DeliveryStatus.SENT)
    counts = {row[0]: int(row[1]) for row in connection.execute(query.group_by(deliveries.c.status))}
    for status in (DeliveryStatus.WAITING, DeliveryStatus.DEAD):
        unsent.add(counts.get(status, 0), status.value)
    yield unsent


def _read_registry(connection: Connection) -> Iterator[Metric]:
    production = Metric("production_model_info", "The model in production; its value is 1.", ("model", "digest"))
    model = find_production(connection)
    if model is not None:
        production.add(1, f"{model.name}@{model.version}", model.digest)
    yield production
    schema = Metric("schema_info", "Revision of the database's schema; its value is 1.", ("revision",))
    version = find_version(connection)
    if version is not None:
        schema.add(1, version.revision)
    yield schema


def _to_timestamp(connection: Connection, query: Select[datetime]) -> float | None:
    time = connection.execute(query).scalar()
    return None if time is None else time.timestamp()
