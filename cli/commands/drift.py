"""`drift`: whether a night looks like the data that its model was trained on."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, RunReference
from worker.runs.drift import Night, check_run, gather, measure_run, read_reference

if TYPE_CHECKING:
    from db.runs import RunInfo
    from nightread.model.card import Reference
    from nightread.model.drift import Drift, Shift


def drift(
    run: RunReference = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="RUN", help="Compare with this run of the same model, a night that was looked at."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether a run's scans look like the training data, without labels, by what was measured of them.

    Scores, embeddings, pixels and the input gate's rejections are held against the reference in the model's card, and
    against what chance alone would do. The exit code is 0 whatever the answer is: look into "looks_alike" of --json,
    which is null where there are too few scans to tell.

    Example: nightread drift ward-a
    """
    from cli.commands.runs import open_database
    from cli.output.console import print_json
    from db.engine import reading
    from db.measurements import stream_measured
    from db.runs import find_run
    from nightread.model.drift import compare

    engine = open_database()
    with reading(engine) as connection:
        found = find_run(connection, run)
        other = None if against is None else find_run(connection, against)
        if other is None:
            card, reference = read_reference(connection, found)
        else:
            card, reference = measure_run(connection, other, found)
        night = gather(stream_measured(connection, found.id, card["labels"][0]))
    check_run(night, found)
    drifted = compare(reference, night.to_arrays(), rejected=night.rejected, judged=night.judged)
    if as_json:
        print_json(_describe(found, other, night, reference, drifted))
    else:
        _print(found, other, night, reference, drifted)


def _describe(
    run: "RunInfo", other: "RunInfo | None", night: Night, reference: "Reference", drifted: "Drift"
) -> dict[str, Any]:
    from nightread.model.drift import FALSE_ALARMS

    rejections = drifted.rejections
    return {
        "run": run.id,
        "name": run.name,
        "model": run.model,
        "against": "training data" if other is None else other.id,
        "looks_alike": drifted.looks_alike,
        "verdict": _tell(drifted, night, other),
        "scans": night.scans,
        "measured": night.measured,
        "reference_scans": reference.scans,
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


def _describe_shift(shift: "Shift") -> dict[str, Any]:
    return {
        "scans": shift.scans, "median": shift.median, "reference_median": shift.reference_median, "psi": shift.psi,
        "psi_by_chance": shift.critical_psi, "ks": shift.ks, "ks_by_chance": shift.critical_ks,
        "alarm": shift.is_alarm,
    }  # fmt: skip


def _print(run: "RunInfo", other: "RunInfo | None", night: Night, reference: "Reference", drifted: "Drift") -> None:
    from cli.output.tables import make_table, out
    from nightread.text import show_text

    unmeasured = night.scans - night.measured
    out.print(
        f"run {run.id[:8]} ({show_text(run.name)}): {night.measured:,} scans measured"
        + (f", {unmeasured:,} not (they could not be read, or were scored before)" if unmeasured else "")
        + f"; {run.model}, {reference.scans:,} scans of "
        + ("its hold-out" if other is None else f"run {other.id[:8]} ({show_text(other.name)})"),
        markup=False,
    )
    numbers = ("scans", "median", "there", "PSI", "by chance", "KS", "by chance ")
    table = make_table("measurement", *numbers, "", right=numbers)
    for shift in drifted.shifts:
        table.add_row(
            shift.name.replace("_", " "), f"{shift.scans:,}", f"{shift.median:.3g}", f"{shift.reference_median:.3g}",
            f"{shift.psi:.3f}", f"{shift.critical_psi:.3f}", f"{shift.ks:.3f}", f"{shift.critical_ks:.3f}",
            "moved" if shift.is_alarm else "",
        )  # fmt: skip
    out.print(table)
    if drifted.rejections is not None:
        found = drifted.rejections
        share = found.rejected / found.judged
        out.print(
            f"the input gate rejects {found.rejected:,} of {found.judged:,} scans ({share:.1%}), "
            f"{found.reference_share:.1%} there" + (": more than chance explains" if found.is_alarm else ""),
            markup=False,
        )
    out.print(_tell(drifted, night, other), markup=False, style="bold")


def _tell(drifted: "Drift", night: Night, other: "RunInfo | None") -> str:
    """Return the answer in one line."""
    what = "the training data" if other is None else f"run {other.id[:8]}"
    if drifted.looks_alike is None:
        return f"{night.measured:,} scans are too few to tell whether this run looks like {what}"
    if drifted.looks_alike:
        return f"this run looks like {what}: nothing that was measured differs by more than chance explains"
    moved = sorted((shift for shift in drifted.shifts if shift.is_alarm), key=lambda shift: -shift.ks)
    reasons = [f"{shift.name.replace('_', ' ')} (KS {shift.ks:.2f})" for shift in moved[:3]]
    more = f" and {len(moved) - len(reasons)} more" if len(moved) > len(reasons) else ""
    told = [", ".join(reasons) + more] if reasons else []
    if drifted.rejections is not None and drifted.rejections.is_alarm:
        told.append(f"the input gate rejects {drifted.rejections.rejected / drifted.rejections.judged:.1%}")
    return f"this run does not look like {what}: {'; '.join(told)}"
