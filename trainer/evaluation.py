"""How good a network is: figures with 95 % intervals from a bootstrap over patients, and the choice of a threshold."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from nightread.card import Metric
from trainer.splitting import Indices

Scores = npt.NDArray[np.float64]
Targets = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float64]

RESAMPLES = 2000


def choose_threshold(targets: Targets, scores: Scores) -> float:
    """Return the threshold with the best balanced accuracy: halfway between two neighbouring scores.

    Of equally good thresholds the one nearest to 0.5 is taken. It must come from the validation part: chosen on the
    hold-out it would flatter the hold-out's figures.

    Args:
        targets: (N,) bool, both values present.
        scores: (N,) in [0, 1].

    Returns:
        A threshold in [0.001, 0.999], rounded to four decimals; a score at or above it is positive.
    """
    levels = np.unique(scores)
    middles = (levels[1:] + levels[:-1]) / 2 if len(levels) > 1 else np.array([0.5])
    candidates = np.unique(np.clip(np.round(middles, 4), 0.001, 0.999))
    positive = scores[targets][:, np.newaxis] >= candidates  # (positives, candidates)
    negative = scores[~targets][:, np.newaxis] < candidates
    balanced = (positive.mean(axis=0) + negative.mean(axis=0)) / 2
    best = candidates[balanced >= balanced.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def compute_auc(targets: Targets, scores: Scores, weights: Weights | None = None) -> float:
    """Return the area under the ROC curve: the chance that a positive scan scores above a negative one, ties half.

    Args:
        targets: (N,) bool.
        scores: (N,).
        weights: (N,) how often each scan counts; None for once each.

    Returns:
        In [0, 1], or NaN where one of the two labels has no weight.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    _, ranks = np.unique(scores, return_inverse=True)
    positive = np.bincount(ranks, weights=weights * targets)
    negative = np.bincount(ranks, weights=weights * ~targets)
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)


def compute_metrics(
    targets: Targets, scores: Scores, threshold: float, *, majority: bool, weights: Weights | None = None
) -> dict[str, float]:
    """Return the figures of one label, each in [0, 1] or NaN where it is not defined.

    Args:
        targets: (N,) bool.
        scores: (N,) in [0, 1].
        threshold: a score at or above it is positive.
        majority: the label that is more frequent in training; the baseline always answers with it.
        weights: (N,) how often each scan counts; None for once each.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    decisions = scores >= threshold
    sensitivity = _weigh(decisions[targets], weights[targets])
    specificity = _weigh(~decisions[~targets], weights[~targets])
    return {
        "auc": compute_auc(targets, scores, weights),
        "accuracy": _weigh(decisions == targets, weights),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "majority_baseline_accuracy": _weigh(targets == majority, weights),
    }


def evaluate(
    targets: Targets,
    scores: Scores,
    groups: Indices,
    threshold: float,
    *,
    majority: bool,
    seed: int,
    resamples: int = RESAMPLES,
) -> Mapping[str, Metric]:
    """Return the figures of `compute_metrics` with 95 % percentile intervals.

    Whole patients are drawn, with all their scans: scans of one child resemble each other, and drawing them one by one
    would make the intervals narrower than they are.

    Args:
        targets: (N,) bool.
        scores: (N,) in [0, 1].
        groups: (N,) the patient, or the patients that may be one person, of each scan.
        threshold: chosen elsewhere.
        majority: see `compute_metrics`.
        seed: of the bootstrap.
        resamples: how many draws.
    """
    _, members = np.unique(groups, return_inverse=True)
    count = int(members.max()) + 1
    rng = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {}
    for _ in range(resamples):
        times_drawn = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        drawn = compute_metrics(targets, scores, threshold, majority=majority, weights=times_drawn[members])
        for name, value in drawn.items():
            draws.setdefault(name, []).append(value)
    metrics = {}
    for name, value in compute_metrics(targets, scores, threshold, majority=majority).items():
        low, high = np.nanpercentile(draws[name], [2.5, 97.5])
        metrics[name] = Metric(value=round(value, 4), low=round(float(low), 4), high=round(float(high), 4))
    return metrics


def _weigh(hits: npt.NDArray[np.bool_], weights: Weights) -> float:
    total = weights.sum()
    return float((hits * weights).sum() / total) if total else float("nan")
