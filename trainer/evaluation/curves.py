"""Figures and curves over all thresholds: the area under the ROC curve, and the points of curves that are drawn."""

import numpy as np
import numpy.typing as npt

from trainer.data.split import Targets

_Floats = npt.NDArray[np.float64]


def compute_aucs(targets: Targets, class_scores: _Floats, weights: _Floats) -> _Floats:
    """Return the area under the ROC curve of each class against all others, for each of several weightings.

    It is the chance that a scan of the class scores above another one, ties half.

    Args:
        targets: (N,) int64, indices into K classes.
        class_scores: (N, K).
        weights: (R, N), how often each scan counts.

    Returns:
        (R, K) in [0, 1]; NaN where all weight lies on one side.
    """
    aucs = np.full((len(weights), class_scores.shape[1]), np.nan)
    for place in range(class_scores.shape[1]):
        order = np.argsort(class_scores[:, place], kind="stable")
        ranked = class_scores[order, place]
        starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of equal scores
        is_class = targets[order] == place
        # (R, levels)
        positive = np.add.reduceat(weights[:, order] * is_class, starts, axis=1)
        negative = np.add.reduceat(weights[:, order] * ~is_class, starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        defined = pairs > 0
        sums = (positive * (below + negative / 2)).sum(axis=1)
        aucs[defined, place] = sums[defined] / pairs[defined]
    return aucs


def trace_roc(present: npt.NDArray[np.bool_], scores: _Floats) -> tuple[_Floats, _Floats]:
    """Return the false and the true positive rates, from the highest threshold to the lowest, (0, 0) first.

    Args:
        present: (N,), both values occur.
        scores: (N,).
    """
    hits, alarms = _count_above(present, scores)
    return np.concatenate([[0.0], alarms / alarms[-1]]), np.concatenate([[0.0], hits / hits[-1]])


def trace_precision(present: npt.NDArray[np.bool_], scores: _Floats) -> tuple[_Floats, _Floats]:
    """Return recalls and precisions, from the highest threshold to the lowest.

    Args:
        present: (N,), True occurs.
        scores: (N,).
    """
    hits, alarms = _count_above(present, scores)
    return hits / hits[-1], hits / (hits + alarms)


def _count_above(present: npt.NDArray[np.bool_], scores: _Floats) -> tuple[_Floats, _Floats]:
    """Return how many present and absent scans score at or above each level, from the highest level on."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.concatenate([ranked[1:] != ranked[:-1], [True]]))
    hits = np.cumsum(present[order])[ends].astype(np.float64)
    return hits, ends + 1 - hits
