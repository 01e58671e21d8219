"""The few statements that SQLAlchemy spells differently for SQLite and PostgreSQL."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Select, Table, case, text
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

_Statement = TypeVar("_Statement")

# A statement has its time limit, which a million rows may reach on a busy server; several do not.
_ROWS_PER_COPY = 20_000


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


def copy_in(
    connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Sequence[str | float | bool | None]]
) -> None:
    """Insert any number of rows by the fastest way that the database has, with memory for a few thousand.

    Args:
        connection: in a transaction.
        table: gets the rows.
        columns: which columns they hold, in this order.
        rows: values as they are stored: an enum's value, a time as `write_time` writes it.

    Raises:
        DBAPIError: as any statement would.
    """
    names = ", ".join(columns)
    with _driver_errors(connection, f"COPY {table.name}"):
        driver: Any = connection.connection.driver_connection
        if connection.dialect.name == "postgresql":
            remaining = iter(rows)
            for first in remaining:
                with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                    copy.write_row(first)
                    for row in islice(remaining, _ROWS_PER_COPY - 1):
                        copy.write_row(row)
        else:
            places = ", ".join("?" * len(columns))
            driver.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({places})", rows)  # noqa: S608  # our names


def write_time(connection: Connection, time: datetime) -> str:
    """Return a time as `copy_in` takes it for this database."""
    utc = time.astimezone(UTC)
    return str(utc if connection.dialect.name == "postgresql" else f"{utc:%Y-%m-%d %H:%M:%S.%f}")


def copy_out(connection: Connection, query: Select[Any]) -> Generator[bytes]:
    """Yield what a query finds as lines of CSV, made by PostgreSQL; a NULL is nothing at all."""
    with _driver_errors(connection, "COPY"):
        driver: Any = connection.connection.driver_connection
        # Each "%" was doubled, as for a statement with parameters; this one has none.
        found = _write_out(connection, query).replace("%%", "%")
        with driver.cursor() as cursor, cursor.copy(f"COPY ({found}) TO STDOUT (FORMAT csv, NULL '')") as copy:
            yield from copy


def stream_raw(connection: Connection, query: Select[Any]) -> Generator[Sequence[Any]]:
    """Yield what a query finds in SQLite, as the driver reads it, with memory for one row."""
    with _driver_errors(connection, "SELECT"):
        driver: Any = connection.connection.driver_connection
        with contextlib.closing(driver.execute(_write_out(connection, query))) as cursor:
            yield from cursor


def _write_out(connection: Connection, query: Select[Any]) -> str:
    return str(query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))


@contextlib.contextmanager
def _driver_errors(connection: Connection, statement: str) -> Iterator[None]:
    """Raise the driver's errors as SQLAlchemy does for its own statements, so that whoever tries again knows them."""
    dialect = connection.dialect
    driver_error = dialect.loaded_dbapi.Error
    try:
        yield
    except driver_error as error:
        is_lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement, None, error, driver_error, connection_invalidated=is_lost, dialect=dialect
        ) from error


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
