"""Pace of an open run: its rate in the last minute, its place in the queue, its workers, and the end that follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Select, func, or_, select

from db.engine import read_clock
from db.runs import RunInfo, is_open
from db.tables import jobs, runs, scans
from db.tallies import read_tallies
from db.types import JobStatus, Priority, ScanStatus, UtcDateTime, database_now

#: The rate is that of jobs that ended in this time, in seconds.
PACE_WINDOW_S: Final = 60
_RUNS_LOOKED_AT: Final = 20
_ORDER: Final = tuple(Priority)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a run goes on, and when it may end.

    Attributes:
        rate: scans of this run that became terminal in the last minute, per second.
        place: 1 for the run whose jobs go first; None for an embedded run, which waits in no queue.
        runs: open runs in that queue, this one included.
        before: open scans of the runs before it.
        left_s: seconds to its end, if the rates stay as they are; None: nothing was scored in the last minute.
        ends_at: the end by the database's clock.
        workers: names of the workers that hold a lease on it.
        waiting: open scans whose next try is put off: after a fault that may pass, or until their files have settled.
        next_try_at: when the first of them is tried, by the database's clock; None where there are none.
    """

    rate: float
    place: int | None
    runs: int
    before: int
    left_s: float | None
    ends_at: datetime | None
    workers: list[str]
    waiting: int
    next_try_at: datetime | None


def find_pace(connection: Connection, run: RunInfo) -> Pace:
    """Return the pace of an open run.

    Runs of a class share the workers, and lower classes get a third of them: the estimate for a run that no worker has
    begun is the time for all that goes before it.
    """
    now = read_clock(connection)
    order = _list_queue(connection)
    place = order.index(run.id) if run.id in order else None
    ahead = order[:place] if place is not None else []
    tallies = read_tallies(connection, [run.id, *ahead])
    before = sum(tallies[each].counts.queued for each in ahead)
    age_s = max(1.0, (now - (_find_beginning(connection, run.id) or run.created_at)).total_seconds())
    rate = count_recent(connection, PACE_WINDOW_S, [run.id]) / min(PACE_WINDOW_S, age_s)
    scans_left, rate_of_them = tallies[run.id].counts.queued, rate
    if not rate and place is not None:
        scans_left += before
        rate_of_them = count_recent(connection, PACE_WINDOW_S) / PACE_WINDOW_S
    left_s = scans_left / rate_of_them if rate_of_them else None
    waiting, next_try_at = _find_waiting(connection, run.id)
    return Pace(
        rate=rate,
        place=None if place is None else place + 1,
        runs=len(order),
        before=before,
        left_s=left_s,
        ends_at=None if left_s is None else now + timedelta(seconds=left_s),
        workers=_list_workers(connection, run.id),
        waiting=waiting,
        next_try_at=next_try_at,
    )


def _find_waiting(connection: Connection, run_id: str) -> tuple[int, datetime | None]:
    """Return how many open scans of a run wait for their next try, and when the first of them is tried."""
    query = (
        select(func.count(), func.min(jobs.c.not_before, type_=UtcDateTime()))
        .select_from(jobs.join(scans, scans.c.job_id == jobs.c.id))
        .where(jobs.c.run_id == run_id, jobs.c.status == JobStatus.QUEUED, jobs.c.not_before > database_now())
        .where(scans.c.status == ScanStatus.QUEUED)
    )
    count, first = connection.execute(query).one()
    return int(count), first


def _find_beginning(connection: Connection, run_id: str) -> datetime | None:
    """Return when the jobs that ended lately were made: `retry` makes new ones, long after their run."""
    made = select(func.min(jobs.c.created_at, type_=UtcDateTime()))
    made_at: datetime | None = connection.execute(_only_ended(made, [run_id], PACE_WINDOW_S)).scalar_one()
    return made_at


def count_recent(connection: Connection, window_s: float, run_ids: Sequence[str] | None = None) -> int:
    """Count the scans of jobs that ended lately.

    Args:
        connection: for reading.
        window_s: how long ago, in seconds.
        run_ids: of these runs; None: of the runs that changed last, since their jobs are few.
    """
    since = database_now(-window_s)
    if run_ids is None:
        latest = select(runs.c.id).where(or_(is_open(), runs.c.finished_at > since)).order_by(runs.c.created_at.desc())
        run_ids = connection.execute(latest.limit(_RUNS_LOOKED_AT)).scalars().all()
    ended = _only_ended(select(jobs.c.id), run_ids, window_s)
    recent = select(func.count()).select_from(scans).where(scans.c.job_id.in_(ended), scans.c.finished_at > since)
    return int(connection.execute(recent).scalar_one()) if run_ids else 0


def _only_ended(query: Select[Any], run_ids: Sequence[str], window_s: float) -> Select[Any]:
    """Return a query over jobs for those of some runs that ended lately."""
    is_recent = jobs.c.finished_at > database_now(-window_s)
    return query.where(jobs.c.run_id.in_(run_ids), jobs.c.status == JobStatus.DONE, is_recent)


def _list_queue(connection: Connection) -> list[str]:
    """Return the ids of the open runs that workers score, in the order in which their jobs go first."""
    query = select(runs.c.id, runs.c.priority).where(is_open(), ~runs.c.embedded)
    found = connection.execute(query.order_by(runs.c.created_at, runs.c.id)).all()
    return [run_id for run_id, _ in sorted(found, key=lambda row: _ORDER.index(row.priority))]


def _list_workers(connection: Connection, run_id: str) -> list[str]:
    """Return the names of the workers that hold a live lease on a run."""
    query = (
        select(jobs.c.lease_holder)
        .distinct()
        .where(jobs.c.run_id == run_id, jobs.c.status == JobStatus.LEASED, jobs.c.lease_expires_at >= database_now())
    )
    return sorted(filter(None, connection.execute(query).scalars()))
