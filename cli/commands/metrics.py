"""`metrics`: serves metrics for Prometheus."""

import sys
import threading
from typing import Annotated

import typer

from cli.options import Listen, read_listen
from cli.output.console import say
from db.engine import make_engine
from nightread.logs import configure_logging
from nightread.machine import stop_at_signals
from nightread.settings import read_settings
from worker.exposition import LedgerCollector, serve_metrics, write_metrics


def metrics(
    listen: Listen = "127.0.0.1:9464",
    once: Annotated[bool, typer.Option("--once", help="Print the metrics once and exit.")] = False,
) -> None:
    """Serve the state of the database to Prometheus.

    Each scrape of /metrics asks the database. The metrics hold no path, no name of a run and no identifier. There is no
    login: let nobody but Prometheus reach the address.

    Example: nightread metrics --listen 127.0.0.1:9464
    """
    settings = read_settings()
    configure_logging(settings)
    engine = make_engine(settings.database_url.get_secret_value())
    if once:
        sys.stdout.write(write_metrics(engine))
        return
    host, port = read_listen(listen)
    stop = threading.Event()
    stop_at_signals(stop.set)
    port = serve_metrics(LedgerCollector(engine), host, port)
    say(f"metrics: http://{listen.rpartition(':')[0]}:{port}/metrics")
    stop.wait()
