"""Statements that differ between SQLite and PostgreSQL."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, Table, case, text

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

_Statement = TypeVar("_Statement")


def built_once(build: Callable[[str], _Statement]) -> Callable[[Connection], _Statement]:
    """Decorate a function that builds a statement so that it runs once per dialect; varying values are parameters.

    SQLAlchemy takes many times as long to build a statement as to execute it, and a job executes a dozen.

    Args:
        build: builds the statement from the name of the dialect.
    """
    built = cache(build)
    return lambda connection: built(connection.dialect.name)


def insert_ignoring(dialect: str, table: Table) -> "postgresql.Insert | sqlite.Insert":
    """Return an INSERT that skips existing rows (`ON CONFLICT DO NOTHING`)."""
    return _insert(dialect, table).on_conflict_do_nothing()


def insert_adding(dialect: str, tallies: Table) -> "postgresql.Insert | sqlite.Insert":
    """Return an INSERT that adds to existing counts (`ON CONFLICT DO UPDATE`).

    `changed_at` moves with positive changes only.
    """
    statement = _insert(dialect, tallies)
    count, added = tallies.c["count"], statement.excluded["count"]
    return statement.on_conflict_do_update(
        index_elements=list(tallies.primary_key),
        set_={
            "count": count + added,
            "changed_at": case((added > 0, statement.excluded.changed_at), else_=tallies.c.changed_at),
        },
    )


def _insert(dialect: str, table: Table) -> "postgresql.Insert | sqlite.Insert":
    # Imported on use: PostgreSQL's dialect loads the modules of four drivers, which an SQLite user does not need.
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def allow_slow_reader(connection: Connection) -> None:
    """Let the caller take an hour over the rows of this read transaction; it holds no lock that a writer waits for."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1h'"))


def allow_slow_statement(connection: Connection) -> None:
    """Lift the statement timeout in this transaction, for work that grows with the database."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))


def try_advisory_lock(connection: Connection, key: int) -> bool:
    """Try to take a lock that is released with the transaction; returns False if another process holds it.

    SQLite needs none: its write transactions exclude each other.
    """
    if connection.dialect.name != "postgresql":
        return True
    return bool(connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}).scalar())


def wait_for_advisory_lock(connection: Connection, key: int) -> None:
    """Take a lock that is released with the transaction, waiting for its holder; SQLite needs none."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def share_advisory_lock(connection: Connection, key: int) -> None:
    """Take a lock that others may share, released with the transaction; waits for the holder of the whole lock."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": key})
