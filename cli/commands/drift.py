"""`drift`: compares a run's scans with the training data or with another run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.database import open_database
from cli.options import MOST_ROWS, Json, RunReference
from cli.output.console import is_verbose, print_json, say, waiting
from cli.output.private_file import write_private
from nightread.model.drift import FALSE_ALARMS, Shift
from worker.report.charts import draw_drift
from worker.runs.drift import (
    MeasuredDrift,
    describe_drift,
    find_farthest,
    measure_against_first,
    measure_drift,
    measure_trend,
)
from worker.runs.drift_histogram import make_histograms


def drift(
    run: RunReference = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="RUN", help="Run of the same model to compare with, instead of the card."),
    ] = None,
    trend: Annotated[
        int,
        typer.Option("--trend", min=0, max=MOST_ROWS, metavar="NIGHTS", help="Also this many earlier runs like it."),
    ] = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.svg", help="Write the pictures as SVG.")] = None,
    as_json: Json = False,
) -> None:
    """Check whether a run's scans resemble the training data.

    Needs no labels: compares scores, embeddings, pixels and the rejections of the input gate with the reference in the
    model's card, and with what chance alone would do. A run that differs is also compared with the first run of its
    schedule, folders or name: files of another kind than the training's always differ. --verbose shows all numbers. The
    exit code is 0 in any case; --json has the answer in "looks_alike", which is null if there are too few scans.

    Example: nightread drift ward-a --trend 14
    """
    engine = open_database()
    with waiting("measuring"):
        measured = measure_drift(engine, run, against=against)
        is_other = against is None and measured.drift.looks_alike is False
        first = measure_against_first(engine, measured) if is_other else None
        nights = measure_trend(engine, first or measured, trend) if trend else []
    if out is not None:
        _write_picture(out, first or measured, nights)
    if as_json:
        told = _describe(measured)
        told |= {"first_night": None if first is None else _describe(first)}
        print_json(told | {"trend": [_describe_night(night) for night in nights]})
        return
    from cli.output import drift_page  # Rich, which --json does not need
    from cli.output.tables import out as screen

    drift_page.print_drift(measured, first, screen)
    if nights:
        screen.print()
        drift_page.print_trend(nights, screen)
    if is_verbose():
        screen.print()
        drift_page.print_numbers(first or measured, screen)


def _write_picture(file: Path, measured: MeasuredDrift, nights: list[MeasuredDrift]) -> None:
    histograms = [one.describe() for one in make_histograms(measured)]
    distances = {
        name: [next((shift.ks for shift in night.drift.shifts if shift.name == name), 0.0) for night in nights]
        for name in (histogram["name"] for histogram in histograms)
    }
    farthest = find_farthest(measured)
    picture = draw_drift(
        describe_drift(measured),
        histograms,
        [f"{night.run.created_at.astimezone():%m-%d}" for night in nights],
        distances,
        farthest.critical_ks if farthest else 0.0,
    )
    write_private(file, picture)
    say(f"pictures: {file}")


def _describe_night(night: MeasuredDrift) -> dict[str, Any]:
    farthest = find_farthest(night)
    return {
        "run": night.run.id, "name": night.run.name, "created_at": night.run.created_at,
        "measured": night.night.measured, "looks_alike": night.drift.looks_alike,
        "farthest": None if farthest is None else farthest.name,
        "ks": None if farthest is None else farthest.ks,
    }  # fmt: skip


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
