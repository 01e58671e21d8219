"""`verify`: scores a run again and compares."""

from typing import Annotated

import typer

from cli.exits import Exit
from cli.options import Device, Json, RunReference
from cli.output.console import print_json, progress_bar, say
from db.engine import reading
from db.runs import find_run
from db.schema import ensure_schema
from nightread.logs import configure_logging
from nightread.settings import read_settings
from nightread.text import show_text
from worker.process import WorkerProcess
from worker.runs.verification import Agreement, Verification, verify_run

_TEXTS = {
    Agreement.EQUAL: "equal to the last bit, or rejected for the same reason",
    Agreement.CLOSE: "within tolerance",
    Agreement.CHANGED: "changed",
    Agreement.MISSING: "missing: the file is gone or cannot be read",
}


def verify(
    run: RunReference = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Number of scans, drawn at random; default: all.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Number of differing scans to list.")] = 20,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score a run's files again and compare with what is stored.

    Nothing is stored. Exit code 1 if a scan has changed, 3 if files are missing and no scan has changed.

    Example: nightread verify ward-a --sample 200
    """
    settings = read_settings(device=device)
    configure_logging(settings, default="WARNING")
    process = WorkerProcess(settings)
    try:
        ensure_schema(process.engine)
        with reading(process.engine) as connection:
            found = find_run(connection, run)
        with progress_bar("scoring again", None) as bar:
            verification = verify_run(process, found, sample=sample, on_progress=bar.set)
    finally:
        process.close()
    if as_json:
        print_json(verification.describe())
    else:
        _print(verification, limit)
    if verification.counts[Agreement.CHANGED]:
        raise typer.Exit(Exit.ERROR)
    if verification.counts[Agreement.MISSING]:
        raise typer.Exit(Exit.SOME_FAILED)


def _print(verification: Verification, limit: int) -> None:
    from cli.output.tables import make_table, out, paint  # Rich, which --json does not need

    run = verification.run
    out.print(f"run {run.id[:8]} ({show_text(run.name)}): {run.model}")
    table = make_table("scans", "", right=("scans",), text=("",))
    colors = {Agreement.CHANGED: "failed", Agreement.MISSING: "rejected"}
    for agreement, text in _TEXTS.items():
        count = verification.counts[agreement]
        table.add_row(f"{count:,}", paint(text, of=colors.get(agreement, "") if count else ""))
    out.print(table)
    out.print(
        f"{verification.checked:,} of {verification.ended:,} scored and rejected scans; largest difference of a score "
        f"{verification.largest_difference:.2g}, allowed {verification.tolerance:.2g}"
    )
    if verification.differing and limit:
        listed = make_table("", "why", "scan", text=("why",))
        for scan in verification.differing[:limit]:
            listed.add_row(scan.agreement.value, scan.why, scan.path)
        out.print(listed)
        if len(verification.differing) > limit:
            say(f"{len(verification.differing) - limit:,} more: --limit, or --json for all")
