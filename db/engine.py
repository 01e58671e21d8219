"""Connections and transactions, one code path for SQLite and PostgreSQL."""

import atexit
import contextlib
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy
from sqlalchemy import Connection, Engine, event, select
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError

from db.postgresql import (
    DAMAGED_SQLSTATES,
    LOST_STATEMENT_SQLSTATES,
    NO_PERMISSION_SQLSTATE,
    NO_SCHEMA_SQLSTATE,
    READ_ONLY_SQLSTATE,
    find_remedy,
    make_postgresql_engine,
    parse_url,
)
from db.types import database_now
from nightread.errors import DatabaseError, DatabaseFull, DatabaseUnavailable
from nightread.failpoints import Point, failpoint
from nightread.text import hide_password

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_READ_ONLY = "nightread_read_only"
_SQLITE_BUSY_S = 30.0
_WRITE_TRIES = 6

# Deadlock, serialization failure, lock not available, too many connections, server starting or stopping.
_TRANSIENT_SQLSTATES = frozenset({"40P01", "40001", "55P03", "53300", "57P01", "57P02", "57P03"})
_CONNECTION_SQLSTATE = "08"
# No permission, a server that only reads, no schema, damaged tables, a prepared statement of another session: the
# operator must act, although the driver reports a programming or internal error.
_REFUSING_SQLSTATES = frozenset(
    {
        NO_PERMISSION_SQLSTATE, READ_ONLY_SQLSTATE, NO_SCHEMA_SQLSTATE, *DAMAGED_SQLSTATES, *LOST_STATEMENT_SQLSTATES,
    }
)  # fmt: skip
_DISK_FULL_SQLSTATE = "53100"

#: Engines of SQLite files, each with the id of the process that made it.
_OF_FILES: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()


def make_engine(url: str) -> Engine:
    """Return an engine; it connects on first use.

    Raises:
        DatabaseUnavailable: the URL is malformed or has an unknown parameter, or the folder of an SQLite file cannot be
            made.
    """
    try:
        parsed = parse_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise DatabaseUnavailable(
            "the database URL cannot be read; write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE "
            "(NIGHTREAD_DATABASE_URL)"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        return _make_sqlite_engine(parsed.database)
    return make_postgresql_engine(parsed)


def _make_sqlite_engine(database: str | None) -> Engine:
    if not database or database == ":memory:":
        raise DatabaseUnavailable(
            "the database URL names no file; threads and commands share the database, so SQLite needs one: write "
            "sqlite:///FILE (NIGHTREAD_DATABASE_URL)"
        )
    try:
        file = Path(database).expanduser()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError, PermissionError):  # which SQLite tells
            file.stat()
    except (ValueError, RuntimeError):  # a NUL, or the home of an unknown user
        raise DatabaseUnavailable("the database URL names no file that can be (NIGHTREAD_DATABASE_URL)") from None
    except OSError as error:
        raise DatabaseUnavailable(
            f"the file of the database cannot be made: {error.strerror}; set NIGHTREAD_DATABASE_URL to a writable "
            "folder"
        ) from None
    engine = sqlalchemy.create_engine(
        f"sqlite:///{file}", connect_args={"timeout": _SQLITE_BUSY_S}, hide_parameters=True
    )
    event.listen(engine, "do_connect", _make_private)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    _OF_FILES[engine] = os.getpid()
    return engine


@atexit.register
def _close_files() -> None:
    """Close SQLite files at exit; the last process to close one checkpoints its log (`-wal`) into the file.

    Engines inherited over a fork are skipped: their locks belong to the parent.
    """
    for engine, pid in list(_OF_FILES.items()):
        if pid == os.getpid():
            engine.dispose()


