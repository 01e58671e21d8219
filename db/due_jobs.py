"""Due jobs and in-flight messages, as the publisher needs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Select, and_, bindparam, case, func, or_, select, update

from db.dialects import built_once
from db.tables import jobs, runs
from db.types import JobStatus, Priority, RunStatus, UtcDateTime, database_now

#: A statement has a parameter for each id: PostgreSQL takes 65,535 of them, SQLite 32,766.
_IDS_PER_UPDATE = 10_000
#: A time further ahead than this was written before the database's clock stepped back; less is a transaction's length.
_AHEAD_S = 60.0
#: The longest lease that NIGHTREAD_LEASE_S allows.
_LONGEST_LEASE_S = 86_400.0


def is_due() -> ColumnElement[bool]:
    """Match queued jobs whose back-off is over."""
    return and_(
        jobs.c.status == JobStatus.QUEUED, or_(jobs.c.not_before.is_(None), jobs.c.not_before <= database_now())
    )


def has_expired_lease() -> ColumnElement[bool]:
    """Match leased jobs whose lease has expired, or ends later than any lease that begins now."""
    ends = jobs.c.lease_expires_at
    return and_(
        jobs.c.status == JobStatus.LEASED,
        or_(ends < database_now(), ends > database_now(_LONGEST_LEASE_S + _AHEAD_S)),
    )


def take_due_jobs(
    connection: Connection,
    limit: int,
    republish_s: float,
    *,
    run_id: str | None = None,
    priority: Priority = Priority.NORMAL,
) -> list[str]:
    """Mark up to `limit` due jobs as published and return their ids; the caller commits, then publishes.

    A job is due if no worker holds it, its back-off is over, and no message was sent for it in the last `republish_s`
    seconds. An older message counts as lost. Several runs of one class take turns, each with its oldest jobs.

    Args:
        connection: in a transaction.
        limit: maximum number of jobs.
        republish_s: seconds until a message counts as lost.
        run_id: only jobs of this run; None for all runs but embedded ones, whose own process publishes their jobs.
        priority: class of the runs.
    """
    if limit <= 0:
        return []
    wanted: dict[str, Any] = {"most": limit, "since_s": -republish_s}
    if run_id is not None:
        run_ids = [run_id]
    else:
        run_ids = list(connection.execute(_select_due_runs(connection), wanted | {"of_class": priority}).scalars())
    taken: list[list[str]] = []
    left = limit
    while run_ids and left > 0:
        share = max(1, left // len(run_ids))
        with_more = []
        for each in run_ids:
            wanted = {"most": min(share, left), "since_s": -republish_s, "of_run": each}
            ids = list(connection.execute(_select_due_of_run(connection), wanted).scalars())
            _set_published(connection, ids, database_now())
            taken.append(ids)
            left -= len(ids)
            if len(ids) == share:
                with_more.append(each)
        run_ids = with_more
    return [job_id for turn in zip_longest(*taken) for job_id in turn if job_id is not None]


@built_once
def _select_due_runs(_: str) -> Select[str]:
    """Select the runs of a class that have a due job without a message, oldest first."""
    job_of_run = select(jobs.c.id).where(jobs.c.run_id == runs.c.id, _is_unsent()).exists()
    return (
        select(runs.c.id)
        .where(
            runs.c.status.in_([RunStatus.QUEUED, RunStatus.RUNNING]),
            ~runs.c.embedded,
            runs.c.priority == bindparam("of_class", type_=runs.c.priority.type),
            job_of_run,
        )
        .order_by(runs.c.created_at, runs.c.id)
        .limit(bindparam("most", type_=Integer()))
    )


@built_once
def _select_due_of_run(_: str) -> Select[str]:
    return (
        select(jobs.c.id)
        .where(jobs.c.run_id == bindparam("of_run"), _is_unsent())
        .order_by(jobs.c.created_at, jobs.c.id)
        .limit(bindparam("most", type_=Integer()))
        .with_for_update(skip_locked=True, of=jobs)
    )


def _is_unsent() -> ColumnElement[bool]:
    """Match due jobs for which no message was sent in the last `since_s` seconds."""
    unsent = or_(jobs.c.published_at.is_(None), jobs.c.published_at < database_now("since_s"), _is_ahead())
    return and_(jobs.c.status != JobStatus.DONE, or_(is_due(), has_expired_lease()), unsent)


def _is_ahead() -> ColumnElement[bool]:
    """Match jobs whose message was sent in the future: the database's clock has stepped back since."""
    return jobs.c.published_at > database_now(_AHEAD_S)


