"""`beat`: sweeps on time."""

import signal
from typing import Annotated

import typer

from cli.cluster import prepare_cluster_process, report_health
from cli.database import open_database
from cli.options import Json
from worker.health import check_sweeping


def beat(
    health: Annotated[bool, typer.Option("--health", help="Health check: are due jobs published?")] = False,
    as_json: Json = False,
) -> None:
    """Sweep on time, and start the nights of schedules; workers do so too.

    A sweep closes finished runs and republishes lost jobs. With --health: exit code 1 if due jobs stay unpublished, 5
    if the database does not answer.

    Example: nightread beat
    """
    settings = prepare_cluster_process("beat")
    if health:
        report_health(settings, check_sweeping, as_json)
    from worker.queue.celery_app import make_app  # Celery, which a health check does not wait for
    from worker.queue.publisher import Publisher
    from worker.queue.sweeper import Sweeper, start_scheduler

    publisher = Publisher(make_app(settings), settings)
    publisher.count_waiting()
    engine = open_database(settings)
    start_scheduler(engine, settings)
    sweeper = Sweeper(publisher, engine, settings.sweep_s)
    for number in (signal.SIGINT, signal.SIGTERM):  # in a container this is process 1, which no signal ends by itself
        signal.signal(number, lambda *_: sweeper.stop())
    sweeper.run()
