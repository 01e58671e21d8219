"""The few statements that SQLAlchemy spells differently for SQLite and PostgreSQL."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, Table, case, text

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

_Statement = TypeVar("_Statement")


def built_once(build: Callable[[str], _Statement]) -> Callable[[Connection], _Statement]:
    """Have a statement built once for each kind of database; what differs from time to time is given as parameters.

    To build one takes SQLAlchemy many times as long as to execute it, and a job executes a dozen.

    Args:
        build: is given the name of the dialect.
    """
    built = cache(build)
    return lambda connection: built(connection.dialect.name)


def insert_ignoring(dialect: str, table: Table) -> "postgresql.Insert | sqlite.Insert":
    """Return an INSERT that leaves rows alone which are there already (`ON CONFLICT DO NOTHING`)."""
    return _insert(dialect, table).on_conflict_do_nothing()


def insert_adding(dialect: str, tallies: Table) -> "postgresql.Insert | sqlite.Insert":
    """Return an INSERT of counts that adds to those which are there already (`ON CONFLICT DO UPDATE`).

    A change that takes away does not count as news: the time stays.
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
    # Who has a file needs nothing of PostgreSQL, which brings four drivers' modules along.
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def try_advisory_lock(connection: Connection, key: int) -> bool:
    """Take a lock that ends with the transaction; False where another process holds it.

    SQLite needs none: its write transactions exclude each other.
    """
    if connection.dialect.name != "postgresql":
        return True
    return bool(connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}).scalar())


def wait_for_advisory_lock(connection: Connection, key: int) -> None:
    """Take a lock that ends with the transaction, waiting for whoever holds it; SQLite needs none."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
