"""Schedules and their nights: each night of a schedule is claimed by one process, by its key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, func, insert, or_, select, update

from db.dialects import insert_ignoring
from db.tables import REASON_TEXT_LENGTH, runs, schedule_nights, schedules
from db.types import NightStatus, RunStatus, database_now


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is enqueued night after night, and when; a row of the table `schedules`.

    Attributes:
        name: also the beginning of its runs' keys.
        folders: paths; `%Y`, `%m`, `%d` and the like stand for the night's date.
        at_time: HH:MM, by the clocks of `timezone`; None: `every_s`.
        every_s: seconds between two runs; None: `at_time`.
        timezone: IANA name.
        options: model, priority, intake and guards of its runs; `fetch` and `send`, where it does so.
        created_at: when it was added; None before.
    """

    name: str
    folders: list[str]
    at_time: str | None
    every_s: int | None
    timezone: str
    options: dict[str, Any]
    created_by: str
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ScheduledNight:
    """One night of a schedule; a row of the table `schedule_nights`, and what became of sending its run."""

    schedule: str
    night: str
    due_at: datetime
    status: NightStatus
    run_id: str | None
    message: str | None
    attempts: int
    changed_at: datetime
    sending: str | None = None


def add_schedule(connection: Connection, schedule: Schedule) -> bool:
    """Insert a schedule; returns False if there is one of that name."""
    known = connection.execute(select(schedules.c.name).where(schedules.c.name == schedule.name)).scalar()
    if known is not None:
        return False
    connection.execute(
        insert(schedules).values(
            name=schedule.name, folders=schedule.folders, at_time=schedule.at_time, every_s=schedule.every_s,
            timezone=schedule.timezone, options=schedule.options, created_by=schedule.created_by,
            created_at=database_now(),
        )
    )  # fmt: skip
    return True


def list_schedules(connection: Connection) -> list[Schedule]:
    """Return all schedules in the order of their names."""
    return [Schedule(*row) for row in connection.execute(select(schedules).order_by(schedules.c.name))]


def remove_schedule(connection: Connection, name: str) -> bool:
    """Delete a schedule with its nights, and keep its runs; returns False if there is none of that name."""
    return connection.execute(delete(schedules).where(schedules.c.name == name)).rowcount == 1


def find_nights(connection: Connection, schedule: str, since: datetime) -> dict[str, ScheduledNight]:
    """Return the nights of a schedule that were due from `since` on, by night."""
    query = _select_nights().where(schedule_nights.c.schedule == schedule, schedule_nights.c.due_at >= since)
    return {row.night: _to_night(row) for row in connection.execute(query)}


def find_last_nights(connection: Connection) -> dict[str, ScheduledNight]:
    """Return the newest night of each schedule that has one, by the schedule's name."""
    newest = (
        select(schedule_nights.c.schedule, func.max(schedule_nights.c.due_at).label("due_at"))
        .group_by(schedule_nights.c.schedule)
        .subquery()
    )
    query = _select_nights().join(
        newest,
        (newest.c.schedule == schedule_nights.c.schedule) & (newest.c.due_at == schedule_nights.c.due_at),
    )
    return {row.schedule: _to_night(row) for row in connection.execute(query)}


def claim_night(
    connection: Connection, schedule: str, night: str, due_at: datetime, holder: str, *, lease_s: float
) -> bool:
    """Claim a night that no process has started, or whose process has not ended it in time; returns whether it is ours.

    Args:
        connection: in a transaction.
        schedule: name of the schedule.
        night: the night.
        due_at: when it was due.
        holder: this process.
        lease_s: seconds after which another process may claim it.
    """
    given = insert_ignoring(connection.dialect.name, schedule_nights).values(
        schedule=schedule, night=night, due_at=due_at, status=NightStatus.STARTING, attempts=1, holder=holder,
        not_before=database_now(lease_s), changed_at=database_now(),
    )  # fmt: skip
    if connection.execute(given.returning(schedule_nights.c.night)).first() is not None:
        return True
    free = update(schedule_nights).where(
        _is_night(schedule, night),
        schedule_nights.c.status.in_([NightStatus.STARTING, NightStatus.FAILED]),
        or_(
            schedule_nights.c.not_before.is_(None),
            schedule_nights.c.not_before <= database_now(),
            # Claimed by this very process, which has not heard of its commit.
            (schedule_nights.c.status == NightStatus.STARTING) & (schedule_nights.c.holder == holder),
        ),
    )
    claimed = free.values(
        status=NightStatus.STARTING, attempts=schedule_nights.c.attempts + 1, holder=holder,
        not_before=database_now(lease_s), changed_at=database_now(),
    )  # fmt: skip
    return connection.execute(claimed).rowcount == 1


