"""The schema's revision: check it, or upgrade the database to the one that this release needs.

Releases meet in one database: workers are replaced one by one, and commands stand on several hosts. So a release works
with a range of revisions: from its own up to each newer one that still serves it. Which releases a newer revision
serves is not known when a release is made; the database says it, in the table `schema_version`.

The table `alembic_version` stays at 0005 for good. Releases up to schema 0005 ask it, and refuse every other number.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, false, insert, inspect, select, text, update

import db.deliveries  # adds its table to the metadata
import db.folder_counts
import db.page_tables  # noqa: F401  # it completes the metadata
from db.dialects import allow_slow_statement, wait_for_advisory_lock
from db.engine import make_engine, reading, write
from db.server import check_encoding
from db.tables import metadata
from nightread.errors import SchemaOutdated

#: A schema is not changed in two ways at once.
SCHEMA_LOCK: Final = 7_201_122
#: The newest migration; a test compares it with the migrations themselves.
REVISION: Final = "0018"
#: The oldest revision whose release works with the tables of `REVISION`: its workers, commands and health checks go on.
#: Raise it only with a migration that takes away or fills what that release reads or writes.
OLDEST_SERVED: Final = "0005"

_MIGRATIONS = Path(__file__).parent / "migrations"
#: The last revision that is kept in `alembic_version`, which releases up to it compare with their own.
_FORMER_TABLE, _FORMER_REVISION = "alembic_version", "0005"
_TABLE = "schema_version"
#: How migrations are named.
_REVISIONS: Final = re.compile(r"\d{4}")


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """The revision of a database.

    Attributes:
        revision: its newest migration.
        oldest_served: the oldest revision whose release works with it.
    """

    revision: str
    oldest_served: str

    def serves(self, revision: str) -> bool:
        """Return whether the release that was made for `revision` works with this database."""
        return self.oldest_served <= revision <= self.revision


def read_version(engine: Engine) -> SchemaVersion | None:
    """Return the version of the database; None if it has no tables of Nightread.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with reading(engine) as connection:
        return find_version(connection)


def read_revision(engine: Engine) -> str | None:
    """Return the revision of the database; None if it has no tables of Nightread.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    version = read_version(engine)
    return version.revision if version else None


def find_version(connection: Connection) -> SchemaVersion | None:
    """Return the version of the database of a connection; None if it has no tables of Nightread."""
    found = inspect(connection)
    if found.has_table(_TABLE):
        row = connection.execute(text(f"SELECT version_num, oldest_served FROM {_TABLE}")).first()  # noqa: S608  # constant
        return None if row is None else SchemaVersion(row.version_num, row.oldest_served or row.version_num)
    if not found.has_table(_FORMER_TABLE):
        return None
    revision = connection.execute(text(f"SELECT version_num FROM {_FORMER_TABLE}")).scalar()  # noqa: S608  # constant
    if revision is None or not _REVISIONS.fullmatch(revision):  # other programs use Alembic, too
        return None
    return SchemaVersion(revision, revision)


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Upgrade the schema to `REVISION`, in one transaction; concurrent upgrades wait for each other.

    A newer schema that serves this release is left as it is.

    Returns:
        The revisions before and after.

    Raises:
        DatabaseUnavailable: the database does not answer.
        SchemaOutdated: the database is newer than this release, and no longer serves it, or it is another program's.
        SettingsError: its encoding is not UTF8.
    """
    version = read_version(engine)
    if version is None or version.revision < REVISION:
        write(engine, _run_migrations)
        return version.revision if version else None, REVISION
    _refuse_unserved(version)
    return version.revision, version.revision


def ensure_schema(engine: Engine) -> None:
    """Upgrade an SQLite file; check a server's database.

    The user of a file need not know of migrations; the operator of a server chooses when to migrate.

    Raises:
        SchemaOutdated: the database needs `nightread db upgrade`, or a newer release.
        DatabaseUnavailable: the database does not answer.
    """
    if engine.dialect.name == "sqlite":
        upgrade(engine)
        return
    check_schema(engine)


