"""`runs`: lists the runs."""

from typing import Annotated

import typer

from cli.database import open_database
from cli.options import Json
from cli.output.console import print_json, say, show_time
from db.engine import reading
from db.runs import list_runs
from db.tallies import read_tallies

_COUNTS = ("queued", "scored", "rejected", "failed", "reused")


def runs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="Number of runs to show.")] = 20,
    as_json: Json = False,
) -> None:
    """List runs, newest first.

    Example: nightread runs --limit 5
    """
    with reading(open_database()) as connection:
        listed = list_runs(connection, limit)
        tallies = read_tallies(connection, [run.id for run in listed])
    if as_json:
        print_json(
            [
                {
                    "run": run.id, "name": run.name, "status": run.status.value, "found": run.found,
                    "skipped": sum(run.skipped.values()), "model": run.model, "sources": run.sources,
                    "created_at": run.created_at, "finished_at": run.finished_at, "pruned": run.pruned,
                    **{name: getattr(tallies[run.id].counts, name) for name in _COUNTS},
                }
                for run in listed
            ]
        )  # fmt: skip
        return
    if not listed:
        say("No runs yet. Start one: nightread score FOLDER")
        return
    from cli.output.tables import make_table, out, paint

    table = make_table(
        "run", "name", "status", "found", *_COUNTS[1:], "model", "started", right=("found", *_COUNTS),
        spare=("started", "model", "reused"),
    )  # fmt: skip
    for run in listed:
        counts = {name: getattr(tallies[run.id].counts, name) for name in _COUNTS[1:]}
        cells = (paint(f"{count:,}", of=name if count else "") for name, count in counts.items())
        table.add_row(
            run.id[:8], run.name, paint(run.status.value), f"{run.found:,}", *cells, run.model,
            show_time(run.created_at),
        )  # fmt: skip
    out.print(table)
