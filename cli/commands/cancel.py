"""`cancel`: ends a run."""

from cli.database import open_database
from cli.options import Json, NamedRun
from cli.output.console import print_json, say
from worker.runs.enqueue import cancel_run


def cancel(run: NamedRun, as_json: Json = False) -> None:
    """End a run: its open scans fail with the reason `cancelled`.

    Results that are stored already stay.

    Example: nightread cancel ward-a
    """
    found, ended = cancel_run(open_database(), run)
    if as_json:
        print_json({"run": found.id, "cancelled": ended})
    elif ended:
        say(f"Run {found.id[:8]}: {ended:,} open scans cancelled. To queue them again: nightread retry {found.id[:8]}")
    else:
        say(f"Run {found.id[:8]} already finished; nothing to cancel.")
