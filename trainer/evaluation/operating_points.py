"""Operating points: thresholds for three uses of a score, with their rates where they were chosen and beyond."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from nightread.model.card import Metric, OperatingPoint, Rates, Threshold
from trainer.data.split import Targets
from trainer.evaluation.metrics import RESAMPLES, PartScores, choose_threshold, count_rates

HIGH_SENSITIVITY: Final = "high-sensitivity"
BALANCED: Final = "balanced"
HIGH_SPECIFICITY: Final = "high-specificity"

#: Figures of the abstain band, as a card names them.
UNCERTAIN_SHARE: Final = "uncertain_share"
DECIDED: Final = "balanced_accuracy_decided"

#: The rate that the first and the last of them keep on the part that they are chosen on: the first of these that leaves
#: at most so many of its scans between the two. A few mislabelled scans would else make a band of half the ward; the
#: lowest rates are for networks that tell the scans of a site apart badly.
_RATES: Final = (0.99, 0.985, 0.98, 0.975, 0.97, 0.96, 0.95, 0.94, 0.92, 0.9, 0.875, 0.85, 0.825, 0.8)
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
    thresholds = choose_thresholds(chosen_on.class_scores[:, 1], chosen_on.targets)
    return {
        name: OperatingPoint(
            threshold=threshold,
            chosen_on=_measure(chosen_on, threshold, seed),
            hold_out=_measure(hold_out, threshold, seed),
        )
        for name, threshold in thresholds.items()
    }


def choose_thresholds(scores: npt.NDArray[np.float64], targets: Targets) -> dict[str, float]:
    """Choose the thresholds of the operating points; see `choose_operating_points`.

    Args:
        scores: (N,) in [0, 1].
        targets: (N,) int64, 1 where the label is present; both values occur.
    """
    balanced = choose_threshold(targets, scores)
    low, high = balanced, balanced
    for rate in _RATES:
        low = min(_find_between(scores[targets == 1], 1 - rate), balanced)
        high = max(_find_between(scores[targets == 0], rate), balanced)
        if np.mean((scores >= low) & (scores < high)) <= _MOST_UNCERTAIN:
            break
    return {HIGH_SENSITIVITY: low, BALANCED: balanced, HIGH_SPECIFICITY: high}


def span_abstain_band(points: Mapping[str, OperatingPoint]) -> Threshold:
    """Return the thresholds of the decisions: what only one of the two cautious points calls present is uncertain."""
    return Threshold(low=points[HIGH_SENSITIVITY].threshold, high=points[HIGH_SPECIFICITY].threshold)


def measure_band(part: PartScores, band: Threshold, *, seed: int, resamples: int = RESAMPLES) -> dict[str, Metric]:
    """Return the share of scans in the abstain band, and the balanced accuracy of the decisions that are made.

    The 95 % intervals come from a bootstrap over patients.

    Args:
        part: N > 0 scans of a task with one label.
        band: the thresholds of the decisions.
        seed: of the bootstrap.
        resamples: how many draws.
    """
    scores, present = part.class_scores[:, 1], part.targets == 1
    is_open = (scores >= band.low) & (scores < band.high)
    columns = np.stack(
        [
            np.ones(len(scores)), is_open,
            present & ~is_open, present & (scores >= band.high), ~present & ~is_open, ~present & (scores < band.low),
        ],
        axis=1,
    )  # fmt: skip
    _, members = np.unique(part.groups, return_inverse=True)
    counts = np.zeros((int(members.max()) + 1, columns.shape[1]))
    np.add.at(counts, members, columns)
    drawn = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=resamples)

    def compute(sums: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = (sums[:, 3] / sums[:, 2] + sums[:, 5] / sums[:, 4]) / 2
        return sums[:, 1] / sums[:, 0], rates

    values, draws = compute(counts.sum(axis=0)[np.newaxis]), compute(drawn @ counts)
    figures = {}
    for name, value, resampled in zip((UNCERTAIN_SHARE, DECIDED), values, draws, strict=True):
        defined = resampled[~np.isnan(resampled)]
        if not np.isnan(value[0]) and len(defined):
            low, high = np.percentile(defined, [2.5, 97.5])
            figures[name] = Metric(value=round(value[0], 4), low=round(low, 4), high=round(high, 4))
    return figures


def _find_between(scores: npt.NDArray[np.float64], share: float) -> float:
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
