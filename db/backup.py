"""Backup and restore of the ledger: SQLite by its online copy, PostgreSQL by `pg_dump` and `pg_restore`.

Both take one consistent snapshot and block no writer. Secrets travel in the environment, never on a command line.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from db.schema import REVISION, SchemaVersion, find_version, read_revision, read_version
from nightread.errors import BackupFailed, SchemaOutdated

_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_POSTGRESQL_MAGIC: Final = b"PGDMP"
#: Names of libpq's environment variables that are not PG and the parameter's own name.
_LIBPQ_VARIABLES: Final = {"dbname": "PGDATABASE", "application_name": "PGAPPNAME"}
_PACKAGE: Final = "install PostgreSQL's client programs, of the server's version or newer (Debian: postgresql-client)"


def back_up(engine: Engine, target: Path) -> int:
    """Write a backup that only its owner may read; returns its size in bytes.

    Args:
        engine: the database; workers may go on meanwhile.
        target: file to make; its folder exists.

    Raises:
        BackupFailed: the file exists, cannot be written, or a program of PostgreSQL is missing or fails.
        DatabaseUnavailable: the database does not answer.
    """
    if read_revision(engine) is None:
        raise BackupFailed("the database holds no tables of Nightread: there is nothing to back up")
    with _new_file(target) as part:
        if engine.dialect.name == "sqlite":
            _copy_file(engine, part)
        else:
            _run("pg_dump", engine, "--format=custom", "--no-owner", "--no-privileges", f"--file={part}")
    return target.stat().st_size


def restore(engine: Engine, source: Path) -> str:
    """Fill an empty database from a backup; returns the revision of its schema.

    Args:
        engine: an SQLite file that is missing or empty, or a PostgreSQL database without tables.
        source: file that `back_up` has written.

    Raises:
        BackupFailed: the database is not empty, the file is no backup of this kind of database, or it is damaged.
        SchemaOutdated: the backup comes from a newer release.
        DatabaseUnavailable: the database does not answer.
    """
    kind = _read_kind(source)
    if kind != engine.dialect.name:
        raise BackupFailed(
            f"{source} is a backup of {_NAMES[kind]} and the database is {_NAMES[engine.dialect.name]}: set "
            "NIGHTREAD_DATABASE_URL to a database of that kind"
        )
    before = read_revision(engine)
    if before is not None:
        raise BackupFailed(
            f"the database already holds tables, with schema {before}: restore into an empty one, and point "
            "NIGHTREAD_DATABASE_URL at it"
        )
    if kind == "sqlite":
        return _restore_file(engine, source)
    name = engine.url.database or ""
    options = ("--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", f"--dbname={name}")
    _run("pg_restore", engine, *options, str(source))
    return _check_version(read_version(engine), source)


_NAMES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def _read_kind(source: Path) -> str:
    try:
        with source.open("rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as error:
        raise BackupFailed(f"{source} cannot be read: {error.strerror}; name a file of `nightread db backup`") from None
    if head == _SQLITE_MAGIC:
        return "sqlite"
    if head.startswith(_POSTGRESQL_MAGIC):
        return "postgresql"
    raise BackupFailed(f"{source} is no backup: it begins neither as an SQLite file nor as a dump of `pg_dump -Fc`")


def _check_version(version: SchemaVersion | None, source: Path) -> str:
    if version is None:
        raise BackupFailed(f"{source} holds no tables of Nightread: name a file of `nightread db backup`")
    if version.revision > REVISION and not version.serves(REVISION):
        raise SchemaOutdated(
            f"{source} has schema {version.revision}, too new for this release, which needs {REVISION}: upgrade "
            "Nightread"
        )
    return version.revision


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[Path]:
    """Yield a file beside `target` that takes its name at the end, once it is whole and on disk."""
    try:
        if target.exists():
            raise BackupFailed(f"there is a file {target} already: name another, or delete it first")
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise BackupFailed(
            f"{target} cannot be written: {error.strerror}; name a file in a folder that exists and is writable"
        ) from None
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
    except OSError as error:
        raise BackupFailed(f"{target} cannot be written: {error.strerror}; make room, or name another disk") from None
    finally:
        part.unlink(missing_ok=True)


def _copy_file(engine: Engine, target: Path) -> None:
    """Copy an SQLite database in one step: in WAL mode that is one snapshot, and no writer waits for it."""
    with engine.connect() as connection, contextlib.closing(sqlite3.connect(target)) as copy:
        source: Any = connection.connection.driver_connection
        try:
            source.rollback()  # SQLAlchemy has begun a transaction, which would hold other writers up
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
            found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            raise BackupFailed(f"the copy failed: {error}; nothing is changed") from None
    if found != "ok":
        raise BackupFailed(f"the database is damaged ({found}): restore an older backup")


def _restore_file(engine: Engine, source: Path) -> str:
    # Immutable: a backup may lie on a medium that is read-only, and nothing must be made beside it.
    with contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?immutable=1", uri=True)) as backup:
        stored = create_engine("sqlite://", creator=lambda: backup, poolclass=StaticPool)
        try:
            with stored.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
                version = find_version(connection)
        except DBAPIError as error:
            raise BackupFailed(f"{source} cannot be read: {error.orig}; name another backup") from None
        if found != "ok":
            raise BackupFailed(f"{source} is damaged ({found}): name another backup")
        revision = _check_version(version, source)
        with engine.connect() as connection:
            target: Any = connection.connection.driver_connection
            target.rollback()
            backup.backup(target)
    engine.dispose()  # the next connection sets the journal mode again
    return revision


def _run(program: str, engine: Engine, *options: str) -> None:
    """Run a program of PostgreSQL with the connection of `engine`."""
    if (found := shutil.which(program)) is None:
        raise BackupFailed(f"the program {program} is missing: {_PACKAGE}")
    _, parameters = engine.dialect.create_connect_args(engine.url)
    variables = {
        _LIBPQ_VARIABLES.get(name, f"PG{name.upper()}"): str(value)
        for name, value in parameters.items()
        if name not in {"context", "options"}
    }
    done = subprocess.run(  # noqa: S603  # its path comes from PATH, its options from here
        [found, "--no-password", *options], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = next((line.strip() for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        raise BackupFailed(f"{program} failed: {said}")
