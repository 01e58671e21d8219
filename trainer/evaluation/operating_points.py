"""Thresholds for three uses of a score, chosen on the validation part, with what they are worth on it and beyond it."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from nightread.model.card import OperatingPoint, Rates, Threshold
from trainer.evaluation.metrics import PartScores, choose_threshold, count_rates

HIGH_SENSITIVITY: Final = "high-sensitivity"
BALANCED: Final = "balanced"
HIGH_SPECIFICITY: Final = "high-specificity"

#: The rate that the first and the last of them keep on the part that they are chosen on: the first of these that leaves
#: at most so many of its scans between the two. A few mislabelled scans would else make a band of half the ward.
_RATES: Final = (0.99, 0.985, 0.98, 0.975, 0.97, 0.96, 0.95)
_MOST_UNCERTAIN: Final = 0.10


def choose_operating_points(chosen_on: PartScores, hold_out: PartScores, *, seed: int) -> dict[str, OperatingPoint]:
    """Choose the thresholds of a task with one label.

    `high-sensitivity` is the highest threshold that finds 99 % of the scans with the label, `high-specificity` the
    lowest that leaves 99 % of the others alone, `balanced` that with the best balanced accuracy. Where more than a
    tenth of the scans would lie between the first two, both rates give way alike. The order is kept: where they would
    cross, since the scores hardly overlap, both meet at `balanced`.

    Args:
        chosen_on: the scans that decide.
        hold_out: scans that do not, for their rates.
        seed: of the bootstrap.
    """
    scores, targets = chosen_on.class_scores[:, 1], chosen_on.targets
    balanced = choose_threshold(targets, scores)
    low, high = balanced, balanced
    for rate in _RATES:
        low = min(_find_between(scores[targets == 1], 1 - rate), balanced)
        high = max(_find_between(scores[targets == 0], rate), balanced)
        if np.mean((scores >= low) & (scores < high)) <= _MOST_UNCERTAIN:
            break
    thresholds = {HIGH_SENSITIVITY: low, BALANCED: balanced, HIGH_SPECIFICITY: high}
    return {
        name: OperatingPoint(
            threshold=threshold,
            chosen_on=_measure(chosen_on, threshold, seed),
            hold_out=_measure(hold_out, threshold, seed),
        )
        for name, threshold in thresholds.items()
    }


def span_abstain_band(points: Mapping[str, OperatingPoint]) -> Threshold:
    """Return the thresholds of the decisions: what only one of the two cautious points calls present is uncertain."""
    return Threshold(low=points[HIGH_SENSITIVITY].threshold, high=points[HIGH_SPECIFICITY].threshold)


def _find_between(scores: np.typing.NDArray[np.float64], share: float) -> float:
    """Return a threshold between two neighbouring scores, with at most `share` of the scores below it.

    Where `share` is the rate itself, at least that many are below: both are rounded to the careful side.
    """
    ordered = np.sort(scores)
    below = int(np.floor(share * len(ordered))) if share < 0.5 else int(np.ceil(share * len(ordered)))
    lower = ordered[below - 1] if below else 0.0
    upper = ordered[below] if below < len(ordered) else 1.0
    threshold = round(float((lower + upper) / 2), 6)
    return min(max(threshold, 1e-6), 1 - 1e-6)


def _measure(part: PartScores, threshold: float, seed: int) -> Rates:
    sensitivity, specificity = count_rates(part, threshold, seed=seed)
    return Rates(sensitivity=sensitivity, specificity=specificity)
