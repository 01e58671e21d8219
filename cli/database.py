"""Opens the database that the settings name."""

from sqlalchemy import Engine

from db.engine import make_engine
from db.schema import ensure_schema
from nightread.settings import Settings, read_settings


def open_database(settings: Settings | None = None) -> Engine:
    """Return the database that the settings name, or the environment where None; its schema is checked.

    Raises:
        DatabaseUnavailable: it does not answer.
        SchemaOutdated: it needs `nightread db upgrade`, or a newer release.
    """
    engine = make_engine((settings or read_settings()).database_url.get_secret_value())
    ensure_schema(engine)
    return engine
