"""Calibration of a model bundle for one site: a new version with the site's probabilities, thresholds and figures.

A network orders the scans of another hospital well and still calls too many of them ill, since its threshold and its
probabilities belong to the hospital that it was trained on. 50 to 200 labelled scans of the site mend both. No weight
is trained: the last layer is scaled (Platt), and the thresholds move with it. It needs no TensorFlow.
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightread.errors import CardMismatch
from nightread.model.bundle import Bundle, load_bundle, write_bundle
from nightread.model.card import Card, Metric, OperatingPoint, Rates, Reference, Scaling
from nightread.model.onnx_file import scale_last_layer
from trainer.data.dataset import Task
from trainer.data.split import Targets
from trainer.errors import TrainingError
from trainer.evaluation.calibration import PlattScaling, fit_scaling, to_logits
from trainer.evaluation.metrics import PartScores, choose_threshold, evaluate
from trainer.evaluation.operating_points import (
    BALANCED,
    choose_operating_points,
    choose_thresholds,
    measure_band,
    span_abstain_band,
)
from trainer.evaluation.site_scores import SiteScores, check_card, check_count, compute_scores

#: Penalty of a slope other than 1: some fifty scans tell the intercept well, and the slope badly.
_PENALTY: Final = 1.0

_FOLDS: Final = 5
_SEED: Final = 2018

#: Scores this near to 0 or 1 are rounded; what a graph makes of them is not compared with the scaling.
_ROUNDED: Final = 1e-3
_LARGEST_DIFFERENCE: Final = 1e-3

_Floats = npt.NDArray[np.float64]


def calibrate_bundle(
    bundle: Bundle, site: SiteScores, folder: Path, *, site_name: str, version: str, prevalence: float | None = None
) -> Bundle:
    """Write a bundle whose scores are probabilities at a site, with the site's thresholds and figures.

    The figures of the site are cross-validated by patient: scaling and thresholds of each fifth come from the others.

    Args:
        bundle: to start from; it stays as it is.
        site: its scores of the site's scans.
        folder: of the new bundle.
        site_name: as the card calls the site.
        version: of the new bundle.
        prevalence: share of scans with the label where scores will be used; None for the share among the site's scans.

    Raises:
        DatasetError: too few scans.
        TrainingError: scores do not rise with the label.
        CardMismatch: the bundle cannot be scaled, or there is one in the folder.
    """
    card = bundle.card
    check_card(card)
    check_count(site.targets, card)
    share = float(site.targets.mean())
    scaling = shift(_fit(site.targets, site.scores), share, share if prevalence is None else prevalence)
    task = Task(card.labels, "sigmoid", card.negative_decision)
    fitted = make_part(task, site, scaling.apply(site.scores))
    left_out, decided = cross_validate(site, task, _compute_shift(share, prevalence))
    points = choose_operating_points(fitted, fitted, seed=_SEED)
    points = {
        name: OperatingPoint(threshold=point.threshold, chosen_on=point.chosen_on, hold_out=decided[name])
        for name, point in points.items()
    }
    before = evaluate(make_part(task, site, site.scores), majority=1, seed=_SEED).figures
    after = evaluate(left_out, majority=1, seed=_SEED).figures
    cross_validated = {
        "auc": before["auc"],
        "ece": after["ece"],
        **measure_band(left_out, span_abstain_band(points), seed=_SEED),
        "sensitivity": decided[BALANCED].sensitivity,
        "specificity": decided[BALANCED].specificity,
    }
    new = {
        "version": version,
        "created_at": datetime.now(UTC).replace(microsecond=0),
        "thresholds": {card.labels[0]: span_abstain_band(points)},
        "operating_points": {card.labels[0]: points},
        "scaling": Scaling(
            slope=round(scaling.slope, 4), intercept=round(scaling.intercept, 4), scans=len(site.targets),
            patients=len(np.unique(site.groups)), ece_before=before["ece"], ece_after=after["ece"],
        ),
        "calibration": _tell(card, site, site_name, prevalence),
        "metrics": {**_keep_ranking(card), site_name: cross_validated},
    }  # fmt: skip
    return _write(bundle, folder, scaling, new)


def shift_bundle(bundle: Bundle, folder: Path, *, version: str, prevalence: float) -> Bundle:
    """Write a bundle whose scores are probabilities where another share of the scans has the label.

    Decisions stay as they are: thresholds move with the scores. No labelled scan is needed, and nothing is learned of
    the site beyond that share.

    Args:
        bundle: to start from, with calibrated scores; it stays as it is.
        folder: of the new bundle.
        version: of the new bundle.
        prevalence: share of scans with the label.

    Raises:
        TrainingError: the scores are not calibrated, so that no share is known for which they hold.
        CardMismatch: the bundle cannot be scaled, or there is one in the folder.
    """
    card = bundle.card
    check_card(card)
    if card.scaling is None or card.drift_reference is None or "score" not in card.drift_reference.quantiles:
        raise TrainingError(
            f"the scores of {card.reference} are not calibrated; --prevalence alone needs calibrated ones: name "
            "labelled scans of the site with --labels"
        )
    # Of calibrated scores the mean is the share of scans with the label.
    share = float(np.mean(card.drift_reference.quantiles["score"]))
    scaling = shift(PlattScaling(1.0, 0.0), share, prevalence)

    def move(threshold: float) -> float:
        return float(np.clip(np.round(scaling.apply(np.array([threshold]))[0], 6), 1e-6, 1 - 1e-6))

    label = card.labels[0]
    band = card.thresholds[label]
    new = {
        "version": version,
        "created_at": datetime.now(UTC).replace(microsecond=0),
        "thresholds": {label: band.model_copy(update={"low": move(band.low), "high": move(band.high)})},
        "operating_points": {
            label: {
                name: point.model_copy(update={"threshold": move(point.threshold)})
                for name, point in card.operating_points.get(label, {}).items()
            }
        }
        if card.operating_points
        else {},
        "calibration": f"{card.calibration} Shifted from a share of {share:.1%} with {label} to {prevalence:.1%}, "
        "without labelled scans: right only where scans with and without the label are like those of the training.",
        "metrics": _keep_ranking(card),
    }
    return _write(bundle, folder, scaling, new)


def shift(scaling: PlattScaling, share: float, prevalence: float) -> PlattScaling:
    """Return a scaling for another share of scans with the label than it was fitted on (Bayes' rule)."""
    return replace(scaling, intercept=scaling.intercept + _compute_shift(share, prevalence))


def _compute_shift(share: float, prevalence: float | None) -> float:
    if prevalence is None:
        return 0.0
    before, after = to_logits(np.array([share, prevalence])).tolist()
    return float(after - before)


def cross_validate(site: SiteScores, task: Task, moved: float = 0.0) -> tuple[PartScores, dict[str, Rates]]:
    """Return the scans with the scores, and the rates of operating points, that the other patients' scans chose.

    Args:
        site: scores of a bundle.
        task: with one label.
        moved: is added to every intercept.
    """
    names = list(choose_thresholds(site.scores, site.targets))
    scores = np.empty(len(site.targets))
    called = {name: np.empty(len(site.targets)) for name in names}
    for fold in _fold(site):
        rest = ~fold
        scaling = _fit(site.targets[rest], site.scores[rest])
        chosen = choose_thresholds(scaling.apply(site.scores[rest]), site.targets[rest])
        scores[fold] = scaling.apply(site.scores[fold])
        for name in names:
            called[name][fold] = scores[fold] >= chosen[name]
        scores[fold] = replace(scaling, intercept=scaling.intercept + moved).apply(site.scores[fold])
    rates = {}
    for name, decisions in called.items():
        figures = evaluate(replace(make_part(task, site, decisions), threshold=0.5), majority=1, seed=_SEED).figures
        rates[name] = Rates(sensitivity=figures["sensitivity"], specificity=figures["specificity"])
    return make_part(task, site, scores), rates


def _fold(site: SiteScores) -> list[npt.NDArray[np.bool_]]:
    """Divide the scans by patient, each fold with its share of both labels."""
    rng = np.random.default_rng(_SEED)
    fold_of_group = np.zeros(int(site.groups.max()) + 1, np.int64)
    present = np.zeros(len(fold_of_group), bool)
    present[site.groups[site.targets == 1]] = True
    for has_label in (False, True):
        members = rng.permutation(np.flatnonzero(present == has_label))
        fold_of_group[members] = np.arange(len(members)) % _FOLDS
    folds = fold_of_group[site.groups]
    return [folds == fold for fold in range(_FOLDS)]


def make_part(task: Task, site: SiteScores, scores: _Floats) -> PartScores:
    """Return scores of a site's scans as the figures take them."""
    threshold = choose_threshold(site.targets, scores)
    spread = np.stack([1 - scores, scores], axis=1)
    return PartScores(task, site.targets, spread, site.groups, ("",) * len(scores), threshold)


def _fit(targets: Targets, scores: _Floats) -> PlattScaling:
    return fit_scaling(targets, scores, penalty=_PENALTY, expected_slope=1.0)


def _write(bundle: Bundle, folder: Path, scaling: PlattScaling, new: dict[str, Any]) -> Bundle:
    """Write the bundle with a scaled last layer, and check that its scores are the scaled ones."""
    card = bundle.card
    output = card.outputs[0].name if card.outputs else "scores"
    model = scale_last_layer(bundle.model, output, scaling.slope, scaling.intercept)
    expected = scaling.apply(bundle.parity_scores[:, 0].astype(np.float64))
    computed = compute_scores(model, bundle.parity_inputs)
    before = bundle.parity_scores[:, 0]
    is_exact = (before > _ROUNDED) & (before < 1 - _ROUNDED)
    difference = float(np.abs(computed - expected)[is_exact].max(initial=0.0))
    if difference > _LARGEST_DIFFERENCE:
        raise CardMismatch(
            f"the scaled graph's scores differ by {difference:.2g} from the scaled scores of its parity file"
        )
    fields = card.model_dump(exclude={"digest", "files"})
    reference = card.drift_reference
    if reference is not None and "score" in reference.quantiles:
        moved = tuple(scaling.apply(np.array(reference.quantiles["score"])).tolist())
        reference = Reference(**{**reference.model_dump(), "quantiles": {**reference.quantiles, "score": moved}})
    return write_bundle(
        folder,
        model=model,
        parity_inputs=bundle.parity_inputs,
        parity_scores=computed.astype(np.float32)[:, np.newaxis],
        card={**fields, "same_pixels": {}, "drift_reference": reference, **new},
    )


def _keep_ranking(card: Card) -> dict[str, dict[str, Metric]]:
    """Return the figures that no scaling and no threshold changes."""
    kept = {
        part: {name: metric for name, metric in told.items() if name == "auc"} for part, told in card.metrics.items()
    }
    return {part: told for part, told in kept.items() if told}


def _tell(card: Card, site: SiteScores, name: str, prevalence: float | None) -> str:
    share = float(site.targets.mean())
    used = share if prevalence is None else prevalence
    return (
        f"Calibrated for {name}: {card.reference} with scaling and thresholds chosen on {len(site.targets)} labelled "
        f"scans of {name} ({share:.1%} {card.labels[0]}). A score is the chance of {card.labels[0]} where "
        f"{used:.1%} of the scans have it. Figures of {name} are cross-validated by patient; those of other scans hold "
        "for the order of scores alone."
    )


def open_bundle(folder: Path) -> Bundle:
    """Load a bundle that is to be calibrated.

    Raises:
        CardMismatch: it is not whole, or cannot be calibrated.
    """
    bundle = load_bundle(folder)
    check_card(bundle.card)
    return bundle
