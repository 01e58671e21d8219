"""`worker`, `beat` and `sweep`: the processes of a cluster."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Device, Json, Model

if TYPE_CHECKING:
    from nightread.settings import Settings


def worker(
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Processes that score side by side.")
    ] = 1,
    model: Model = None,
    device: Device = None,
    beat: Annotated[bool, typer.Option("--beat/--no-beat", help="Sweep for lost jobs every minute, too.")] = True,
) -> None:
    """Score jobs until told to stop (SIGTERM finishes the jobs under way first).

    Each process decodes on all cores unless NIGHTREAD_THREADS says how many. `celery -A worker.app worker` works too.

    Example: nightread worker --concurrency 2
    """
    settings = _prepare_cluster_process("worker", model=model, device=device)
    from worker.publisher import Publisher
    from worker.queue import make_app

    app = make_app(settings)
    Publisher(app, settings).count_waiting()  # one clear line now rather than endless retries later
    arguments = ["worker", f"--concurrency={concurrency}", "--pool=prefork", "--without-gossip", "--without-mingle",
                 "--without-heartbeat",
                 f"--hostname=nightread-{os.getpid()}@%h", f"--loglevel={settings.log_level}"]  # fmt: skip
    app.worker_main([*arguments, "--beat"] if beat else arguments)


def beat() -> None:
    """Ask the workers to sweep for lost jobs, every NIGHTREAD_SWEEP_S seconds; for clusters whose workers do not.

    Example: nightread beat
    """
    settings = _prepare_cluster_process("beat")
    from worker.publisher import Publisher
    from worker.queue import make_app

    app = make_app(settings)
    Publisher(app, settings).count_waiting()
    app.start(["beat", "--pidfile=", f"--loglevel={settings.log_level}"])


def sweep(as_json: Json = False) -> None:
    """Publish again, now, whatever the database says is not finished and nobody works on.

    Example: nightread sweep
    """
    from cli.console import print_json, say
    from cli.runs import open_database

    settings = _prepare_cluster_process("sweep")
    from worker.publisher import Publisher
    from worker.queue import make_app

    published = Publisher(make_app(settings), settings).sweep(open_database())
    if as_json:
        print_json({"published": published})
    else:
        say(f"{published:,} jobs published")


def _prepare_cluster_process(command: str, **overrides: str | None) -> "Settings":
    """Read the settings, and hand what the command line overrides to child processes through the environment."""
    from cli.scoring import need_shared_broker
    from nightread.logs import configure_logging
    from nightread.settings import read_settings

    for name, value in overrides.items():
        if value is not None:
            os.environ[f"NIGHTREAD_{name.upper()}"] = value
    settings = read_settings()
    need_shared_broker(settings, command)
    configure_logging(settings)
    return settings
