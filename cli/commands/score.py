"""`score`, `enqueue`, `retry`, `cancel` and `demo`: making runs and seeing them through."""

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.exits import Exit
from cli.options import Device, Json, Model, Name, NamedRun, NoGate, Paths

if TYPE_CHECKING:
    from nightread.settings import Settings
    from worker.process import WorkerProcess


def score(
    paths: Paths,
    name: Name = None,
    model: Model = None,
    device: Device = None,
    no_gate: NoGate = False,
    as_json: Json = False,
) -> None:
    """Score scans now, here, with no server.

    Results go to the database (SQLite under the user's data folder unless NIGHTREAD_DATABASE_URL says otherwise).
    What was scored before is not scored again.

    Example: nightread score ~/scans/tonight
    """
    from nightread.settings import read_settings

    settings = read_settings(model=model, device=device, gate=False if no_gate else None)
    raise typer.Exit(_score_here(settings, paths, name, as_json))


def demo(
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Where to draw the night's scans; a new temporary folder if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw a small night of synthetic scans, faulty files included, and score it.

    The chests are drawn, so their scores mean nothing: this shows the way, not the network. The model's input gate,
    which would reject them, is off.

    Example: nightread demo
    """
    from cli.output.console import say
    from nightread.scan.drawn_chest import write_demo_night
    from nightread.settings import read_settings

    settings = read_settings(gate=False)  # which is there to tell drawn chests from real ones
    night = folder or Path(tempfile.mkdtemp(prefix="nightread-demo-"))
    write_demo_night(night)
    say(f"drew a night of synthetic scans in {night}")
    raise typer.Exit(_score_here(settings, [night], "demo", as_json))


def enqueue(
    paths: Paths,
    name: Name = None,
    model: Model = None,
    no_gate: NoGate = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until the run has ended, and exit as `score` does.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a run for workers to score, publish its jobs and print its id.

    Example: nightread enqueue /scans/2026-11-22 --name ward-a --wait
    """
    from cli.output.console import print_json, say, waiting
    from cli.output.follow import follow_run
    from db.engine import make_engine
    from db.schema import ensure_schema
    from nightread.settings import check_shared_broker, read_settings
    from worker.runs.enqueue import Enqueued, enqueue_run

    settings = read_settings(model=model, gate=False if no_gate else None)
    check_shared_broker(settings, "enqueue")
    engine = make_engine(settings.database_url.get_secret_value())
    written: list[Enqueued] = []
    try:
        with waiting("listing scans"):
            ensure_schema(engine)
            enqueue_run(engine, settings, paths, name=name, on_commit=written.append)
    finally:  # the run is there, even where the broker does not answer
        for enqueued in written:
            if as_json:
                print_json(
                    {
                        "run": enqueued.run_id,
                        "found": enqueued.found,
                        "skipped": sum(enqueued.skipped.values()),
                        "skipped_by_reason": enqueued.skipped,
                    }
                )
            else:
                say(f"{enqueued.found:,} scans enqueued{_in_words(enqueued.skipped)}; run:")
                typer.echo(enqueued.run_id)
    if wait:
        raise typer.Exit(follow_run(engine, written[0].run_id, as_json=as_json))


def retry(run: NamedRun, as_json: Json = False) -> None:
    """Queue the failed scans of a run again; a run of `score` is gone on with here.

    Example: nightread retry ward-a
    """
    _keep_to_one_thread()
    from cli.output.console import print_json, say
    from db.engine import reading
    from db.runs import find_run
    from db.schema import ensure_schema
    from nightread.logs import configure_logging
    from nightread.settings import read_settings
    from worker.process import WorkerProcess
    from worker.runs.embedded import retry_here
    from worker.runs.enqueue import retry_run

    settings = read_settings()
    configure_logging(settings, level="WARNING")
    process = WorkerProcess(settings)
    engine = process.engine
    ensure_schema(engine)
    with reading(engine) as connection:
        found = find_run(connection, run)
    here = found.embedded or not settings.has_shared_broker
    queued = retry_here(process, found) if here else retry_run(engine, settings, found.id)[1]
    if not queued:
        say(f"run {found.id[:8]} has no failed scans")
        return
    if here:
        raise typer.Exit(_work_here(process, found.id, as_json))
    if as_json:
        print_json({"run": found.id, "queued": queued})
    else:
        say(f"{queued:,} scans of run {found.id[:8]} queued again")


def cancel(run: NamedRun, as_json: Json = False) -> None:
    """End a run: what is scored stays, what is not becomes `failed` with the reason `cancelled`.

    Example: nightread cancel ward-a
    """
    from cli.commands.runs import open_database
    from cli.output.console import print_json, say
    from worker.runs.enqueue import cancel_run

    found, ended = cancel_run(open_database(), run)
    if as_json:
        print_json({"run": found.id, "cancelled": ended})
    else:
        say(f"run {found.id[:8]}: {ended:,} open scans cancelled (`nightread retry {found.id[:8]}` queues them again)")


def _score_here(settings: "Settings", paths: list[Path], name: str | None, as_json: bool) -> int:
    _keep_to_one_thread()
    from nightread.inference.early_open import Ahead
    from nightread.logs import configure_logging

    configure_logging(settings, level="WARNING")
    ahead = Ahead(settings)  # while the database's modules are imported, which takes longer
    from cli.output.console import waiting
    from worker.process import WorkerProcess
    from worker.runs.embedded import begin_run

    process = WorkerProcess(settings, ahead)
    with waiting("listing scans"):
        run_id = begin_run(process, paths, name=name)
    return _work_here(process, run_id, as_json)


def _keep_to_one_thread() -> None:
    """Keep NumPy, which is not imported yet, from starting threads that nobody needs: a run may be scored in forks."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _work_here(process: "WorkerProcess", run_id: str, as_json: bool) -> int:
    """Score a run in this process and report it; returns the exit code."""
    from cli.output.console import progress_bar, say
    from cli.output.run_summary import count_run, report_run
    from worker.runs.embedded import gather_crew, run_embedded

    try:
        crew = gather_crew(process, run_id)  # before the bar, which has a thread of its own
        started = time.monotonic()
        with progress_bar("scoring", None) as bar:
            run = run_embedded(process, run_id, lambda counts: bar.set(counts.terminal, counts.found), crew)
    except KeyboardInterrupt:
        done = count_run(process.engine, run_id).counts
        say(
            f"interrupted: {done.scored + done.rejected:,} of {done.found:,} scans are done and stay so; "
            "repeat the command to go on"
        )
        return Exit.INTERRUPTED
    return report_run(
        process.engine, run, seconds=time.monotonic() - started, provider=process.provider, as_json=as_json
    )


def _in_words(skipped: dict[str, Any]) -> str:
    return f" ({', '.join(f'{count} {reason}' for reason, count in skipped.items())} skipped)" if skipped else ""
