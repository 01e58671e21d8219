"""What a checkpoint says of prepared scans, through Keras."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightread.model.card import Metric, Scaling
from nightread.model.training_folder import CHECKPOINT_FILE
from nightread.scan.preprocessing import Tensor
from trainer.data.load import PreparedScans
from trainer.data.split import Divided, Indices, Part
from trainer.errors import TrainingError
from trainer.evaluation.calibration import fit_scaling, fold_scaling
from trainer.evaluation.metrics import PartScores, Scores, choose_threshold, evaluate, spread_scores
from trainer.fit.fit import UNCALIBRATED_FILE, save_network

#: How many of the worst mistakes a report shows.
_MISTAKES: Final = 12


@dataclass(frozen=True, slots=True)
class Mistake:
    """A scan that is decided wrongly.

    Attributes:
        pixels: (H, W) float32 in [0, 1], as the network saw it.
        sha256: of the file.
        label: what it is.
        decision: what it was taken for.
        score: of that decision, in [0, 1].
    """

    pixels: npt.NDArray[np.float32]
    sha256: str
    label: str
    decision: str
    score: float


def load_checkpoint(folder: Path, name: str = CHECKPOINT_FILE) -> Any:
    """Load the kept network of a training folder.

    Raises:
        TrainingError: there is none, or Keras cannot open it.
    """
    import keras

    path = folder / name
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise TrainingError(f"{path} is no checkpoint that Keras can open: {said}") from None


def score(model: Any, inputs: Tensor, at_once: int) -> Scores:
    """Return (N, L) float64 scores of (N, H, W, C) prepared scans, `at_once` in a batch.

    Raises:
        TrainingError: the network gives something else, or scores that are not finite.
    """
    batches = (inputs[start : start + at_once] for start in range(0, len(inputs), at_once))
    scores = np.concatenate([np.asarray(model(batch, training=False)) for batch in batches])
    if scores.shape != (len(inputs), model.output_shape[-1]) or not np.isfinite(scores).all():
        raise TrainingError(
            f"the network gives scores of shape {scores.shape} for {len(inputs)} scans, or not finite ones"
        )
    return scores.astype(np.float64)


def score_parts(
    model: Any, divided: Divided, at_once: int, parts: Sequence[Part] = tuple(Part)
) -> dict[Part, PartScores]:
    """Score parts, the validation part among them, on which the threshold of one label is chosen."""
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
    """Write `checkpoint.keras`: the kept network, with scores that are probabilities on the validation part.

    Returns:
        What was done, and what it changed on the hold-out.
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
    """Return the class that is most frequent in training."""
    return int(np.bincount(divided.scans.targets[divided.split[Part.TRAIN]]).argmax())


def find_mistakes(scans: PreparedScans, places: Indices, part: PartScores) -> list[Mistake]:
    """Return the scans that a network is wrong about with the highest scores.

    Args:
        scans: all of them.
        places: (N,) int64, where the part's scans stand among them.
        part: what the network says of those N scans.
    """
    decisions, classes = part.decisions, part.task.classes
    scores = part.class_scores[np.arange(len(decisions)), decisions]
    wrong = np.flatnonzero(decisions != part.targets)
    return [
        Mistake(
            _stretch(scans.inputs[places[place], :, :, 0]),
            scans.sha256[places[place]],
            classes[part.targets[place]],
            classes[decisions[place]],
            float(scores[place]),
        )
        for place in wrong[np.argsort(-scores[wrong], kind="stable")][:_MISTAKES].tolist()
    ]


def _stretch(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the gray levels between 0 and 1, whatever range the network takes."""
    low, high = float(pixels.min()), float(pixels.max())
    return (pixels - low) / np.float32((high - low) or 1.0)
