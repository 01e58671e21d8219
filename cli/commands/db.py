"""`db upgrade`: brings the database to this release's schema."""

from cli.options import Json
from cli.output.console import print_json, say
from db import schema
from db.engine import make_engine
from nightread.settings import read_settings


def upgrade(as_json: Json = False) -> None:
    """Create the tables or upgrade them to this release's schema.

    Example: nightread db upgrade
    """
    before, now = schema.upgrade(make_engine(read_settings().database_url.get_secret_value()))
    if as_json:
        print_json({"before": before, "now": now})
    else:
        say(f"schema {now}, nothing to do" if before == now else f"schema {before or '(none)'} -> {now}")