def mark_unpublished(connection: Connection, job_ids: Sequence[str]) -> None:
    """Undo `take_due_jobs` for jobs whose message could not be sent."""
    _set_published(connection, job_ids, None)


def _set_published(connection: Connection, job_ids: Sequence[str], published_at: Any) -> None:
    for first in range(0, len(job_ids), _IDS_PER_UPDATE):
        part = job_ids[first : first + _IDS_PER_UPDATE]
        connection.execute(update(jobs).where(jobs.c.id.in_(part)).values(published_at=published_at))


@dataclass(frozen=True, slots=True)
class Waiting:
    """Number of due jobs, and the waiting time of the oldest in seconds."""

    jobs: int
    longest_s: float


def count_waiting_jobs(
    connection: Connection, *, unpublished_s: float | None = None, priority: Priority | None = None
) -> Waiting:
    """Count the due jobs of all runs but embedded ones.

    Args:
        connection: for reading.
        priority: only of this class; None for all.
        unpublished_s: only jobs for which no message was sent in this many seconds; None for all.
    """
    since = case(
        (jobs.c.status == JobStatus.LEASED, jobs.c.lease_expires_at),
        else_=func.coalesce(jobs.c.not_before, jobs.c.created_at),
    )
    query = (
        select(func.count(), func.min(since, type_=UtcDateTime()), database_now())
        .join(runs, runs.c.id == jobs.c.run_id)
        .where(jobs.c.status != JobStatus.DONE, or_(is_due(), has_expired_lease()), ~runs.c.embedded)
    )
    if unpublished_s is not None:
        sent = jobs.c.published_at
        query = query.where(or_(sent.is_(None), sent < database_now(-unpublished_s), _is_ahead()))
    if priority is not None:
        query = query.where(runs.c.priority == priority)
    count, oldest, now = connection.execute(query).one()
    return Waiting(count, 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds()))


def count_jobs_ahead(connection: Connection) -> int:
    """Count the unfinished jobs that were created, or leased for longer than any lease, in the future."""
    ahead = or_(
        jobs.c.created_at > database_now(_AHEAD_S),
        jobs.c.published_at > database_now(_AHEAD_S),
        jobs.c.lease_expires_at > database_now(_LONGEST_LEASE_S + _AHEAD_S),
    )
    query = select(func.count()).select_from(jobs).where(jobs.c.status != JobStatus.DONE, ahead)
    return int(connection.execute(query).scalar_one())


def find_idle_time(connection: Connection, run_id: str) -> float:
    """Return the seconds since a run was created, ended a job or lost its last lease; below 0 while a lease lives."""
    query = select(
        func.max(jobs.c.lease_expires_at, type_=UtcDateTime()),
        func.max(jobs.c.finished_at, type_=UtcDateTime()),
        select(runs.c.created_at).where(runs.c.id == run_id).scalar_subquery(),
        database_now(),
    ).where(jobs.c.run_id == run_id)
    *times, now = connection.execute(query).one()
    return float((now - max(time for time in times if time is not None)).total_seconds())


def count_leases(connection: Connection, run_id: str | None = None) -> int:
    """Count the workers that hold a live lease, on one run or on any."""
    query = select(func.count(jobs.c.lease_holder.distinct())).where(
        jobs.c.status == JobStatus.LEASED, jobs.c.lease_expires_at >= database_now()
    )
    return int(connection.execute(query.where(jobs.c.run_id == run_id) if run_id else query).scalar_one())


def count_just_published(connection: Connection, within_s: float, priority: Priority) -> int:
    """Count the queued jobs of a class that were marked as published in the last `within_s` seconds.

    Args:
        connection: in a transaction that keeps other publishers out.
        within_s: longer than sending takes.
        priority: class of the runs.
    """
    wanted = {"since_s": -within_s, "of_class": priority}
    return int(connection.execute(_count_published(connection), wanted).scalar_one())


@built_once
def _count_published(_: str) -> Select[int]:
    return (
        select(func.count())
        .select_from(jobs)
        .join(runs, runs.c.id == jobs.c.run_id)
        .where(
            jobs.c.status == JobStatus.QUEUED,
            jobs.c.published_at > database_now("since_s"),
            ~_is_ahead(),
            runs.c.priority == bindparam("of_class", type_=runs.c.priority.type),
        )
    )
