"""Histograms of the measurements by which a run differs most from its reference."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from nightread.model.card import Reference
from worker.runs.drift import MeasuredDrift

_BINS: Final = 16
#: Measurements that are drawn if fewer than three have moved, as far as the model has them.
_DRAWN: Final = ("score", "distance", "brightness", "contrast")
_MOST_DRAWN: Final = 3


@dataclass(frozen=True, slots=True)
class Histogram:
    """One measurement of a run beside its reference.

    Attributes:
        name: of the measurement.
        is_moved: whether it raises an alarm.
        edges: B + 1 edges of the bins.
        run: B shares of the run's scans.
        reference: B shares of the reference.
        ks: Kolmogorov-Smirnov distance of the two.
        critical_ks: what chance alone would exceed.
    """

    name: str
    is_moved: bool
    edges: list[float]
    run: list[float]
    reference: list[float]
    ks: float
    critical_ks: float

    def describe(self) -> dict[str, Any]:
        """Return the histogram for a program."""
        return {
            "name": self.name, "moved": self.is_moved, "edges": self.edges, "night": self.run,
            "reference": self.reference,
        }  # fmt: skip


def make_histograms(measured: MeasuredDrift) -> list[Histogram]:
    """Return at most three histograms: of what has moved, the farthest first, then of the usual measurements."""
    shifts = {shift.name: shift for shift in measured.drift.shifts}
    moved = [name for name in sorted(shifts, key=lambda name: -shifts[name].ks) if shifts[name].is_alarm]
    names = [*moved, *(name for name in _DRAWN if name in shifts and name not in moved)]
    arrays = measured.night.to_arrays()
    drawn = []
    for name in names[:_MOST_DRAWN]:
        values = arrays[name]
        edges, reference = share_reference(measured.reference, name, float(values.min()), float(values.max()))
        counts, _ = np.histogram(values, edges)
        shares = counts / max(1, counts.sum())
        drawn.append(
            Histogram(
                name, name in moved, edges.tolist(), shares.tolist(), reference.tolist(), shifts[name].ks,
                shifts[name].critical_ks,
            )
        )  # fmt: skip
    return drawn


def share_reference(reference: Reference, name: str, lowest: float, highest: float) -> tuple[Any, Any]:
    """Return bins over a reference and a run, and the shares of the reference in them.

    Args:
        reference: of the model's card.
        name: of the measurement.
        lowest: smallest value of the run.
        highest: largest value of the run.

    Returns:
        (B + 1,) edges and (B,) shares with the sum 1.
    """
    quantiles = np.array(reference.quantiles[name])
    low, high = min(lowest, quantiles[0]), max(highest, quantiles[-1])
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    # The share below an edge; equal quantiles, such as scores of 0, lie in the bin that begins with them.
    below = np.searchsorted(quantiles, edges, side="left") / (len(quantiles) - 1)
    below = np.clip(below, 0.0, 1.0)
    below[0], below[-1] = 0.0, 1.0
    return edges, np.diff(below)
