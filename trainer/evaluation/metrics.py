"""Figures of one part of a split, with 95 % intervals from a bootstrap over patients.

Whole patients are drawn, with all their scans: scans of one child are alike, and drawing single scans would make the
intervals too narrow. For means over several labels patients are drawn label by label, so that every draw has a rare
label: otherwise its mean would be over fewer labels, and the interval could miss the figure.

If every scan is right, or every scan wrong, all draws agree. The exact binomial interval over the scans (Clopper and
Pearson) then replaces an interval without width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from nightread.model.card import Metric
from trainer.data.dataset import Task
from trainer.data.split import Indices, Targets, find_strata
from trainer.evaluation.auc import compute_aucs

Scores = npt.NDArray[np.float64]
_Floats = npt.NDArray[np.float64]

RESAMPLES: Final = 2000
_RESAMPLES_AT_ONCE: Final = 250

#: Number of bins, of equal width, of the calibration error and the calibration curve.
CALIBRATION_BINS: Final = 10

_ALPHA: Final = 0.05

_MEANS_OVER_LABELS: Final = ("auc", "balanced_accuracy")
_LABEL_FIGURES: Final = ("precision", "recall", "specificity", "f1", "auc")


@dataclass(frozen=True, slots=True)
class PartScores:
    """Scores of one part, and the truth.

    Attributes:
        task: labels of the network.
        targets: (N,) int64, indices into the task's K classes.
        class_scores: (N, K) float64 in [0, 1]; see `spread_scores`.
        groups: (N,) int64, the group of each scan: a patient, or patients that may be one person.
        subgroups: of each scan, empty for none.
        threshold: with one label, the lowest score of a positive decision; None if the highest score decides.
    """

    task: Task
    targets: Targets
    class_scores: Scores
    groups: Indices
    subgroups: tuple[str, ...]
    threshold: float | None

    @property
    def decisions(self) -> Targets:
        """(N,) int64, indices into the task's classes."""
        if self.threshold is not None:
            return (self.class_scores[:, 1] >= self.threshold).astype(np.int64)
        highest: Targets = self.class_scores.argmax(axis=1).astype(np.int64)
        return highest


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """Figures of one class against all others; None if undefined on this part.

    Attributes:
        support: number of scans of the class.
        precision: share of right decisions among scans with this decision.
        recall: share of right decisions among scans of the class.
        specificity: share of right decisions among the other scans.
        f1: harmonic mean of precision and recall.
        auc: chance that a scan of the class scores above another; ties count half.
    """

    support: int
    precision: Metric | None
    recall: Metric | None
    specificity: Metric | None
    f1: Metric | None
    auc: Metric | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one part.

    Attributes:
        scans: N.
        patients: number of groups.
        figures: of the whole part; undefined ones are left out.
        labels: by class, in the task's order.
        subgroups: number of scans of each subgroup, and the share of right decisions among them.
        confusion: (K, K) int64, scans by class (rows) and decision (columns).
        subgroup_figures: names of the shares in `subgroups`, such as `sensitivity (viral)`.
    """

    scans: int
    patients: int
    figures: Mapping[str, Metric]
    labels: Mapping[str, LabelFigures]
    subgroups: Mapping[str, tuple[int, Metric]]
    confusion: npt.NDArray[np.int64]
    subgroup_figures: Mapping[str, str]

    @property
    def card_figures(self) -> dict[str, Metric]:
        """The figures on a card: of the whole part, then of each subgroup."""
        told = {self.subgroup_figures[name]: metric for name, (_, metric) in self.subgroups.items()}
        return {**self.figures, **told}


def spread_scores(task: Task, scores: npt.NDArray[np.floating]) -> Scores:
    """Return (N, K) float64 scores of the classes from (N, L) scores of the task's labels.

    With one label they are 1 - p for its absence and p for its presence.
    """
    exact = scores.astype(np.float64)
    return exact if task.activation == "softmax" else np.concatenate([1 - exact, exact], axis=1)


def choose_threshold(targets: Targets, scores: Scores) -> float:
    """Choose the threshold with the best balanced accuracy, halfway between two neighbouring scores.

    Among equally good thresholds it is the one nearest to 0.5. It must be chosen on the validation part: chosen on the
    hold-out it would make the figures of the hold-out too good.

    Args:
        targets: (N,) int64, 1 where the label is present; both values occur.
        scores: (N,) in [0, 1].

    Returns:
        A threshold in [0.001, 0.999], rounded to four decimals; a score at or above it is positive.
    """
    levels = np.unique(scores)
    middles = (levels[1:] + levels[:-1]) / 2 if len(levels) > 1 else np.array([0.5])
    candidates = np.unique(np.clip(np.round(middles, 4), 0.001, 0.999))
    positive = np.sort(scores[targets == 1])
    negative = np.sort(scores[targets == 0])
    sensitivity = 1 - np.searchsorted(positive, candidates) / len(positive)
    specificity = np.searchsorted(negative, candidates) / len(negative)
    balanced = (sensitivity + specificity) / 2
    best = candidates[balanced >= balanced.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def evaluate(part: PartScores, *, majority: int, seed: int, resamples: int = RESAMPLES) -> Evaluation:
    """Compute the figures of one part.

    They are `auc` (of several labels: the mean over those that occur), `accuracy`, `balanced_accuracy`, `ece` (expected
    calibration error), `majority_baseline_accuracy`, and with one label `sensitivity` and `specificity`.

    Args:
        part: N > 0 scans.
        majority: most frequent class of the training part; the baseline always answers with it.
        seed: of the bootstrap.
        resamples: number of draws.
    """
    counted = _Counted.count(part)
    groups = int(counted.members.max()) + 1
    value = counted.compute(np.ones((1, groups)), majority)
    rng = np.random.default_rng(seed)
    draws: dict[str, list[_Floats]] = {}
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        count = min(_RESAMPLES_AT_ONCE, resamples - start)
        drawn = counted.compute(counted.draw(rng, count, by_label=False), majority)
        if part.threshold is None:
            by_label = counted.compute(counted.draw(rng, count, by_label=True), majority)
            drawn |= {name: by_label[name] for name in _MEANS_OVER_LABELS}
        for name, values in drawn.items():
            draws.setdefault(name, []).append(values)
    metrics = {
        name: metric
        for name, values in value.items()
        if (metric := _make_metric(float(values[0]), np.concatenate(draws[name]))) is not None
    }
    return _describe(part, groups, _widen(metrics, part))


def count_rates(part: PartScores, threshold: float, *, seed: int, resamples: int = RESAMPLES) -> tuple[Metric, Metric]:
    """Compute sensitivity and specificity of one label at another threshold than that of the part."""
    figures = evaluate(replace(part, threshold=threshold), majority=0, seed=seed, resamples=resamples).figures
    return figures["sensitivity"], figures["specificity"]


@dataclass(frozen=True, slots=True)
class _Counted:
    """Counts of a part by patient, with which a draw of patients is one matrix product.

    Attributes:
        part: the scans.
        members: (N,) int64, groups numbered from 0.
        cells: (G, K * K), scans of each group by class and decision.
        bins: (G, B), by calibration bin: predicted minus observed, summed over the scans.
        rights: (G, S), right decisions by subgroup.
        sizes: (G, S), scans by subgroup.
        names: of the S subgroups.
    """

    part: PartScores
    members: Indices
    cells: _Floats
    bins: _Floats
    rights: _Floats
    sizes: _Floats
    names: tuple[str, ...]

    @classmethod
    def count(cls, part: PartScores) -> "_Counted":
        _, members = np.unique(part.groups, return_inverse=True)
        groups, classes = int(members.max()) + 1, part.class_scores.shape[1]
        decisions = part.decisions

        def tally(columns: Indices, width: int, weights: _Floats | None = None) -> _Floats:
            flat = np.bincount(members * width + columns, weights=weights, minlength=groups * width)
            return flat.reshape(groups, width).astype(np.float64)

        predicted, observed = find_certainty(part)
        gap = tally(find_bins(predicted), CALIBRATION_BINS, predicted - observed)
        names = tuple(sorted({name for name in part.subgroups if name}))
        places = np.array([names.index(name) if name else len(names) for name in part.subgroups], np.int64)
        right = (decisions == part.targets).astype(np.float64)
        return cls(
            part,
            members.astype(np.int64),
            tally(part.targets * classes + decisions, classes * classes),
            gap,
            tally(places, len(names) + 1, right)[:, : len(names)],
            tally(places, len(names) + 1)[:, : len(names)],
            names,
        )

    def draw(self, rng: np.random.Generator, count: int, *, by_label: bool) -> _Floats:
        """Draw patients, out of all or label by label; return (count, G) float64, how often each is drawn."""
        drawn = np.zeros((count, len(self.cells)))
        strata = np.zeros(len(self.cells), np.int64)
        if by_label:
            strata = find_strata(self.members, self.part.targets, len(self.part.task.classes))
        for stratum in np.unique(strata):
            inside = np.flatnonzero(strata == stratum)
            drawn[:, inside] = rng.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), size=count)
        return drawn

    def compute(self, drawn: _Floats, majority: int) -> dict[str, _Floats]:
        """Compute (R,) values of each figure from (R, G) counts of the drawn groups; NaN if undefined."""
        classes = self.part.task.classes
        confusion = (drawn @ self.cells).reshape(-1, len(classes), len(classes))  # (R, K, K)
        support, called = confusion.sum(axis=2), confusion.sum(axis=1)  # (R, K)
        hits = np.diagonal(confusion, axis1=1, axis2=2)
        total = support.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, precision = hits / support, hits / called
            specificity = (total[:, None] - support - called + hits) / (total[:, None] - support)
            f1 = 2 * hits / (support + called)
            aucs = compute_aucs(self.part.targets, self.part.class_scores, drawn[:, self.members])  # (R, K)
            figures = {
                "auc": aucs[:, 1] if self.part.threshold is not None else _mean_defined(aucs),
                "accuracy": hits.sum(axis=1) / total,
                "balanced_accuracy": _mean_defined(recall),
                "majority_baseline_accuracy": support[:, majority] / total,
                "ece": np.abs(drawn @ self.bins).sum(axis=1) / total,
            }
            if self.part.threshold is not None:
                figures |= {"sensitivity": recall[:, 1], "specificity": recall[:, 0]}
            by_label = (precision, recall, specificity, np.where(support > 0, f1, np.nan), aucs)
            for place, name in enumerate(classes):
                figures |= {
                    f"{name}/{figure}": values[:, place]
                    for figure, values in zip(_LABEL_FIGURES, by_label, strict=True)
                }
            shares = (drawn @ self.rights) / (drawn @ self.sizes)
        return figures | {f"subgroup/{name}": shares[:, place] for place, name in enumerate(self.names)}


def find_certainty(part: PartScores) -> tuple[_Floats, _Floats]:
    """Return (N,) predicted probabilities and (N,) outcomes, 0 or 1.

    With one label: of its presence. With several: that the class with the highest score is right.
    """
    if part.threshold is not None:
        return part.class_scores[:, 1], part.targets.astype(np.float64)
    return part.class_scores.max(axis=1), (part.class_scores.argmax(axis=1) == part.targets).astype(np.float64)


def find_bins(predicted: _Floats) -> Indices:
    """Return (N,) int64, the calibration bin of each predicted probability."""
    return np.minimum((predicted * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _mean_defined(values: _Floats) -> _Floats:
    """Return (R,) means over the K columns that are defined; NaN if none is."""
    defined = ~np.isnan(values)
    means: _Floats = np.where(defined, values, 0).sum(axis=1) / defined.sum(axis=1)
    return means


def _make_metric(value: float, draws: _Floats) -> Metric | None:
    """Return a figure with its percentile interval; None if it is undefined."""
    draws = draws[~np.isnan(draws)]
    if np.isnan(value) or not len(draws):
        return None
    low, high = np.percentile(draws, [50 * _ALPHA, 100 - 50 * _ALPHA])
    # Draws of a calibration error lie above the figure, as chance adds to every bin: the interval must contain it.
    low, high = min(float(low), value), max(float(high), value)
    return Metric(value=round(value, 4), low=round(low, 4), high=round(high, 4))


def _widen(metrics: dict[str, Metric], part: PartScores) -> dict[str, Metric]:
    """Replace the intervals of shares of 0 and 1, at which all draws agree, by exact ones."""
    decisions, classes = part.decisions, part.task.classes
    support = np.bincount(part.targets, minlength=len(classes))
    called = np.bincount(decisions, minlength=len(classes))
    trials: dict[str, int] = {"accuracy": len(decisions)}
    if part.threshold is not None:
        trials |= {"sensitivity": int(support[1]), "specificity": int(support[0])}
    for place, name in enumerate(classes):
        trials |= {
            f"{name}/precision": int(called[place]),
            f"{name}/recall": int(support[place]),
            f"{name}/specificity": len(decisions) - int(support[place]),
        }
    trials |= {f"subgroup/{name}": part.subgroups.count(name) for name in set(part.subgroups) if name}
    widened = {
        name: _make_exact(metric.value, trials[name])
        if name in trials and metric.value == metric.low == metric.high and metric.value in {0.0, 1.0}
        else metric
        for name, metric in metrics.items()
    }
    balanced = widened.get("balanced_accuracy")
    if balanced is not None and balanced.low == balanced.high == 1:
        lows = [_make_exact(1.0, int(count)).low for count in support if count]
        widened["balanced_accuracy"] = Metric(value=1.0, low=round(sum(lows) / len(lows), 4), high=1.0)
    return widened


def _make_exact(value: float, trials: int) -> Metric:
    """Return the Clopper-Pearson interval of a share of 0 or 1, which needs no SciPy: evaluations run without it."""
    bound = round((_ALPHA / 2) ** (1 / trials), 4)
    return Metric(value=value, low=bound, high=1.0) if value else Metric(value=value, low=0.0, high=1 - bound)


def _describe(part: PartScores, groups: int, metrics: dict[str, Metric]) -> Evaluation:
    classes = part.task.classes
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (part.targets, part.decisions), 1)

    labels = {
        name: LabelFigures(int(support), *(metrics.get(f"{name}/{figure}") for figure in _LABEL_FIGURES))
        for name, support in zip(classes, confusion.sum(axis=1), strict=True)
    }
    names = sorted({name for name in part.subgroups if name})
    subgroups = {
        name: (part.subgroups.count(name), metrics[f"subgroup/{name}"])
        for name in names
        if f"subgroup/{name}" in metrics
    }
    figures = {name: metric for name, metric in metrics.items() if "/" not in name}
    named = {name: f"{_name_share(part, name)} ({name})" for name in names}
    return Evaluation(len(part.targets), groups, figures, labels, subgroups, confusion, named)


def _name_share(part: PartScores, subgroup: str) -> str:
    """Name the share of right decisions: sensitivity if all scans of a subgroup have the label, specificity if none."""
    if part.threshold is None:
        return "accuracy"
    present = {int(target) for target, name in zip(part.targets, part.subgroups, strict=True) if name == subgroup}
    return {frozenset({1}): "sensitivity", frozenset({0}): "specificity"}.get(frozenset(present), "accuracy")
