"""`runs`: lists the runs."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from cli.database import open_database
from cli.options import MOST_ROWS, Json, read_moment
from cli.output.console import print_json, say, show_time
from db.engine import reading
from db.runs import RunInfo, list_runs
from db.tallies import read_tallies
from db.types import RunStatus

_COUNTS = ("queued", "scored", "rejected", "failed", "reused")


def runs(
    name: Annotated[str | None, typer.Option("--name", help="Only runs whose name holds this text.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", metavar="TIME", parser=read_moment, help="Only runs created since: 12h, 7d, a date."),
    ] = None,
    status: Annotated[
        list[RunStatus] | None, typer.Option("--status", help="Only runs with this status; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MOST_ROWS, help="Number of runs to show.")] = 20,
    as_json: Json = False,
) -> None:
    """List runs, newest first.

    Example: nightread runs --since 7d --status running
    """
    with reading(open_database()) as connection:
        listed = list_runs(connection, limit, name=name, since=since, statuses=status or [])
        tallies = read_tallies(connection, [run.id for run in listed])
    if as_json:
        print_json(
            [
                {
                    "run": run.id, "name": run.name, "status": run.status.value, "found": run.found,
                    "skipped": sum(run.skipped.values()), "model": run.model, "sources": run.sources,
                    "created_at": run.created_at, "finished_at": run.finished_at, "pruned": run.pruned,
                    "priority": run.priority.value, "schedule": run.schedule, "night": run.night,
                    "guard": run.guard, "guard_text": run.guard_text,
                    **{name: getattr(tallies[run.id].counts, name) for name in _COUNTS},
                }
                for run in listed
            ]
        )  # fmt: skip
        return
    if not listed:
        is_narrowed = bool(name or since or status)
        say("no runs" if is_narrowed else "No runs yet. Start one: nightread score FOLDER")
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
            run.id[:8], run.name, _show_status(run, paint), f"{run.found:,}", *cells, run.model,
            show_time(run.created_at),
        )  # fmt: skip
    out.print(table)


def _show_status(run: RunInfo, paint: Callable[..., Any]) -> Any:
    """Return a run's status, or the guard that tripped at its end."""
    return paint(run.status.value) if run.guard in {None, "passed"} else paint(str(run.guard), of="failed")
