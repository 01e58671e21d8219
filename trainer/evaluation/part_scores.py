"""Scores of the parts of a split, computed with a checkpoint in Keras, and their calibration."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from keras.models import load_model

from nightread.model.card import Metric, Scaling
from nightread.model.training_folder import CHECKPOINT_FILE
from nightread.scan.preprocessing import Tensor
from trainer.data.split import Divided, Part
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


def score_parts(
    model: Any, divided: Divided, at_once: int, parts: Sequence[Part] = tuple(Part)
) -> dict[Part, PartScores]:
    """Score parts, among them the validation part, on which the threshold of a single label is chosen."""
    task, scans, split = divided.task, divided.scans, divided.split
    spread = {part: spread_scores(task, score(model, scans.inputs[split[part]], at_once)) for part in parts}
    threshold = None
    if task.activation == "sigmoid":
        threshold = choose_threshold(scans.targets[split[Part.VALIDATION]], spread[Part.VALIDATION][:, 1])
    return {
        part: PartScores(
            task,
            scans.targets[split[part]],
            spread[part],
            divided.groups[split[part]],
            tuple(scans.scans[place].subgroup for place in split[part].tolist()),
            threshold,
        )
        for part in parts
    }


def calibrate(folder: Path, divided: Divided, at_once: int, seed: int) -> Scaling:
    """Write `checkpoint.keras`: the network, calibrated on the validation part.

    Returns:
        The scaling, and the calibration error of the hold-out before and after it.
    """
    model = load_checkpoint(folder, UNCALIBRATED_FILE)
    before = score_parts(model, divided, at_once, (Part.VALIDATION, Part.HOLD_OUT))
    validation, hold_out = before[Part.VALIDATION], before[Part.HOLD_OUT]
    scaling = fit_scaling(validation.targets, validation.class_scores[:, 1])
    fold_scaling(model, scaling)
    save_network(model, folder / CHECKPOINT_FILE)
    scored = spread_scores(divided.task, score(model, divided.scans.inputs[divided.split[Part.HOLD_OUT]], at_once))

    def find_error(part: PartScores) -> Metric:
        return evaluate(part, majority=0, seed=seed).figures["ece"]

    return Scaling(
        slope=round(scaling.slope, 4),
        intercept=round(scaling.intercept, 4),
        scans=len(validation.targets),
        patients=len(np.unique(validation.groups)),
        ece_before=find_error(hold_out),
        ece_after=find_error(replace(hold_out, class_scores=scored)),
    )


def find_majority(divided: Divided) -> int:
    """Return the most frequent class of the training part."""
    return int(np.bincount(divided.scans.targets[divided.split[Part.TRAIN]]).argmax())
