"""`beat`: sweeps on time."""

import logging
import os
from typing import Annotated

import typer
from sqlalchemy import Engine

from cli.cluster import prepare_cluster_process, report_health
from cli.database import open_database
from cli.dicom_extra import fetch_night, import_dicom
from cli.exits import Exit
from cli.options import Json
from db.engine import reading
from db.schedules import list_schedules
from nightread.machine import stop_at_signals
from nightread.settings import Settings
from worker.health import check_sweeping


def beat(
    health: Annotated[bool, typer.Option("--health", help="Health check: are due jobs published?")] = False,
    as_json: Json = False,
) -> None:
    """Sweep on time, and start the nights of schedules; workers do so too.

    A sweep closes finished runs and republishes lost jobs. A beat alone fetches nights from archives and sends their
    results (extra `dicom`). With --health: exit code 1 if due jobs stay unpublished, 5
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
    start_scheduler(engine, settings, fetch_night, _send_due_nights)
    sweeper = Sweeper(publisher, engine, settings.sweep_s)
    stop_at_signals(sweeper.stop)
    sweeper.run()
    # The thread of an association would hold the process for as long as a night is fetched. Another beat goes on with
    # it, as with that of a beat that was killed.
    logging.shutdown()
    os._exit(Exit.OK)


def _send_due_nights(engine: Engine, settings: Settings) -> None:
    with reading(engine) as connection:
        known = list_schedules(connection)
    if any(schedule.options.get("send") for schedule in known):
        import_dicom("nights").send_due_nights(engine, settings)
