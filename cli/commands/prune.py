"""`prune`: deletes old runs."""

from typing import Annotated

import typer

from cli.database import open_database
from cli.options import Json, read_duration_option
from cli.output.console import print_json, progress_bar, say, show_time
from db.engine import reading
from db.retention import Pruned, count_prunable, find_cutoff
from db.retention import prune as prune_runs


def prune(
    older_than: Annotated[
        float,
        typer.Option("--older-than", metavar="AGE", parser=read_duration_option, help="Age since their end: 90d, 12w."),
    ],
    keep_positives: Annotated[
        bool, typer.Option("--keep-positives", help="Keep scans whose decision is a finding, and their runs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be deleted.")] = False,
    as_json: Json = False,
) -> None:
    """Delete runs that ended long ago, with all that belongs to them.

    Scans, jobs and counts of these runs are deleted, then the scores and measurements of contents that no scan refers
    to. Each transaction is short, so workers go on; an interrupted command is repeated. Models stay, open runs too.

    Example: nightread prune --older-than 90d --keep-positives --dry-run
    """
    engine = open_database()
    with reading(engine) as connection:
        cutoff = find_cutoff(connection, older_than)
        pruned = count_prunable(connection, cutoff, keep_positives=keep_positives) if dry_run else Pruned()
    if not dry_run:
        with progress_bar("deleting scans", None) as bar:
            pruned = prune_runs(engine, cutoff, keep_positives=keep_positives, on_progress=bar.set)
    if as_json:
        print_json({"ended_before": cutoff, "dry_run": dry_run, **pruned.describe()})
        return
    counts = pruned.describe()
    kept = counts.pop("kept")
    named = [(count, name.replace("_", " ").removesuffix("s" if count == 1 else "")) for name, count in counts.items()]
    listed = ", ".join(f"{count:,} {name}" for count, name in named if count) or "nothing"
    stays = f"; {kept:,} positive scans stay" if kept else ""
    verb = "would delete" if dry_run else "deleted"
    say(f"Runs that ended before {show_time(cutoff)}: {verb} {listed}{stays}.")
