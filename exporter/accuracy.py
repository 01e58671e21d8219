"""What a lower precision costs on the hold-out, and the limit at which it is refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.parity import decide
from exporter.precision import Limits
from nightread.errors import ExportError

Targets = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A graph against its source on the whole hold-out.

    Attributes:
        scans: of the hold-out.
        decisions_changed: scans that get another decision for any label.
        source_auc: of the Keras network, by label; empty without targets.
        auc: of the graph, the same.
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
        expected: (N, labels), the network as trained.
        computed: (N, labels), the graph.
        targets: (N, labels), whether each label is present; None where the training folder holds none.
        thresholds: of each label, in output order; none where the highest score decides.
        labels: in output order.
        limits: what the precision may cost.

    Raises:
        ExportError: it costs more.
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
    places = [place for place in range(len(labels)) if len(np.unique(targets[:, place])) == 2]  # else there is no AUC
    before = {labels[place]: compute_auc(targets[:, place], expected[:, place]) for place in places}
    after = {labels[place]: compute_auc(targets[:, place], computed[:, place]) for place in places}
    for label, auc in after.items():
        if before[label] - auc > limits.auc_drop:
            raise ExportError(
                f"refused: the hold-out AUC of {label} falls from {before[label]:.4f} to {auc:.4f}; at most "
                f"{limits.auc_drop:g} less is allowed: export as float32"
            )
    return Accuracy(len(expected), changed, before, after)


def compute_auc(targets: Targets, scores: npt.NDArray[Any]) -> float:
    """Return the area under the ROC curve: how often a scan with the label scores higher than one without.

    Args:
        targets: (N,); both values occur.
        scores: (N,); ties count half.
    """
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = ((2 * ends - counts + 1) / 2)[places]  # from 1 on; ties share their mean rank
    present = int(targets.sum())
    return float((ranks[targets].sum() - present * (present + 1) / 2) / (present * (len(targets) - present)))
