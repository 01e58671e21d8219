"""Calibration: Platt scaling of scores to probabilities, folded into the last layer.

Platt 1999, Probabilistic outputs for support vector machines: `sigmoid(slope * logit + intercept)`, by maximum
likelihood. Folded into the weights it costs a worker nothing, and every score that is seen is calibrated.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainer.data.split import Targets
from trainer.errors import TrainingError

_Floats = npt.NDArray[np.float64]

#: Scores nearer to 0 or 1 than this are rounded ones; their logit says nothing.
_EDGE: Final = 1e-7

#: Penalty of the squared slope: keeps the slope finite where all scans are told apart, and changes nothing elsewhere.
#: Platt drew the targets in from 0 and 1 instead, which makes good networks doubt more than they should.
_LEAST_PENALTY: Final = 0.01

_STEPS: Final = 100
_CLOSE: Final = 1e-10


@dataclass(frozen=True, slots=True)
class PlattScaling:
    """The two numbers that turn a logit into that of a probability."""

    slope: float
    intercept: float

    def apply(self, scores: _Floats) -> _Floats:
        """Return (N,) scaled scores."""
        return squash(self.slope * to_logits(scores) + self.intercept)


def to_logits(scores: _Floats) -> _Floats:
    """Return (N,) logits of scores in [0, 1]."""
    clipped = np.clip(scores, _EDGE, 1 - _EDGE)
    logits: _Floats = np.log(clipped / (1 - clipped))
    return logits


def squash(logits: _Floats) -> _Floats:
    """Return the sigmoid; finite for any logit."""
    halves: _Floats = np.tanh(logits / 2) / 2 + 0.5
    return halves


def fit_scaling(
    targets: Targets, scores: _Floats, *, penalty: float = _LEAST_PENALTY, expected_slope: float = 0.0
) -> PlattScaling:
    """Fit a scaling by maximum likelihood.

    Args:
        targets: (N,) int64, 1 where the label is present; both occur.
        scores: (N,) float64 in [0, 1], of scans that the network was not fitted on.
        penalty: of the squared distance of the slope from `expected_slope`; for few scans, about 1.
        expected_slope: 1 where the scores were calibrated before.

    Raises:
        TrainingError: higher scores do not go with the label: nothing was learned, and nothing can be calibrated.
    """
    design = np.stack([to_logits(scores), np.ones(len(scores))], axis=1)
    expected, penalties = np.array([expected_slope, 0.0]), np.array([penalty, 0.0])
    weights = np.array([1.0, 0.0])

    def measure(weights: _Floats) -> float:
        logits = design @ weights
        return float((np.logaddexp(0, logits) - targets * logits).sum() + penalties @ (weights - expected) ** 2 / 2)

    for _ in range(_STEPS):  # Newton's method; a step is halved as long as it leads upwards
        chances = squash(design @ weights)
        gradient = design.T @ (chances - targets) + penalties * (weights - expected)
        curvature = (design * (chances * (1 - chances))[:, np.newaxis]).T @ design + np.diag(penalties + 1e-9)
        step, before = np.linalg.solve(curvature, gradient), measure(weights)
        while measure(weights - step) > before and np.abs(step).max() > _CLOSE:
            step /= 2
        weights = weights - step
        if np.abs(step).max() < _CLOSE:
            break
    slope, intercept = weights.tolist()
    if not slope > 0:
        raise TrainingError(
            "the scores of the validation part do not rise with the label, so they cannot be calibrated; train longer, "
            "or without --calibrate"
        )
    return PlattScaling(slope, intercept)


def fold_scaling(model: Any, scaling: PlattScaling) -> None:
    """Change a network's last layer so that its scores are the probabilities of a scaling."""
    last = model.layers[-1]
    kernel, bias = last.get_weights()
    last.set_weights([kernel * scaling.slope, bias * scaling.slope + scaling.intercept])
