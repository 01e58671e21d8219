"""Is the schema the one that this release needs, and how to bring it there."""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, inspect, text

from db.engine import reading, write
from nightread.errors import SchemaOutdated

#: The newest migration; a test compares it with the migrations themselves.
REVISION: Final = "0005"

_MIGRATIONS = Path(__file__).parent / "migrations"


def read_revision(engine: Engine) -> str | None:
    """Return the revision of the database, None where it holds no tables of ours.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with reading(engine) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return revision


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema to `REVISION`, in one transaction.

    Several processes may do so at once: they wait for each other.

    Returns:
        The revision before, and the one now.

    Raises:
        DatabaseUnavailable: the database does not answer.
        SchemaOutdated: the database is newer than this release.
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
    """Bring an SQLite file up to date by itself; check that a server's database is.

    A file has one user, who should not need to know of migrations. A server has an operator, who chooses the hour.

    Raises:
        SchemaOutdated: the database needs `nightread db upgrade`, or a newer release.
        DatabaseUnavailable: the database does not answer.
    """
    if engine.dialect.name == "sqlite":
        upgrade(engine)
        return
    check_schema(engine)


def check_schema(engine: Engine) -> None:
    """Check that the database is up to date, whatever its kind, and change nothing.

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
    from alembic import command  # 0.2 s to import, and most starts need no migration
    from alembic.config import Config

    if connection.dialect.name == "postgresql":  # two containers may upgrade at once
        connection.execute(text("SELECT pg_advisory_xact_lock(7201122)"))
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
