"""The few statements that SQLAlchemy spells differently for SQLite and PostgreSQL."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, case, insert, text
from sqlalchemy.dialects import postgresql, sqlite

_ROWS_PER_INSERT = 5_000


def insert_ignoring(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that leaves rows alone which are there already (`ON CONFLICT DO NOTHING`)."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def insert_adding(connection: Connection, tallies: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT of counts that adds to those which are there already (`ON CONFLICT DO UPDATE`).

    A change that takes away does not count as news: the time stays.
    """
    kind = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = kind(tallies)
    count, added = tallies.c["count"], statement.excluded["count"]
    return statement.on_conflict_do_update(
        index_elements=list(tallies.primary_key),
        set_={
            "count": count + added,
            "changed_at": case((added > 0, statement.excluded.changed_at), else_=tallies.c.changed_at),
        },
    )


def insert_many(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert any number of rows, which must all have the same keys, with memory for a few thousand."""
    iterator: Iterator[Mapping[str, Any]] = iter(rows)
    while part := list(islice(iterator, _ROWS_PER_INSERT)):
        connection.execute(insert(table), part)


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
