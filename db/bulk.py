"""Bulk reads and writes that hand rows to the database driver directly.

SQLAlchemy processes the parameters of each row in Python, which takes longer than the database does. These functions
bypass that, so callers pass values as they are stored: times as `write_time` writes them, enums by value, JSON as text.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Dialect, Select, String, Table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from db.postgresql import READ_ONLY_SQLSTATE
from db.types import database_now

# One COPY of a million rows may exceed the statement timeout on a busy server; several smaller ones do not.
_ROWS_PER_COPY = 20_000

#: Rows that a streamed query fetches at a time.
ROWS_PER_FETCH = 2_000

#: A value as it is stored.
Value = str | float | bool | None


def insert_new(
    connection: Connection,
    table: Table,
    columns: tuple[str, ...],
    rows: Sequence[tuple[Value, ...]],
    *,
    completed: str | None = None,
) -> None:
    """Insert rows and skip existing ones (`ON CONFLICT`); `created_at` is the database's time.

    Args:
        connection: in a transaction.
        table: target table.
        columns: columns of `rows`, in this order.
        rows: sorted by the table's key: two writers that lock rows in opposite order deadlock.
        completed: a column that an existing row takes over where it holds NULL.

    Raises:
        DBAPIError: the statement failed.
    """
    if not rows:
        return
    statement = _write_insert(connection.dialect.name, table, columns, completed)
    if connection.dialect.name == "postgresql":  # an array for each column
        connection.exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True))))
    else:
        connection.exec_driver_sql(statement, rows)


def update_queued(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[tuple[Value, ...]]
) -> None:
    """Update rows with status `queued` by id; `attempts` is incremented by the given value.

    Args:
        connection: in a transaction.
        table: table to update.
        columns: columns to set, in this order; the last value of each row is its id.
        rows: sorted by id.

    Raises:
        DBAPIError: the statement failed.
    """
    if not rows:
        return
    statement = _write_update(connection.dialect.name, table, columns)
    if connection.dialect.name == "postgresql":  # an array for each column
        connection.exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True))))
    else:
        connection.exec_driver_sql(statement, rows)


@cache
def _write_insert(dialect: str, table: Table, columns: tuple[str, ...], completed: str | None) -> str:
    into = f"INSERT INTO {table.name} ({', '.join(columns)}, created_at)"
    now = _write_now(dialect)
    conflict = "ON CONFLICT DO NOTHING"
    if completed is not None:
        key = ", ".join(column.name for column in table.primary_key)
        conflict = (
            f"ON CONFLICT ({key}) DO UPDATE SET {completed} = excluded.{completed} "
            f"WHERE {table.name}.{completed} IS NULL AND excluded.{completed} IS NOT NULL"
        )
    if dialect == "postgresql":
        given = _write_arrays(dialect, table, columns)
        return f"{into} SELECT given.*, {now} FROM {given} {conflict}"  # noqa: S608  # our own names
    return f"{into} VALUES ({', '.join('?' * len(columns))}, {now}) {conflict}"


@cache
def _write_update(dialect: str, table: Table, columns: tuple[str, ...]) -> str:
    place = "given.{}" if dialect == "postgresql" else "?"
    added = {"attempts": f"{table.name}.attempts + "}
    changes = ", ".join(f"{name} = {added.get(name, '')}{place.format(name)}" for name in columns)
    change = f"UPDATE {table.name} SET {changes}"  # noqa: S608  # our own names
    if dialect == "postgresql":
        # A newly filled table has no statistics: without `|| ''` the planner may read all queued rows by their index.
        given = _write_arrays(dialect, table, (*columns, "id"))
        return f"{change} FROM {given} WHERE {table.name}.id = given.id AND {table.name}.status || '' = 'queued'"
    return f"{change} WHERE id = ? AND status = 'queued'"


def _write_arrays(dialect: str, table: Table, columns: Sequence[str]) -> str:
    """Return an `unnest` expression named `given` that takes one array for each column."""
    arrays = ", ".join(f"%s::{_name_type(dialect, table, name)}[]" for name in columns)
    return f"unnest({arrays}) AS given({', '.join(columns)})"


def _name_type(dialect: str, table: Table, column: str) -> str:
    # Without a length: a cast to a shorter varchar truncates silently.
    of_column = table.c[column].type
    return "text" if isinstance(of_column, String) else of_column.compile(_find_dialect(dialect))


def _write_now(dialect: str) -> str:
    return str(database_now().compile(dialect=_find_dialect(dialect), compile_kwargs={"literal_binds": True}))


def _find_dialect(name: str) -> Dialect:
    return make_url(f"{name}://").get_dialect()()


def copy_in(
    connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Sequence[str | float | bool | None]]
) -> None:
    """Insert rows with COPY (PostgreSQL) or `executemany` (SQLite); memory does not grow with their number.

    Args:
        connection: in a transaction.
        table: target table.
        columns: columns of `rows`, in this order.
        rows: values as they are stored: enums by value, times as `write_time` writes them.

    Raises:
        DBAPIError: the statement failed.
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
    """Return a time in the text form that `copy_in` takes for this database."""
    utc = time.astimezone(UTC)
    return str(utc if connection.dialect.name == "postgresql" else f"{utc:%Y-%m-%d %H:%M:%S.%f}")


def copy_out(connection: Connection, query: Select[Any], separator: str = ",") -> Generator[bytes]:
    """Yield the rows of a query as CSV lines, formatted by PostgreSQL; NULL becomes an empty field.

    Args:
        connection: for reading.
        query: the rows.
        separator: between two fields: a comma or a tab.
    """
    with _driver_errors(connection, "COPY"):
        driver: Any = connection.connection.driver_connection
        # The compiler doubles each "%" for a statement with parameters; this one has none.
        found = _write_out(connection, query).replace("%%", "%")
        form = f"FORMAT csv, NULL '', DELIMITER '{separator}'"
        with driver.cursor() as cursor, cursor.copy(f"COPY ({found}) TO STDOUT ({form})") as copy:
            yield from copy


def stream_raw(connection: Connection, query: Select[Any]) -> Generator[Sequence[Any]]:
    """Yield the rows of a query as the SQLite driver returns them, one at a time."""
    with _driver_errors(connection, "SELECT"):
        driver: Any = connection.connection.driver_connection
        with contextlib.closing(driver.execute(_write_out(connection, query))) as cursor:
            yield from cursor


def _write_out(connection: Connection, query: Select[Any]) -> str:
    return str(query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))


@contextlib.contextmanager
def _driver_errors(connection: Connection, statement: str) -> Iterator[None]:
    """Wrap driver errors in `DBAPIError`, as SQLAlchemy does, so that `db.engine.write` recognises transient ones."""
    dialect = connection.dialect
    driver_error = dialect.loaded_dbapi.Error
    try:
        yield
    except driver_error as error:
        is_lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None) or (
            getattr(error, "sqlstate", None) == READ_ONLY_SQLSTATE
        )
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement, None, error, driver_error, connection_invalidated=is_lost, dialect=dialect
        ) from error
