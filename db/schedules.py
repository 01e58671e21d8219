"""Schedules and their nights: each night of a schedule is claimed by one process, by its key."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from db.dialects import insert_ignoring
from db.tables import REASON_TEXT_LENGTH, schedule_nights, schedules
from db.types import NightStatus, database_now


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is enqueued night after night, and when; a row of the table `schedules`.

    Attributes:
        name: also the beginning of its runs' keys.
        folders: paths; `%Y`, `%m`, `%d` and the like stand for the night's date.
        at_time: HH:MM, by the clocks of `timezone`; None: `every_s`.
        every_s: seconds between two runs; None: `at_time`.
        timezone: IANA name.
        options: model, priority, intake and guards of its runs.
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
    """One night of a schedule; a row of the table `schedule_nights`."""

    schedule: str
    night: str
    due_at: datetime
    status: NightStatus
    run_id: str | None
    message: str | None
    attempts: int
    changed_at: datetime


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
    query = select(schedule_nights).where(
        schedule_nights.c.schedule == schedule, schedule_nights.c.due_at >= since
    )  # fmt: skip
    return {row.night: _to_night(row) for row in connection.execute(query)}


def find_last_nights(connection: Connection) -> dict[str, ScheduledNight]:
    """Return the newest night of each schedule that has one, by the schedule's name."""
    newest = (
        select(schedule_nights.c.schedule, func.max(schedule_nights.c.due_at).label("due_at"))
        .group_by(schedule_nights.c.schedule)
        .subquery()
    )
    query = select(schedule_nights).join(
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


def _is_night(schedule: str, night: str) -> Any:
    return (schedule_nights.c.schedule == schedule) & (schedule_nights.c.night == night)


def _to_night(row: Row[Any]) -> ScheduledNight:
    return ScheduledNight(
        row.schedule, row.night, row.due_at, row.status, row.run_id, row.message, row.attempts, row.changed_at
    )
