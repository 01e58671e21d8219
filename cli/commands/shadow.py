"""`shadow`: what another model makes of a past run, before it is promoted."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Device, Json, NamedRun

if TYPE_CHECKING:
    from worker.runs.shadow import Shadow


def shadow(
    run: NamedRun,
    model: Annotated[str, typer.Option("--model", metavar="NAME[@VERSION]", help="The other model bundle.")],
    most_moved: Annotated[
        int, typer.Option("--most-moved", min=0, help="List so many of the scans whose score moved most.")
    ] = 10,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score the scans of a past run with another model, here and now, and show what would have been different.

    The past run and its results stay as they are, and no run is made. The scores are kept for the first run with that
    model; interrupted, the same command goes on from there.

    Example: nightread shadow ward-a --model pneumonia-cnn75@2
    """
    from cli.output.console import print_json, progress_bar
    from db.engine import reading
    from db.runs import find_run
    from db.schema import ensure_schema
    from nightread.logs import configure_logging
    from nightread.settings import read_settings
    from worker.process import WorkerProcess
    from worker.registry.choose import choose_bundle
    from worker.runs.shadow import shadow_run

    settings = read_settings(model=model, device=device)
    configure_logging(settings, level="WARNING")
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
    if as_json:
        print_json(_describe(shadowed, seconds))
    else:
        _print(shadowed, seconds)


def _describe(shadowed: "Shadow", seconds: float) -> dict[str, Any]:
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


def _print(shadowed: "Shadow", seconds: float) -> None:
    from cli.output.tables import make_table, out
    from nightread.text import show_duration, show_text

    run = shadowed.run
    out.print(f"run {run.id[:8]} ({show_text(run.name)}): {run.model} -> {shadowed.model}", markup=False)
    gone = ", ".join(f"{count:,} {reason}" for reason, count in shadowed.without_score.most_common())
    parts = f"{shadowed.compared:,} compared" + (f" + {gone}" if gone else "")
    out.print(f"{shadowed.scored:,} scored in the run = {parts}; {shadowed.reused:,} reused", markup=False)
    for shift in shadowed.labels:
        figures = shift.describe()
        out.print(f"\n{shift.label}", markup=False, style="bold")
        table = make_table("scans", "share", "decision", right=("scans", "share"))
        table.add_row(f"{shift.agreed:,}", f"{figures['agreement']:.2%}", "the same")
        for flip in figures["flips"]:
            table.add_row(f"{flip['scans']:,}", f"{flip['share']:.2%}", f"{flip['before']} -> {flip['after']}")
        out.print(table)
        moved = figures["shift"]
        quantiles = ", ".join(f"{float(share):.0%} {value:+.4f}" for share, value in moved["quantiles"].items())
        out.print(
            f"score moved by {moved['mean']:+.4f} on average, {moved['mean_absolute']:.4f} without sign, at most "
            f"{moved['largest_absolute']:.4f}; quantiles {quantiles}",
            markup=False,
        )
        if figures["moved"]:
            most = make_table("score", "", "moved", "decision", "scan", right=("score", "moved"))
            for one in figures["moved"]:
                flipped = one["decision_before"] != one["decision_after"]
                decision = f"{one['decision_before']} -> {one['decision_after']}" if flipped else one["decision_after"]
                most.add_row(
                    f"{one['score_before']:.4f}", f"-> {one['score_after']:.4f}", f"{one['shift']:+.4f}", decision,
                    show_text(one["path"]),
                )  # fmt: skip
            out.print(most)
    out.print(f"\n{show_duration(seconds)}; the run and its results are as they were", markup=False, style="dim")
