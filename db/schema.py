"""The schema's revision: check it, or upgrade the database to the one that this release needs."""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, inspect, text

from db.engine import make_engine, reading, write
from db.server import check_encoding
from nightread.errors import SchemaOutdated

#: The newest migration; a test compares it with the migrations themselves.
REVISION: Final = "0005"

_MIGRATIONS = Path(__file__).parent / "migrations"


def read_revision(engine: Engine) -> str | None:
    """Return the revision of the database; None if it has no tables of Nightread.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with reading(engine) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return revision


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Upgrade the schema to `REVISION`, in one transaction; concurrent upgrades wait for each other.

    Returns:
        The revisions before and after.

    Raises:
        DatabaseUnavailable: the database does not answer.
        SchemaOutdated: the database is newer than this release.
        SettingsError: its encoding is not UTF8.
    """
    before = read_revision(engine)
    if before is not None and before > REVISION:
        raise SchemaOutdated(
            f"the database has schema {before}, newer than this release's {REVISION}: upgrade Nightread"
        )
    if before != REVISION:
        write(engine, _run_migrations)
    return before, REVISION


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


def check_schema(engine: Engine) -> None:
    """Check that the database is up to date, without changing it.

    Raises:
        SchemaOutdated: the database needs `nightread db upgrade`, or a newer release.
        DatabaseUnavailable: the database does not answer.
    """
    revision = read_revision(engine)
    if revision != REVISION:
        found = "holds no tables yet" if revision is None else f"has schema {revision}, this release needs {REVISION}"
        remedy = "upgrade Nightread" if revision is not None and revision > REVISION else "run `nightread db upgrade`"
        raise SchemaOutdated(f"the database {found}: {remedy}")


def _run_migrations(connection: Connection) -> None:
    check_encoding(connection)
    from alembic import command  # 0.2 s to import, and most starts need no migration
    from alembic.config import Config

    if connection.dialect.name == "postgresql":  # two containers may upgrade at once
        connection.execute(text("SELECT pg_advisory_xact_lock(7201122)"))
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
