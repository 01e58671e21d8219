"""What the scans of a run measure, for the comparison with a reference."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from db.measurements import MeasuredScan
    from db.runs import RunInfo
    from nightread.model.card import Reference

#: Fields of a measured scan that are numbers of their own; the components are a list.
_MEASUREMENTS: Final = (
    "score", "distance", "brightness", "contrast", "darkest", "brightest", "detail", "symmetry",
)  # fmt: skip


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
    values: "dict[str, array[float]]" = field(default_factory=dict)

    def to_arrays(self) -> dict[str, Any]:
        """Return the values as numpy arrays."""
        return {name: np.array(values) for name, values in self.values.items()}


def gather(scans: "Iterable[MeasuredScan]") -> Night:
    """Gather what the scans of a run measure, eight bytes a value."""
    from nightread.model.drift import name_component
    from nightread.model.gate import PASSED

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


def measure_run(connection: "Connection", other: "RunInfo", run: "RunInfo") -> "tuple[dict[str, Any], Reference]":
    """Return the model's card, and what another run measures under it."""
    from db.measurements import stream_measured
    from db.registry import read_card
    from nightread.errors import NightreadError
    from nightread.model.drift import summarise

    if other.model_digest != run.model_digest:
        raise NightreadError(
            f"run {run.id[:8]} was scored by {run.model} and run {other.id[:8]} by {other.model}: runs of two models "
            "cannot be compared; score one again with --model"
        )
    card = read_card(connection, run.model_digest)
    night = gather(stream_measured(connection, other.id, card["labels"][0]))
    check_run(night, other)
    return card, summarise(night.to_arrays(), rejected_share=night.rejected / night.judged if night.judged else 0.0)


def read_reference(connection: "Connection", run: "RunInfo") -> "tuple[dict[str, Any], Reference]":
    """Return the model's card, and the reference in it."""
    from pydantic import ValidationError

    from db.registry import read_card
    from nightread.errors import NightreadError
    from nightread.model.card import Reference

    card = read_card(connection, run.model_digest)
    if not card.get("drift_reference"):
        raise NightreadError(
            f"the card of {run.model} holds no reference to compare a run with: export its training again, or score "
            "the scans with a model that has one (`nightread models show` tells it), or name a run with --against"
        )
    try:
        return card, Reference.model_validate(card["drift_reference"])
    except ValidationError:
        raise NightreadError(
            f"the reference in the card of {run.model} is of another release: upgrade Nightread"
        ) from None


def check_run(night: Night, run: "RunInfo") -> None:
    """Raise NightreadError where a run has nothing to compare."""
    from nightread.errors import NightreadError

    if not night.scans:
        raise NightreadError(f"no scan of run {run.id[:8]} has ended yet: see `nightread status {run.id[:8]}`")
    if not night.measured:
        raise NightreadError(
            f"none of the {night.scans:,} scans of run {run.id[:8]} was measured: they could not be read, or their "
            "predictions are from a release that did not measure"
        )
