"""Opens the database that the settings name."""

from sqlalchemy import Engine

from db import schema
from nightread.settings import Settings, read_settings


def open_database(settings: Settings | None = None) -> Engine:
    """Return the database of the settings, or of the environment if None; see `db.schema.open_database`."""
    return schema.open_database((settings or read_settings()).database_url.get_secret_value())
