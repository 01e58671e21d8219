"""Drift: what the scans of a run measure, compared with a reference."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from pydantic import ValidationError
from sqlalchemy import Connection, Engine

from db.engine import reading
from db.measurements import MeasuredScan, stream_measured
from db.registry import read_card
from db.run_history import find_kind, list_earlier
from db.runs import RunInfo, find_run
from nightread.errors import NightreadError
from nightread.model.card import Reference
from nightread.model.drift import Drift, Shift, compare, name_component, summarise
from nightread.model.gate import PASSED

#: Fields of a measured scan that are numbers of their own; the components are a list.
_MEASUREMENTS: Final = (
    "score", "distance", "brightness", "contrast", "darkest", "brightest", "detail", "symmetry",
)  # fmt: skip
#: Earlier runs of which the first that was measured is the first night.
_FIRST_RUNS: Final = 5


@dataclass(slots=True)
class Night:
    """What the scans of a run measure.

    Attributes:
        scans: of the run that have a terminal status.
        measured: of them, those that were measured.
        judged: those that the input gate has judged.
        rejected: those that it rejects, whether or not that was acted on.
        values: by measurement.
    """

    scans: int = 0
    measured: int = 0
    judged: int = 0
    rejected: int = 0
    values: dict[str, "array[float]"] = field(default_factory=dict)

    def to_arrays(self) -> dict[str, Any]:
        """Return the values as numpy arrays."""
        return {name: np.array(values) for name, values in self.values.items()}


def gather(scans: Iterable[MeasuredScan]) -> Night:
    """Gather what the scans of a run measure, eight bytes a value."""
    night = Night()
    for scan in scans:
        night.scans += 1
        night.measured += scan.brightness is not None
        night.judged += scan.gate_verdict is not None
        night.rejected += scan.gate_verdict not in {None, PASSED}
        told = {name: getattr(scan, name) for name in _MEASUREMENTS}
        told |= {name_component(place): value for place, value in enumerate(scan.components or ())}
        for name, value in told.items():
            if value is not None:
                night.values.setdefault(name, array("d")).append(value)
    return night


@dataclass(frozen=True, slots=True)
class MeasuredDrift:
    """How far a run's scans are from a reference.

    Attributes:
        run: the run.
        against: the run that is the reference; None: the reference of the model's card.
        night: measurements of the run's scans.
        reference: measurements to compare with.
        drift: the comparison.
    """

    run: RunInfo
    against: RunInfo | None
    night: Night
    reference: Reference
    drift: Drift


def measure_drift(engine: Engine, run: str | None = None, *, against: str | None = None) -> MeasuredDrift:
    """Compare a run's scans with the reference in the model's card, or with another run of the same model.

    Args:
        engine: the database, its schema checked.
        run: id, unique prefix of it, or name; None: the newest run.
        against: the same, of the other run; None: the card.

    Raises:
        UnknownRun: there is no such run.
        NightreadError: there is nothing to compare, or the card holds no reference.
    """
    with reading(engine) as connection:
        found = find_run(connection, run)
        other = None if against is None else find_run(connection, against)
        card = read_card(connection, found.model_digest)
        label = card["labels"][0]
        reference = _read_reference(card, found) if other is None else _measure_run(connection, other, found, label)
        night = gather(stream_measured(connection, found.id, label))
    _check_run(night, found)
    drifted = compare(reference, night.to_arrays(), rejected=night.rejected, judged=night.judged)
    return MeasuredDrift(found, other, night, reference, drifted)


def _measure_run(connection: Connection, other: RunInfo, run: RunInfo, label: str) -> Reference:
    """Return the measurements of another run, as a reference for `run`."""
    if other.model_digest != run.model_digest:
        raise NightreadError(
            f"run {run.id[:8]} was scored by {run.model} and run {other.id[:8]} by {other.model}: runs of two models "
            "cannot be compared; score one again with --model"
        )
    night = gather(stream_measured(connection, other.id, label))
    _check_run(night, other)
    return summarise(night.to_arrays(), rejected_share=night.rejected / night.judged if night.judged else 0.0)


def _read_reference(card: dict[str, Any], run: RunInfo) -> Reference:
    if not card.get("drift_reference"):
        raise NightreadError(
            f"the card of {run.model} holds no reference to compare a run with: export its training again, score the "
            "scans with a model that has one (see `nightread models show`), or name a run with --against"
        )
    try:
        return Reference.model_validate(card["drift_reference"])
    except ValidationError:
        raise NightreadError(
            f"the reference in the card of {run.model} is of another release: upgrade Nightread"
        ) from None


def _check_run(night: Night, run: RunInfo) -> None:
    """Raise NightreadError if a run has nothing to compare."""
    if not run.found:
        raise NightreadError(f"run {run.id[:8]} holds no scans: name another run (`nightread runs` lists them)")
    if not night.scans:
        raise NightreadError(f"no scan of run {run.id[:8]} has ended yet: see `nightread status {run.id[:8]}`")
    if not night.measured:
        raise NightreadError(
            f"none of the {night.scans:,} scans of run {run.id[:8]} was measured: they are unreadable, or their "
            "predictions are from a release without measurements"
        )


def describe_drift(measured: MeasuredDrift) -> str:
    """Return whether a run looks like its reference, and what differs, in one line."""
    drifted, rejections = measured.drift, measured.drift.rejections
    what = "the training data" if measured.against is None else f"run {measured.against.id[:8]}"
    if drifted.looks_alike is None:
        count = measured.night.measured
        few = "1 scan is too few" if count == 1 else f"{count:,} scans are too few"
        return f"{few} to compare this run with {what}"
    if drifted.looks_alike:
        return f"this run looks like {what}: no measurement differs by more than chance explains"
    moved = sorted((shift for shift in drifted.shifts if shift.is_alarm), key=lambda shift: -shift.ks)
    reasons = [f"{shift.name.replace('_', ' ')} (KS {shift.ks:.2f})" for shift in moved[:3]]
    more = f" and {len(moved) - len(reasons)} more" if len(moved) > len(reasons) else ""
    causes = [", ".join(reasons) + more] if reasons else []
    if rejections is not None and rejections.is_alarm:
        causes.append(f"the input gate rejects {rejections.rejected / rejections.judged:.1%}")
    return f"this run does not look like {what}: {'; '.join(causes)}"


def measure_against_first(engine: Engine, measured: MeasuredDrift) -> MeasuredDrift | None:
    """Compare a run with the first one like it: of the same model and kind of files, and schedule, folders or name.

    Files of another kind than the training's always look different; the first night shows what is usual here.

    Returns:
        The comparison; None if there is no earlier run, or nothing of it was measured.
    """
    tried = 0
    with reading(engine) as connection:
        earlier, kind = list_earlier(connection, measured.run), find_kind(connection, measured.run.id)
    for run_id in earlier:
        with reading(engine) as connection:
            if find_kind(connection, run_id) != kind:
                continue
        try:
            return measure_drift(engine, measured.run.id, against=run_id)
        except NightreadError:  # nothing of it was measured, or it was pruned
            tried += 1
        if tried == _FIRST_RUNS:
            break
    return None


def measure_trend(engine: Engine, measured: MeasuredDrift, nights: int) -> list[MeasuredDrift]:
    """Compare the latest runs like a run with the same reference, oldest first; that run is the last one.

    Args:
        engine: the database, its schema checked.
        measured: the last night.
        nights: most earlier runs.
    """
    with reading(engine) as connection:
        earlier = list_earlier(connection, measured.run)
    against = None if measured.against is None else measured.against.id
    trend = []
    for run_id in [one for one in earlier if one != against][-nights:]:
        try:
            trend.append(measure_drift(engine, run_id, against=against))
        except NightreadError:
            continue  # nothing of it was measured
    return [*trend, measured]


def find_farthest(measured: MeasuredDrift) -> Shift | None:
    """Return the measurement that differs most from the reference; None if there is none."""
    return max(measured.drift.shifts, key=lambda shift: (shift.is_alarm, shift.ks), default=None)
