"""`retry`: queues the failed scans of a run again."""

import typer

import cli.embedded  # noqa: F401  # before NumPy, which it keeps to one thread
from cli.options import Json, NamedRun
from cli.output.console import print_json, say
from cli.output.embedded_run import score_run
from db.engine import reading
from db.runs import find_run
from db.schema import ensure_schema
from nightread.logs import configure_logging
from nightread.settings import read_settings
from worker.process import WorkerProcess
from worker.runs.embedded import retry_here
from worker.runs.enqueue import retry_run


def retry(run: NamedRun, as_json: Json = False) -> None:
    """Requeue a run's failed scans; a run of `score` resumes in this process.

    Example: nightread retry ward-a
    """
    settings = read_settings()
    configure_logging(settings, default="WARNING")
    process = WorkerProcess(settings)
    ensure_schema(process.engine)
    with reading(process.engine) as connection:
        found = find_run(connection, run)
    here = found.embedded or not settings.has_shared_broker
    queued = retry_here(process, found) if here else retry_run(process.engine, settings, found.id)[1]
    if not queued:
        say(f"Run {found.id[:8]} has no failed scans.")
    elif here:
        raise typer.Exit(score_run(process, found.id, as_json=as_json))
    elif as_json:
        print_json({"run": found.id, "queued": queued})
    else:
        say(f"{queued:,} scans of run {found.id[:8]} queued again.")
