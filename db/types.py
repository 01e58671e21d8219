"""Column types and the database's own clock, the same for SQLite and PostgreSQL."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import DateTime, Dialect, Enum, Float, bindparam, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class RunStatus(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"  # no job has been claimed yet
    RUNNING = "running"  # at least one job has been claimed
    FINISHED = "finished"  # no job is open: every scan has its terminal status
    CANCELLED = "cancelled"  # stopped by a person; what was scored before stays


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # waits for a worker, not before `not_before`
    LEASED = "leased"  # a worker holds it until `lease_expires_at`
    DONE = "done"  # every scan of it has its terminal status


class ScanStatus(StrEnum):
    """Where a scan stands; all but `queued` are terminal."""

    QUEUED = "queued"
    SCORED = "scored"  # has its predictions
    REJECTED = "rejected"  # the file is at fault
    FAILED = "failed"  # the system is at fault; `nightread retry` queues it again


class ModelStage(StrEnum):
    """How far a model bundle is trusted."""

    CANDIDATE = "candidate"  # may be named for a run
    PRODUCTION = "production"  # the one that runs take where none is named
    RETIRED = "retired"  # takes no new run; what it has scored stays


class StageCause(StrEnum):
    """Why a model bundle's stage changed."""

    PROMOTED = "promoted"  # a person chose it for production
    REPLACED = "replaced"  # another took its place in production
    ROLLED_BACK = "rolled-back"  # it came back to production
    RETIRED = "retired"  # a person took it out of use
    RESTORED = "restored"  # a person took that back


def enum_by_value(enum: type[StrEnum], name: str) -> Enum:
    """Return a text column type that stores the values of `enum`, held by a CHECK constraint called `name`."""
    return Enum(
        enum, native_enum=False, create_constraint=True, length=16, name=name,
        values_callable=lambda members: [member.value for member in members],
    )  # fmt: skip


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time: `timestamptz` in PostgreSQL, sortable text with microseconds in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store aware times only, as UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            msg = "a time without a zone cannot be stored"
            raise ValueError(msg)
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return aware UTC times."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801  # reads as the SQL function that it is
    """The database's clock plus `offset_s` seconds.

    Leases are compared by this clock alone: the clocks of two workers differ, and a lease judged by another clock
    than the one that wrote it is lost, or never ends.
    """

    inherit_cache = True
    type = UtcDateTime()

    def __init__(self, offset_s: float | str = 0.0) -> None:
        """Take the seconds themselves, or the name of the parameter that they are given by at execution."""
        if isinstance(offset_s, str):
            super().__init__(bindparam(offset_s, type_=Float()))
        else:
            super().__init__(literal(offset_s, Float()))


@compiles(database_now, "postgresql")
def _compile_postgresql(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(database_now, "sqlite")
def _compile_sqlite(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    # %f has three decimals; three zeros more make it the six that the column's text has, or comparison would fail.
    offset = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {offset} || ' seconds')"
