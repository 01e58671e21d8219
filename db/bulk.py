"""Writing many rows at once.

SQLAlchemy goes through the parameters of each row by itself, which takes longer than the databases do. Here the driver
gets them as they are: times and enums as they are stored (`write_time`, an enum's value), JSON as text.
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

from db.types import database_now

# A statement has its time limit, which a million rows may reach on a busy server; several do not.
_ROWS_PER_COPY = 20_000


#: A value as it is stored.
Value = str | float | bool | None


def insert_new(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[tuple[Value, ...]]
) -> None:
    """Insert rows, and leave those alone which are there already; `created_at` is the database's time.

    Args:
        connection: in a transaction.
        table: gets the rows.
        columns: which columns they hold, in this order.
        rows: in the order of the table's key, since two writers that meet in opposite order deadlock.

    Raises:
        DBAPIError: as any statement would.
    """
    if not rows:
        return
    statement = _write_insert(connection.dialect.name, table, columns)
    if connection.dialect.name == "postgresql":  # an array for each column
        connection.exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True))))
    else:
        connection.exec_driver_sql(statement, rows)


def update_queued(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[tuple[Value, ...]]
) -> None:
    """Update rows whose status is `queued`, by their id; `attempts` are added to what there was.

    One by one in PostgreSQL, too: without statistics of a table that was just filled, joined to all rows at once it
    would be searched for whatever else is queued.

    Args:
        connection: in a transaction.
        table: whose rows.
        columns: which columns change, in this order; the last value of a row is its id.
        rows: in the order of their ids.

    Raises:
        DBAPIError: as any statement would.
    """
    if rows:
        statement = _write_update(connection.dialect.name, table, columns)
        connection.exec_driver_sql(statement, rows)


@cache
def _write_insert(dialect: str, table: Table, columns: tuple[str, ...]) -> str:
    into = f"INSERT INTO {table.name} ({', '.join(columns)}, created_at)"
    now = _write_now(dialect)
    if dialect == "postgresql":
        given = _write_arrays(dialect, table, columns)
        return f"{into} SELECT given.*, {now} FROM {given} ON CONFLICT DO NOTHING"  # noqa: S608  # our own names
    return f"{into} VALUES ({', '.join('?' * len(columns))}, {now}) ON CONFLICT DO NOTHING"


@cache
def _write_update(dialect: str, table: Table, columns: tuple[str, ...]) -> str:
    place = "%s" if dialect == "postgresql" else "?"
    changes = ", ".join(f"{name} = {'attempts + ' if name == 'attempts' else ''}{place}" for name in columns)
    return f"UPDATE {table.name} SET {changes} WHERE id = {place} AND status = 'queued'"  # noqa: S608  # our own names


def _write_arrays(dialect: str, table: Table, columns: Sequence[str]) -> str:
    """Return a table `given` made of one array a column."""
    arrays = ", ".join(f"%s::{_name_type(dialect, table, name)}[]" for name in columns)
    return f"unnest({arrays}) AS given({', '.join(columns)})"


def _name_type(dialect: str, table: Table, column: str) -> str:
    # Without its length: cast to a shorter text, a value would be cut in silence.
    of_column = table.c[column].type
    return "text" if isinstance(of_column, String) else of_column.compile(_find_dialect(dialect))


def _write_now(dialect: str) -> str:
    return str(database_now().compile(dialect=_find_dialect(dialect), compile_kwargs={"literal_binds": True}))


def _find_dialect(name: str) -> Dialect:
    return make_url(f"{name}://").get_dialect()()


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
