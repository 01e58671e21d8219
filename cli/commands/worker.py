"""`worker`: scores jobs."""

import os
import socket
from typing import Annotated

import typer

from cli.cluster import prepare_cluster_process, report_health
from cli.database import open_database
from cli.exits import Exit
from cli.options import Device, Json, Model
from db.types import Priority
from nightread.settings import LogFormat
from worker.health import check_workers


def worker(
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Number of scoring processes.")] = 1,
    model: Model = None,
    device: Device = None,
    priority: Annotated[
        list[Priority] | None,
        typer.Option(
            "--priority",
            case_sensitive=False,
            help="Take jobs of this class alone, so that the worker is free for it; may be repeated.",
        ),
    ] = None,
    beat: Annotated[
        bool, typer.Option("--beat/--no-beat", hidden=True, help="No effect: each worker process sweeps.")
    ] = True,
    health: Annotated[
        bool, typer.Option("--health", help="Health check: are this host's workers making progress?")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score jobs until stopped; SIGTERM gives unfinished jobs back.

    Each process decodes on all cores unless NIGHTREAD_THREADS limits it.
    `celery --workdir / -A worker.app worker` also works.

    With --health: exit code 1 if jobs wait while a worker of this host makes no progress, 5 if the database does not
    answer.

    Example: nightread worker --concurrency 2
    """
    settings = prepare_cluster_process("worker", model=model, device=device)
    if health:
        report_health(settings, check_workers, as_json)
    from worker.queue.celery_app import make_app  # Celery, which a health check does not wait for
    from worker.queue.publisher import Publisher, name_queues

    app = make_app(settings)
    app.priorities = tuple(priority or ())
    Publisher(app, settings).count_waiting()  # one clear line now rather than endless retries later
    open_database(settings).dispose()
    scoring = app.Worker(
        concurrency=concurrency, pool_cls="prefork", without_gossip=True, without_mingle=True, without_heartbeat=True,
        hostname=f"nightread-{os.getpid()}@{socket.gethostname()}", loglevel=settings.log_level,
        queues=name_queues(priority) if priority else None,
        quiet=settings.log_format is LogFormat.JSON,  # Celery's banner is no JSON
    )  # fmt: skip
    scoring.start()
    raise typer.Exit(scoring.exitcode or Exit.OK)
