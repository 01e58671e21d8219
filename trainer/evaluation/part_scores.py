"""Scores of the parts of a split, computed with a checkpoint in Keras, and their calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from keras.models import load_model

from nightread.model.card import Metric, Scaling
from nightread.model.training_folder import CHECKPOINT_FILE
from nightread.scan.preprocessing import Tensor
from trainer.data.load import PreparedScans
from trainer.data.site import Site
from trainer.data.split import Divided, Indices, Part
from trainer.errors import TrainingError
from trainer.evaluation.calibration import fit_scaling, fold_scaling
from trainer.evaluation.metrics import PartScores, Scores, choose_threshold, evaluate, spread_scores
from trainer.fit.fit import UNCALIBRATED_FILE, save_network


def load_checkpoint(folder: Path, name: str = CHECKPOINT_FILE) -> Any:
    """Load the network of a training folder.

    Raises:
        TrainingError: there is none, or Keras cannot open it.
    """
    path = folder / name
    try:
        return load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise TrainingError(f"{path} is no checkpoint that Keras can open: {said}") from None


def score(model: Any, inputs: Tensor, at_once: int) -> Scores:
    """Score (N, H, W, C) prepared scans, `at_once` in a batch.

    Returns:
        (N, L) float64.

    Raises:
        TrainingError: the scores have another shape, or are not finite.
    """
    batches = (inputs[start : start + at_once] for start in range(0, len(inputs), at_once))
    scores = np.concatenate([np.asarray(model(batch, training=False)) for batch in batches])
    if scores.shape != (len(inputs), model.output_shape[-1]) or not np.isfinite(scores).all():
        raise TrainingError(
            f"the network gives scores of shape {scores.shape} for {len(inputs)} scans, or scores that are not finite"
        )
    return scores.astype(np.float64)


@dataclass(frozen=True, slots=True)
class ScoredParts:
    """Scores of the parts of a split, and of another site.

    Attributes:
        parts: by part.
        site: of the site's scans; None where there is no site.
    """

    parts: Mapping[Part, PartScores]
    site: PartScores | None = None

    @property
    def chosen_on(self) -> PartScores:
        """The scans on which thresholds and calibration are chosen: the validation part, and the site's.

        A site has fewer scans, and the harder ones: they are counted several times, so that both weigh about the same.
        """
        validation = self.parts[Part.VALIDATION]
        return validation if self.site is None else join_parts(validation, self.site, self.site_weight)

    @property
    def site_weight(self) -> int:
        """How many times each scan of the site counts; 0 without a site."""
        if self.site is None:
            return 0
        return max(1, len(self.parts[Part.VALIDATION].targets) // len(self.site.targets))


def join_parts(one: PartScores, other: PartScores, weight: int = 1) -> PartScores:
    """Return the scans of two parts as one; their patients are different people.

    Args:
        one: the first.
        other: the second.
        weight: how many times each scan of the second counts.
    """
    return replace(
        one,
        targets=np.concatenate([one.targets, *[other.targets] * weight]),
        class_scores=np.concatenate([one.class_scores, *[other.class_scores] * weight]),
        groups=np.concatenate([one.groups, *[other.groups + one.groups.max() + 1] * weight]),
        subgroups=one.subgroups + other.subgroups * weight,
    )


def score_parts(
    model: Any, divided: Divided, at_once: int, parts: Sequence[Part] = tuple(Part), site: Site | None = None
) -> ScoredParts:
    """Score parts, the validation part among them, and a site; the threshold of one label is chosen on these two."""
    task, scans, split = divided.task, divided.scans, divided.split

    def score_scans(scans: PreparedScans, places: Indices, groups: Indices) -> PartScores:
        return PartScores(
            task,
            scans.targets[places],
            spread_scores(task, score(model, scans.inputs[places], at_once)),
            groups[places],
            tuple(scans.scans[place].subgroup for place in places.tolist()),
            None,
        )

    scored = ScoredParts(
        {part: score_scans(scans, split[part], divided.groups) for part in parts},
        None if site is None else score_scans(site.scans, np.arange(len(site.groups)), site.groups),
    )
    if task.activation != "sigmoid":
        return scored
    threshold = choose_threshold(scored.chosen_on.targets, scored.chosen_on.class_scores[:, 1])
    return ScoredParts(
        {part: replace(told, threshold=threshold) for part, told in scored.parts.items()},
        None if scored.site is None else replace(scored.site, threshold=threshold),
    )


def calibrate(folder: Path, divided: Divided, at_once: int, seed: int, site: Site | None = None) -> Scaling:
    """Write `checkpoint.keras`: the kept network, with scores that are probabilities on the validation part and a site.

    Returns:
        The scaling, and the calibration error of the hold-out before and after it.
    """
    model = load_checkpoint(folder, UNCALIBRATED_FILE)
    before = score_parts(model, divided, at_once, (Part.VALIDATION, Part.HOLD_OUT), site)
    chosen_on, hold_out = before.chosen_on, before.parts[Part.HOLD_OUT]
    scaling = fit_scaling(chosen_on.targets, chosen_on.class_scores[:, 1])
    fold_scaling(model, scaling)
    save_network(model, folder / CHECKPOINT_FILE)
    scored = spread_scores(divided.task, score(model, divided.scans.inputs[divided.split[Part.HOLD_OUT]], at_once))

    def find_error(part: PartScores) -> Metric:
        return evaluate(part, majority=0, seed=seed).figures["ece"]

    return Scaling(
        slope=round(scaling.slope, 4),
        intercept=round(scaling.intercept, 4),
        scans=len(before.parts[Part.VALIDATION].targets) + (0 if before.site is None else len(before.site.targets)),
        patients=len(np.unique(chosen_on.groups)),
        ece_before=find_error(hold_out),
        ece_after=find_error(replace(hold_out, class_scores=scored)),
    )


def find_majority(divided: Divided) -> int:
    """Return the most frequent class of the training part."""
    return int(np.bincount(divided.scans.targets[divided.split[Part.TRAIN]]).argmax())