def renew_night(connection: Connection, schedule: str, night: str, holder: str, *, lease_s: float) -> None:
    """Hold the claim of a night for longer, if it is still the holder's."""
    ours = update(schedule_nights).where(
        _is_night(schedule, night),
        schedule_nights.c.holder == holder,
        schedule_nights.c.status == NightStatus.STARTING,
    )
    connection.execute(ours.values(not_before=database_now(lease_s)))


def end_night(
    connection: Connection,
    schedule: str,
    night: str,
    holder: str,
    status: NightStatus,
    *,
    run_id: str | None = None,
    message: str | None = None,
    retry_in_s: float | None = None,
) -> bool:
    """Store what became of a claimed night; returns False if another process has claimed it meanwhile."""
    ours = update(schedule_nights).where(
        _is_night(schedule, night),
        schedule_nights.c.holder == holder,
        schedule_nights.c.status == NightStatus.STARTING,
    )
    values = {
        "status": status, "run_id": run_id, "message": message and message[:REASON_TEXT_LENGTH],
        "not_before": None if retry_in_s is None else database_now(retry_in_s), "changed_at": database_now(),
    }  # fmt: skip
    return connection.execute(ours.values(values)).rowcount == 1


def tell_missed(connection: Connection, schedule: str, night: str, due_at: datetime, message: str) -> bool:
    """Store that nobody started a night in time; returns False if the night is known."""
    given = insert_ignoring(connection.dialect.name, schedule_nights).values(
        schedule=schedule, night=night, due_at=due_at, status=NightStatus.MISSED, message=message, attempts=0,
        changed_at=database_now(),
    )  # fmt: skip
    return connection.execute(given.returning(schedule_nights.c.night)).first() is not None


def reopen_night(connection: Connection, schedule: str, night: str) -> None:
    """Let a night without a run be claimed again, since a person asks for it."""
    connection.execute(
        update(schedule_nights)
        .where(
            _is_night(schedule, night),
            schedule_nights.c.run_id.is_(None),
            schedule_nights.c.status != NightStatus.STARTING,
        )
        .values(status=NightStatus.FAILED, not_before=None, changed_at=database_now())
    )


def find_newest_run(connection: Connection, schedule: str, night: str) -> str | None:
    """Return the id of the newest run of a night."""
    of_night = select(runs.c.id).where(runs.c.schedule == schedule, runs.c.night == night)
    found: str | None = connection.execute(of_night.order_by(runs.c.created_at.desc()).limit(1)).scalar()
    return found


def find_unsent(connection: Connection, schedule: str, since: datetime) -> Sequence[str]:
    """Return the ids of a schedule's runs, made since a moment, that have ended, are judged and wait to be sent."""
    query = select(runs.c.id).where(
        runs.c.schedule == schedule,
        runs.c.created_at >= since,
        runs.c.status == RunStatus.FINISHED,
        or_(runs.c.guard.is_not(None), runs.c.guards.is_(None)),
        _is_to_send(),
    )
    return connection.execute(query.order_by(runs.c.created_at)).scalars().all()


def claim_sending(connection: Connection, run_id: str, *, lease_s: float) -> bool:
    """Claim a run that waits to be sent; returns whether no other process has.

    Args:
        connection: in a transaction.
        run_id: the run.
        lease_s: seconds after which another process may claim it.
    """
    claimed = update(runs).where(runs.c.id == run_id, _is_to_send()).values(sending_not_before=database_now(lease_s))
    return connection.execute(claimed).rowcount == 1


def end_sending(
    connection: Connection, run_id: str, finished_at: datetime | None, sending: str | None, retry_in_s: float = 0.0
) -> None:
    """Store what became of sending a run.

    Args:
        connection: in a transaction.
        run_id: the run.
        finished_at: its end when it was sent; a run that was opened by `retry` since is sent again.
        sending: `sent`, `held` or `dead`; None: it is tried again.
        retry_in_s: seconds until then.
    """
    ended = update(runs).where(runs.c.id == run_id, runs.c.finished_at == finished_at)
    connection.execute(ended.values(sending=sending, sending_not_before=database_now(retry_in_s)))


def _is_to_send() -> ColumnElement[bool]:
    not_before = runs.c.sending_not_before
    return and_(runs.c.sending.is_(None), or_(not_before.is_(None), not_before <= database_now()))


def _select_nights() -> Select[Any]:
    return select(schedule_nights, runs.c.sending).outerjoin(runs, runs.c.id == schedule_nights.c.run_id)


def _is_night(schedule: str, night: str) -> Any:
    return (schedule_nights.c.schedule == schedule) & (schedule_nights.c.night == night)


def _to_night(row: Row[Any]) -> ScheduledNight:
    return ScheduledNight(
        row.schedule,
        row.night,
        row.due_at,
        row.status,
        row.run_id,
        row.message,
        row.attempts,
        row.changed_at,
        row.sending,
    )
