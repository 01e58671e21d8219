"""`cancel`: ends a run."""

import typer

from cli.database import open_database
from cli.exits import Exit
from cli.options import Json, NamedRun
from cli.output.console import print_json, say
from db.types import RunStatus
from worker.runs.enqueue import cancel_run


def cancel(run: NamedRun, as_json: Json = False) -> None:
    """End a run: its open scans fail with the reason `cancelled`.

    Results that are stored already stay. The exit code is 1 if the run has already finished.

    Example: nightread cancel ward-a
    """
    found, ended = cancel_run(open_database(), run)
    if as_json:
        print_json({"run": found.id, "cancelled": ended})
    elif ended:
        say(f"Run {found.id[:8]}: {ended:,} open scans cancelled. To queue them again: nightread retry {found.id[:8]}")
    elif found.status is RunStatus.CANCELLED:
        say(f"Run {found.id[:8]} was cancelled already.")
    else:
        say(f"Run {found.id[:8]} has already finished; nothing to cancel.")
    if not ended and found.status is RunStatus.FINISHED:
        raise typer.Exit(Exit.ERROR)
