"""`sweep`: publishes lost jobs now."""

from cli.cluster import prepare_cluster_process
from cli.database import open_database
from cli.options import Json
from cli.output.console import print_json, say
from worker.queue.celery_app import make_app
from worker.queue.publisher import Publisher


def sweep(as_json: Json = False) -> None:
    """Republish unfinished jobs that no worker holds.

    Example: nightread sweep
    """
    settings = prepare_cluster_process("sweep")
    published = Publisher(make_app(settings), settings).sweep(open_database())
    if as_json:
        print_json({"published": published})
    else:
        say(f"{published:,} jobs published")
