"""`shadow`: scores a past run with another model."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Device, Json, NamedRun
from cli.output.console import print_json, progress_bar, say
from cli.output.private_file import write_private
from db.engine import reading
from db.runs import find_run
from db.schema import ensure_schema
from nightread.logs import configure_logging
from nightread.settings import read_settings
from nightread.text import show_duration, show_text
from worker.process import WorkerProcess
from worker.registry.choose import choose_bundle
from worker.report.model_pages import render_shadow
from worker.runs.shadow import Shadow, shadow_run


def shadow(
    run: NamedRun,
    model: Annotated[str, typer.Option("--model", metavar="NAME[@VERSION]", help="Other model bundle.")],
    most_moved: Annotated[
        int, typer.Option("--most-moved", min=0, help="Number of scans to list, by change of score.")
    ] = 10,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a scatter and the flipped scans.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score a past run with another model and show what changes.

    The past run and its results stay unchanged, and no run is created. The scores are stored for the first run with
    that model; after an interruption the same command continues.

    Example: nightread shadow ward-a --model pneumonia-cnn75@2
    """
    settings = read_settings(model=model, device=device)
    configure_logging(settings, default="WARNING")
    process = WorkerProcess(settings)
    ensure_schema(process.engine)
    with reading(process.engine) as connection:
        found = find_run(connection, run)
    bundle = choose_bundle(process.engine, settings, allow_retired=True).bundle
    started = time.monotonic()
    try:
        with progress_bar("scoring", None) as bar:
            shadowed = shadow_run(process, found, bundle, most_moved=most_moved, on_progress=bar.set)
    finally:
        process.close()
    seconds = time.monotonic() - started
    if report is not None:
        write_private(report, render_shadow(shadowed, bundle.card.model_dump(mode="json")))
        say(f"report: {report}")
    if as_json:
        print_json(_describe(shadowed, seconds))
    else:
        _print(shadowed, seconds)


def _describe(shadowed: Shadow, seconds: float) -> dict[str, Any]:
    return {
        "run": shadowed.run.id,
        "name": shadowed.run.name,
        "model": shadowed.run.model,
        "shadow": shadowed.model,
        "scored": shadowed.scored,
        "compared": shadowed.compared,
        "reused": shadowed.reused,
        "without_score": dict(shadowed.without_score.most_common()),
        "seconds": round(seconds, 3),
        "labels": {shift.label: shift.describe() for shift in shadowed.labels},
    }


def _print(shadowed: Shadow, seconds: float) -> None:
    from cli.output.tables import make_table, out  # Rich, which --json does not need

    run = shadowed.run
    out.print(f"run {run.id[:8]} ({show_text(run.name)}): {run.model} -> {shadowed.model}")
    gone = ", ".join(f"{count:,} {reason}" for reason, count in shadowed.without_score.most_common())
    parts = f"{shadowed.compared:,} compared" + (f" + {gone}" if gone else "")
    out.print(f"{shadowed.scored:,} scored in the run = {parts}; {shadowed.reused:,} reused")
    for shift in shadowed.labels:
        figures = shift.describe()
        out.print(f"\n{shift.label}", style="bold")
        table = make_table("scans", "share", "decision", right=("scans", "share"))
        table.add_row(f"{shift.agreed:,}", f"{figures['agreement']:.2%}", "unchanged")
        for flip in figures["flips"]:
            table.add_row(f"{flip['scans']:,}", f"{flip['share']:.2%}", f"{flip['before']} -> {flip['after']}")
        out.print(table)
        moved = figures["shift"]
        quantiles = ", ".join(f"{float(share):.0%} {value:+.4f}" for share, value in moved["quantiles"].items())
        out.print(
            f"score change: mean {moved['mean']:+.4f}, mean absolute {moved['mean_absolute']:.4f}, largest "
            f"{moved['largest_absolute']:.4f}; quantiles {quantiles}",
        )
        if figures["moved"]:
            most = make_table("score", "", "change", "decision", "scan", right=("score", "change"))
            for one in figures["moved"]:
                flipped = one["decision_before"] != one["decision_after"]
                decision = f"{one['decision_before']} -> {one['decision_after']}" if flipped else one["decision_after"]
                most.add_row(
                    f"{one['score_before']:.4f}", f"-> {one['score_after']:.4f}", f"{one['shift']:+.4f}", decision,
                    one["path"],
                )  # fmt: skip
            out.print(most)
    out.print(f"\n{show_duration(seconds)}; the run and its results are unchanged", style="dim")
