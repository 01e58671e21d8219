"""`status`: shows the progress of a run."""

from typing import Annotated

import typer

from cli.database import open_database
from cli.options import Json, RunReference
from cli.output.console import print_json
from cli.output.follow import follow_run
from cli.output.run_summary import print_summary, summarise
from db.due_jobs import count_leases
from db.engine import read_clock, reading
from db.runs import find_run
from db.tallies import read_tallies


def status(
    run: RunReference = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for the run to finish; exit codes as for `score`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a run's counts, rate and workers.

    Example: nightread status ward-a --follow
    """
    engine = open_database()
    with reading(engine) as connection:
        found = find_run(connection, run)
    if follow:
        raise typer.Exit(follow_run(engine, found.id, as_json=as_json))
    with reading(engine) as connection:
        tally = read_tallies(connection, [found.id])[found.id]
        workers = count_leases(connection, found.id)
        now = read_clock(connection)
    seconds = ((found.finished_at or now) - found.created_at).total_seconds()
    summary = summarise(found, tally, seconds=seconds) | {"workers": workers}
    if as_json:
        print_json(summary)
    else:
        print_summary(found, tally, summary)
