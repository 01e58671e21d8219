"""`notify`: tells of a run now."""

from cli.database import open_database
from cli.options import Json, RunReference
from cli.output.console import print_json, say
from db.engine import reading
from db.runs import find_run
from nightread.logs import configure_logging
from nightread.settings import read_settings
from worker.report.notice import notify_run


def notify(run: RunReference = None, as_json: Json = False) -> None:
    """Send the notice of a run now, to try NIGHTREAD_NOTIFY_URLS.

    Workers and `beat` send it by themselves when a run ends.

    Example: nightread notify ward-a
    """
    settings = read_settings()
    configure_logging(settings, default="WARNING")
    engine = open_database(settings)
    with reading(engine) as connection:
        found = find_run(connection, run)
    notify_run(engine, settings, found.id)
    if as_json:
        print_json({"run": found.id, "notified": True})
    else:
        say(f"Told of run {found.id[:8]}.")
