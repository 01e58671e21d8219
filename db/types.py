"""Enums, column types and the database's clock, for both SQLite and PostgreSQL."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import DateTime, Dialect, Enum, Float, bindparam, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class RunStatus(StrEnum):
    """Status of a run."""

    QUEUED = "queued"  # no job has been claimed yet
    RUNNING = "running"  # at least one job has been claimed
    FINISHED = "finished"  # no job is open: every scan has a terminal status
    CANCELLED = "cancelled"  # stopped by a person; its predictions stay


class Priority(StrEnum):
    """Class of a run: whose jobs go first."""

    URGENT = "urgent"
    NORMAL = "normal"
    BULK = "bulk"


class NightStatus(StrEnum):
    """What became of one night of a schedule; all but `starting` and `failed` are final."""

    STARTING = "starting"  # a process lists its folders
    STARTED = "started"  # has its run
    EMPTY = "empty"  # no scan was found
    FAILED = "failed"  # could not be started; it is tried again
    MISSED = "missed"  # no process was there in time


class DeliveryStatus(StrEnum):
    """Status of a delivery."""

    WAITING = "waiting"  # is attempted once `not_before` is over
    SENT = "sent"  # the destination has it
    DEAD = "dead"  # is not attempted again until somebody asks for it


class JobStatus(StrEnum):
    """Status of a job."""

    QUEUED = "queued"  # waits for a worker, and for `not_before`
    LEASED = "leased"  # a worker holds it until `lease_expires_at`
    DONE = "done"  # each of its scans has a terminal status


class ScanStatus(StrEnum):
    """Status of a scan; all but `queued` are terminal."""

    QUEUED = "queued"
    SCORED = "scored"  # has its predictions
    REJECTED = "rejected"  # the file is at fault
    FAILED = "failed"  # the system is at fault; `nightread retry` queues it again


class ModelStage(StrEnum):
    """Stage of a model bundle in the registry."""

    CANDIDATE = "candidate"  # runs may name it
    PRODUCTION = "production"  # the default of new runs
    RETIRED = "retired"  # takes no new run; its predictions stay


class StageCause(StrEnum):
    """Why a model bundle's stage changed."""

    PROMOTED = "promoted"  # put in production
    REPLACED = "replaced"  # replaced in production by another
    ROLLED_BACK = "rolled-back"  # put back in production
    RETIRED = "retired"  # taken out of use
    RESTORED = "restored"  # brought back into use


class MarkKind(StrEnum):
    """What a user says of a scan on the worklist page."""

    SEEN = "seen"  # looked at, no opinion
    AGREE = "agree"  # with the decision
    DISAGREE = "disagree"  # with the decision; the mark has the right label
    NOTE = "note"  # a text; no verdict


def enum_by_value(enum: type[StrEnum], name: str) -> Enum:
    """Return a text column type for the values of `enum`, with a CHECK constraint called `name`."""
    return Enum(
        enum, native_enum=False, create_constraint=True, length=16, name=name,
        values_callable=lambda members: [member.value for member in members],
    )  # fmt: skip


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time: `timestamptz` in PostgreSQL, sortable text with microseconds in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert an aware time to UTC; refuse a naive one."""
        if value is None:
            return None
        if value.tzinfo is None:
            msg = "a time without a time zone; only times with one can be stored"
            raise ValueError(msg)
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware UTC time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801  # reads as the SQL function that it is
    """SQL function: the database's clock plus `offset_s` seconds.

    All lease times are set and compared by this one clock. Clocks of workers differ: a lease judged by another clock
    than the one that set it would expire too early or never.
    """

    inherit_cache = True
    type = UtcDateTime()

    def __init__(self, offset_s: float | str = 0.0) -> None:
        """Create the function from a number of seconds, or from the name of a parameter bound at execution."""
        if isinstance(offset_s, str):
            super().__init__(bindparam(offset_s, type_=Float()))
        else:
            super().__init__(literal(offset_s, Float()))


@compiles(database_now, "postgresql")
def _compile_postgresql(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(database_now, "sqlite")
def _compile_sqlite(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    # %f has three decimals; three zeros make it six, like the column's text, so that text comparison is right.
    offset = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {offset} || ' seconds')"