def _make_private(_dialect: object, _record: object, arguments: list[Any], _options: object) -> None:
    """Create a new file for its user alone: paths may name patients. SQLite gives `-wal` and `-shm` the same mode."""
    with contextlib.suppress(OSError):  # it is there, or SQLite says why it cannot be
        os.close(os.open(arguments[0], os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins transactions, not the driver
    _switch_to_wal(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Set the journal mode, which the file keeps; retries, since several processes may open a new file at once.

    SQLite's busy timeout does not apply to the lock that this takes.
    """
    deadline = time.monotonic() + _SQLITE_BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads and then writes may fail with SQLITE_BUSY_SNAPSHOT, which no timeout prevents.
    mode = "DEFERRED" if connection.get_execution_options().get(_READ_ONLY) else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a read transaction: a consistent snapshot that blocks no writer.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    try:
        with engine.connect() as connection:
            options: dict[str, Any] = {_READ_ONLY: True}
            if engine.dialect.name == "postgresql":
                # Under the default, READ COMMITTED, each statement would see a snapshot of its own.
                options |= {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
            with connection.execution_options(**options).begin():
                yield connection
    except DBAPIError as error:
        if _is_unavailable(error):
            raise explain_unavailable(error, engine) from error
        raise _hide_values(error) from error.orig
    except UnicodeEncodeError:
        raise DatabaseError("a name that was asked for is not UTF-8; nothing in the database is called so") from None


def write(engine: Engine, work: Callable[[Connection], _Result]) -> _Result:
    """Run `work` in one write transaction; after a transient fault the whole transaction is retried.

    `work` must be idempotent: it may run again after a commit whose outcome is unknown.

    Raises:
        DatabaseUnavailable: the database does not answer or cannot be written.
        DatabaseFull: its disk is full.
    """
    for attempt in range(1, _WRITE_TRIES + 1):
        try:
            return _transact(engine, work)
        except DBAPIError as error:
            # A server that dropped a connection may refuse new ones while it restarts.
            if not (_is_transient(error) or (attempt > 1 and _is_refused(error))):
                if _is_unavailable(error):
                    raise explain_unavailable(error, engine) from error
                raise _hide_values(error) from error.orig
            if attempt == _WRITE_TRIES:
                raise explain_unavailable(error, engine) from error
            _log.warning("database transaction is retried after %s", type(error.orig).__name__)
            time.sleep(random.uniform(0.5, 1.0) * 0.1 * 2**attempt)  # noqa: S311  # jitter, no secret
    raise AssertionError("unreachable")


def _transact(engine: Engine, work: Callable[[Connection], _Result]) -> _Result:
    with engine.begin() as connection:
        result = work(connection)
        failpoint(Point.WRITE_BEFORE_COMMIT, lost_connection)
    failpoint(Point.WRITE_AFTER_COMMIT, lost_connection)
    return result


def lost_connection(message: str) -> DBAPIError:
    """Return the error of a broken connection, after which it is unknown whether the last statement took effect."""
    return OperationalError(None, None, ConnectionError(message), connection_invalidated=True)


def _is_transient(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    return sqlstate in _TRANSIENT_SQLSTATES or sqlstate.startswith(_CONNECTION_SQLSTATE)


def _is_unavailable(error: DBAPIError) -> bool:
    if error.connection_invalidated:  # the server has ended it, for whatever reason
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode != sqlite3.SQLITE_ERROR  # a programming error, such as wrong SQL
    if isinstance(error.orig, sqlite3.Error):
        return type(error.orig) is sqlite3.DatabaseError  # not a database file, or a damaged one
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return getattr(error.orig, "sqlstate", None) in _REFUSING_SQLSTATES


def _is_refused(error: DBAPIError) -> bool:
    return isinstance(error, OperationalError) and not getattr(error.orig, "sqlstate", None)


def _is_full(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        # SQLITE_IOERR_SHMSIZE: no room for the shared-memory file beside the database.
        return getattr(error.orig, "sqlite_errorcode", 0) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
    return getattr(error.orig, "sqlstate", None) == _DISK_FULL_SQLSTATE


def show_address(engine: Engine) -> str:
    """Return the URL of a database for people, without secrets."""
    return hide_password(engine.url.render_as_string(hide_password=True))


def _hide_values(error: DBAPIError) -> DBAPIError:
    """Take stored values out of an error that no one foresaw: its traceback would show paths, and so patients."""
    cause: Any = error.orig
    if not isinstance(cause, sqlite3.Error):  # SQLite names columns, PostgreSQL also quotes what they hold
        details = getattr(cause, "diag", None)
        names = (getattr(details, f"{part}_name", None) for part in ("table", "column", "constraint", "datatype"))
        cause.args = (" ".join(filter(None, [type(cause).__name__, getattr(cause, "sqlstate", None), *names])),)
    error.args = (f"({type(cause).__module__}.{type(cause).__name__}) {cause}",)
    error.hide_parameters = True
    return error


def explain_unavailable(error: DBAPIError, engine: Engine) -> DatabaseUnavailable:
    """Return a driver's error as one line, without password and statement."""
    url = show_address(engine)
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    said = lines[0] if lines else type(error.orig).__name__
    if _is_full(error):
        remedy = "make room; stored data is kept (NIGHTREAD_DATABASE_URL)"
        return DatabaseFull(f"the disk of the database {url} is full ({said}): {remedy}")
    remedy = _find_sqlite_remedy(error, engine) or find_remedy(error)
    return DatabaseUnavailable(f"the database {url} cannot be used: {said}{remedy} (NIGHTREAD_DATABASE_URL)")


def _find_sqlite_remedy(error: DBAPIError, engine: Engine) -> str:
    """Return what can be done where a file is damaged or cannot be opened or written, as the end of a sentence."""
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_CORRUPT:
        return "; keep the file aside, and fill a new one from a backup with `nightread db restore`"
    if code == sqlite3.SQLITE_NOTADB:
        return "; it is no SQLite file, or its beginning is damaged: name another one, or restore a backup"
    if code not in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}:
        return ""
    file = Path(engine.url.database or "")
    if file.is_dir():
        return f"; it is a folder: name a file in it, such as {file / 'nightread.db'}"
    if os.access(file, os.R_OK | os.W_OK) and os.access(file.parent, os.W_OK):
        return ""
    return (
        "; SQLite needs to write the file and its folder even to read: run as its owner, or read a copy that the owner "
        "makes with `nightread db backup`"
    )


def read_clock(connection: Connection) -> datetime:
    """Return the database's time, which dates runs and leases."""
    now: datetime = connection.execute(select(database_now())).scalar_one()
    return now
