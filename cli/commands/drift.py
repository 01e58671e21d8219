"""`drift`: compares a run's scans with the training data or with another run."""

from typing import Annotated, Any

import typer

from cli.database import open_database
from cli.options import Json, RunReference
from cli.output.console import print_json
from nightread.model.drift import FALSE_ALARMS, Shift
from nightread.text import show_text
from worker.runs.drift import MeasuredDrift, describe_drift, measure_drift


def drift(
    run: RunReference = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="RUN", help="Run of the same model to compare with, instead of the card."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check whether a run's scans resemble the training data.

    Needs no labels: compares scores, embeddings, pixels and the rejections of the input gate with the reference in the
    model's card, and with what chance alone would do. The exit code is 0 in any case; --json has the answer in
    "looks_alike", which is null if there are too few scans.

    Example: nightread drift ward-a
    """
    measured = measure_drift(open_database(), run, against=against)
    if as_json:
        print_json(_describe(measured))
    else:
        _print(measured)


def _describe(measured: MeasuredDrift) -> dict[str, Any]:
    run, other, night, drifted = measured.run, measured.against, measured.night, measured.drift
    rejections = drifted.rejections
    return {
        "run": run.id,
        "name": run.name,
        "model": run.model,
        "against": "training data" if other is None else other.id,
        "looks_alike": drifted.looks_alike,
        "verdict": describe_drift(measured),
        "scans": night.scans,
        "measured": night.measured,
        "reference_scans": measured.reference.scans,
        "false_alarms": FALSE_ALARMS,
        "measurements": {shift.name: _describe_shift(shift) for shift in drifted.shifts},
        "gate": None
        if rejections is None
        else {
            "judged": rejections.judged, "rejected": rejections.rejected,
            "share": rejections.rejected / rejections.judged, "reference_share": rejections.reference_share,
            "chance": rejections.p_value, "alarm_below": rejections.alpha, "alarm": rejections.is_alarm,
        },
    }  # fmt: skip


def _describe_shift(shift: Shift) -> dict[str, Any]:
    return {
        "scans": shift.scans, "median": shift.median, "reference_median": shift.reference_median, "psi": shift.psi,
        "psi_by_chance": shift.critical_psi, "ks": shift.ks, "ks_by_chance": shift.critical_ks,
        "alarm": shift.is_alarm,
    }  # fmt: skip


def _print(measured: MeasuredDrift) -> None:
    from cli.output.tables import make_table, out  # Rich, which --json does not need

    run, other, night = measured.run, measured.against, measured.night
    unmeasured = night.scans - night.measured
    out.print(
        f"run {run.id[:8]} ({show_text(run.name)}): {night.measured:,} scans measured"
        + (f", {unmeasured:,} not (unreadable, or scored before measurements were stored)" if unmeasured else "")
        + f"; {run.model}, reference: {measured.reference.scans:,} scans of "
        + ("its hold-out" if other is None else f"run {other.id[:8]} ({show_text(other.name)})"),
    )
    numbers = ("scans", "median", "reference", "PSI", "critical", "KS", "critical ")
    table = make_table(
        "measurement", *numbers, "", right=numbers, spare=("reference", "median", "critical ", "critical", "scans")
    )
    for shift in measured.drift.shifts:
        table.add_row(
            shift.name.replace("_", " "), f"{shift.scans:,}", f"{shift.median:.3g}", f"{shift.reference_median:.3g}",
            f"{shift.psi:.3f}", f"{shift.critical_psi:.3f}", f"{shift.ks:.3f}", f"{shift.critical_ks:.3f}",
            "moved" if shift.is_alarm else "",
        )  # fmt: skip
    out.print(table)
    if (found := measured.drift.rejections) is not None:
        out.print(
            f"input gate: rejects {found.rejected:,} of {found.judged:,} scans ({found.rejected / found.judged:.1%}), "
            f"reference {found.reference_share:.1%}" + (": more than chance explains" if found.is_alarm else ""),
        )
    out.print(describe_drift(measured), style="bold")
