"""Cost of a precision on the hold-out, in AUC and decisions, and the limits at which it is refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from exporter.parity import decide
from exporter.precision import Limits
from nightread.errors import ExportError

Targets = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A graph compared with its source on the whole hold-out.

    Attributes:
        scans: number of scans in the hold-out.
        decisions_changed: scans with another decision for any label.
        source_auc: AUC of the Keras network by label; empty without targets.
        auc: AUC of the graph, likewise.
    """

    scans: int
    decisions_changed: int
    source_auc: dict[str, float] = field(default_factory=dict)
    auc: dict[str, float] = field(default_factory=dict)


def check_accuracy(
    expected: npt.NDArray[Any],
    computed: npt.NDArray[Any],
    targets: Targets | None,
    *,
    thresholds: Sequence[float],
    labels: Sequence[str],
    limits: Limits,
) -> Accuracy:
    """Compare AUC and decisions of two sets of scores.

    Args:
        expected: (N, labels) scores of the network as trained.
        computed: (N, labels) scores of the graph.
        targets: (N, labels), whether each label is present; None if the training folder holds none.
        thresholds: of each label, in output order; none if the highest score decides.
        labels: in output order.
        limits: largest cost of the precision.

    Raises:
        ExportError: the precision costs more.
    """
    other = decide(expected, thresholds) != decide(computed, thresholds)
    changed = int((other.any(axis=1) if other.ndim == 2 else other).sum())
    if changed > limits.flipped * len(expected):
        raise ExportError(
            f"refused: {changed} of {len(expected)} decisions on the hold-out change ({changed / len(expected):.2%}); "
            f"at most {limits.flipped:.2%} may: export as float32"
        )
    if targets is None:
        return Accuracy(len(expected), changed)
    places = [place for place in range(len(labels)) if len(np.unique(targets[:, place])) == 2]  # else AUC is undefined
    before = {labels[place]: float(roc_auc_score(targets[:, place], expected[:, place])) for place in places}
    after = {labels[place]: float(roc_auc_score(targets[:, place], computed[:, place])) for place in places}
    for label, auc in after.items():
        if before[label] - auc > limits.auc_drop:
            raise ExportError(
                f"refused: the hold-out AUC of {label} falls from {before[label]:.4f} to {auc:.4f}; at most "
                f"{limits.auc_drop:g} less is allowed: export as float32"
            )
    return Accuracy(len(expected), changed, before, after)
