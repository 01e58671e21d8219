"""`status`: shows the progress of a run."""

from typing import Annotated, Any

import typer

from cli.database import open_database
from cli.options import Json, RunReference
from cli.output.console import print_json
from cli.output.follow import follow_run
from cli.output.run_summary import print_summary, summarise
from db.engine import read_clock, reading
from db.pace import Pace, find_pace
from db.runs import find_run
from db.tallies import read_tallies


def status(
    run: RunReference = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for the run to finish; exit codes as for `score`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a run's counts, and the pace of an open one.

    The pace is the rate of the last minute, the place in the queue, the scans that wait for their next try, the
    workers, and an estimate of the end: what is left at that rate, or for a run that no worker has begun what goes
    before it, too.

    Example: nightread status ward-a --follow
    """
    engine = open_database()
    with reading(engine) as connection:
        found = find_run(connection, run)
    if follow:
        raise typer.Exit(follow_run(engine, found.id, as_json=as_json))
    with reading(engine) as connection:
        tally = read_tallies(connection, [found.id])[found.id]
        pace = find_pace(connection, found) if found.finished_at is None else None
        now = read_clock(connection)
    seconds = ((found.finished_at or now) - found.created_at).total_seconds()
    summary = summarise(found, tally, seconds=seconds) | _describe(pace)
    if as_json:
        print_json(summary)
    else:
        print_summary(found, tally, summary, pace)


def _describe(pace: Pace | None) -> dict[str, Any]:
    """Return the fields of `--json` about an open run; fields are only ever added."""
    if pace is None:
        return {"workers": 0, "worker_names": []}
    return {
        "workers": len(pace.workers), "worker_names": pace.workers, "queue_place": pace.place,
        "queue_runs": pace.runs, "queue_scans_before": pace.before,
        "scans_per_second_last_minute": round(pace.rate, 2),
        "seconds_left": None if pace.left_s is None else round(pace.left_s, 1), "ends_at": pace.ends_at,
        "scans_waiting": pace.waiting, "next_try_at": pace.next_try_at,
    }  # fmt: skip
