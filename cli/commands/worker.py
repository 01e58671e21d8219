"""`worker`, `beat` and `sweep`: the processes of a cluster."""

import os
import signal
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cli.exits import Exit
from cli.options import Device, Json, Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from nightread.settings import Settings
    from worker.health import Health


def worker(
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Processes that score side by side.")
    ] = 1,
    model: Model = None,
    device: Device = None,
    beat: Annotated[
        bool, typer.Option("--beat/--no-beat", hidden=True, help="Without effect: each worker process sweeps.")
    ] = True,
    health: Annotated[
        bool, typer.Option("--health", help="Start nothing: say whether the workers of this host get anywhere.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score jobs until told to stop (SIGTERM finishes the jobs under way first).

    Each process decodes on all cores unless NIGHTREAD_THREADS says how many. `celery -A worker.app worker` works too.

    With --health: exit code 1 where jobs wait and a worker of this host stands still, 5 where the database is away.

    Example: nightread worker --concurrency 2
    """
    settings = _prepare_cluster_process("worker", model=model, device=device)
    if health:
        from worker.health import check_workers

        _report_health(settings, check_workers, as_json)
    from worker.queue.celery_app import make_app
    from worker.queue.publisher import Publisher

    app = make_app(settings)
    Publisher(app, settings).count_waiting()  # one clear line now rather than endless retries later
    arguments = ["worker", f"--concurrency={concurrency}", "--pool=prefork", "--without-gossip", "--without-mingle",
                 "--without-heartbeat",
                 f"--hostname=nightread-{os.getpid()}@%h", f"--loglevel={settings.log_level}"]  # fmt: skip
    app.worker_main(arguments)


def beat(
    health: Annotated[bool, typer.Option("--health", help="Start nothing: check that due jobs are published.")] = False,
    as_json: Json = False,
) -> None:
    """Close ended runs and republish lost jobs, every NIGHTREAD_SWEEP_S seconds. Workers do so too.

    With --health: exit code 1 where jobs are due that nobody publishes, 5 where the database is away.

    Example: nightread beat
    """
    settings = _prepare_cluster_process("beat")
    if health:
        from worker.health import check_sweeping

        _report_health(settings, check_sweeping, as_json)
    from cli.commands.runs import open_database
    from worker.queue.celery_app import make_app
    from worker.queue.publisher import Publisher
    from worker.queue.sweeper import Sweeper

    publisher = Publisher(make_app(settings), settings)
    publisher.count_waiting()
    sweeper = Sweeper(publisher, open_database(), settings.sweep_s)
    for number in (signal.SIGINT, signal.SIGTERM):  # in a container this is process 1, which no signal ends by itself
        signal.signal(number, lambda *_: sweeper.stop())
    sweeper.run()


def sweep(as_json: Json = False) -> None:
    """Publish again, now, whatever the database says is not finished and nobody works on.

    Example: nightread sweep
    """
    from cli.commands.runs import open_database
    from cli.output.console import print_json, say

    settings = _prepare_cluster_process("sweep")
    from worker.queue.celery_app import make_app
    from worker.queue.publisher import Publisher

    published = Publisher(make_app(settings), settings).sweep(open_database())
    if as_json:
        print_json({"published": published})
    else:
        say(f"{published:,} jobs published")


def _report_health(settings: "Settings", check: "Callable[[Engine, Settings], Health]", as_json: bool) -> NoReturn:
    from cli.output.console import print_json, say
    from db.engine import make_engine
    from db.schema import check_schema

    engine = make_engine(settings.database_url.get_secret_value())
    check_schema(engine)
    found = check(engine, settings)
    if as_json:
        print_json(found.describe())
    else:
        moving = [f"worker {worker.pid}: {worker.last} {worker.still_s:.0f} s ago" for worker in found.workers]
        say("; ".join(found.faults or [*moving, f"{found.due_jobs:,} jobs wait"]))
    raise typer.Exit(Exit.ERROR if found.faults else Exit.OK)


def _prepare_cluster_process(command: str, **overrides: str | None) -> "Settings":
    """Read the settings, and hand what the command line overrides to child processes through the environment."""
    from nightread.logs import configure_logging
    from nightread.settings import check_shared_broker, read_settings

    for name, value in overrides.items():
        if value is not None:
            os.environ[f"NIGHTREAD_{name.upper()}"] = value
    settings = read_settings()
    check_shared_broker(settings, command)
    configure_logging(settings)
    return settings