def open_database(url: str) -> Engine:
    """Return the database of an URL, its schema checked as `ensure_schema` does.

    Args:
        url: SQLAlchemy URL of an SQLite file or a PostgreSQL database.

    Raises:
        SchemaOutdated: the database needs `nightread db upgrade`, or a newer release.
        DatabaseUnavailable: the database does not answer.
    """
    engine = make_engine(url)
    ensure_schema(engine)
    return engine


def check_schema(engine: Engine) -> SchemaVersion:
    """Check that the database serves this release, without changing it; returns its version.

    Raises:
        SchemaOutdated: the database needs `nightread db upgrade`, or a newer release.
        DatabaseUnavailable: the database does not answer.
    """
    version = read_version(engine)
    if version is None:
        raise SchemaOutdated("the database holds no tables yet: run `nightread db upgrade`")
    if version.revision < REVISION:
        raise SchemaOutdated(
            f"the database has schema {version.revision}, this release needs {REVISION}: run `nightread db upgrade`"
        )
    _refuse_unserved(version)
    return version


def _refuse_unserved(version: SchemaVersion) -> None:
    if not version.serves(REVISION):
        raise SchemaOutdated(
            f"the database has schema {version.revision}, which serves releases of schema {version.oldest_served} and "
            f"later; this release has {REVISION}: upgrade Nightread"
        )


def check_rights(engine: Engine) -> None:
    """Check that this user may insert into and update every table; nothing is changed.

    Raises:
        DatabaseUnavailable: names the first right that is missing.
    """

    def try_all(connection: Connection) -> None:
        for table in metadata.sorted_tables:
            first = next(iter(table.columns))
            connection.execute(insert(table).from_select(table.columns.keys(), select(table).where(false())))
            connection.execute(update(table).where(false()).values({first: first}))

    write(engine, try_all)


def _run_migrations(connection: Connection) -> None:
    check_encoding(connection)
    from alembic import command  # 0.2 s to import, and most starts need no migration
    from alembic.config import Config

    # An index on many million scans takes longer than a worker may take for a statement.
    allow_slow_statement(connection)
    wait_for_advisory_lock(connection, SCHEMA_LOCK)  # two containers may upgrade at once
    _refuse_foreign(connection)
    _begin_version_table(connection)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.execute(
        text(f"UPDATE {_TABLE} SET oldest_served = :oldest"),  # noqa: S608  # constant
        {"oldest": OLDEST_SERVED},
    )


def _refuse_foreign(connection: Connection) -> None:
    """Check that a database without a version has room: another program's tables are neither changed nor joined."""
    if inspect(connection).has_table(_TABLE) or find_version(connection) is not None:
        return
    found = set(inspect(connection).get_table_names())
    if connection.dialect.name != "sqlite":  # a server's database may be shared
        found &= {*metadata.tables, _FORMER_TABLE}
    if found:
        named = ", ".join(sorted(found)[:3])
        raise SchemaOutdated(
            f"the database holds tables of another program ({named}): name another one (NIGHTREAD_DATABASE_URL)"
        )


def _begin_version_table(connection: Connection) -> None:
    """Create `schema_version`, with the revision that the database has in `alembic_version`, and pin that table."""
    if inspect(connection).has_table(_TABLE):
        return
    version = find_version(connection)
    for table, more in ((_TABLE, ", oldest_served VARCHAR(32)"), (_FORMER_TABLE, "")):
        connection.execute(
            text(f"CREATE TABLE IF NOT EXISTS {table} (version_num VARCHAR(32) NOT NULL PRIMARY KEY{more})")
        )
    if version is not None:
        connection.execute(
            text(f"INSERT INTO {_TABLE} (version_num) VALUES (:revision)"),  # noqa: S608  # constant
            {"revision": version.revision},
        )
    connection.execute(text(f"DELETE FROM {_FORMER_TABLE}"))  # noqa: S608  # constant
    connection.execute(
        text(f"INSERT INTO {_FORMER_TABLE} (version_num) VALUES (:revision)"),  # noqa: S608  # constant
        {"revision": _FORMER_REVISION},
    )
