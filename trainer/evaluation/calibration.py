"""From scores to probabilities: Platt's scaling, fitted on the validation part and folded into the last layer.

Platt 1999, Probabilistic outputs for support vector machines: `sigmoid(slope * logit + intercept)`, by maximum
likelihood. Folded into the weights, it costs a worker nothing, and no score is ever seen that is not calibrated.
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

#: Against an endless slope where all scans are told apart without a fault; elsewhere it changes nothing. Platt drew the
#: targets in from 0 and 1 instead, which makes good networks doubt more than they should.
_LEAST_PENALTY: Final = 100.0


@dataclass(frozen=True, slots=True)
class PlattScaling:
    """The two numbers that turn a logit into that of a probability."""

    slope: float
    intercept: float


def fit_scaling(targets: Targets, scores: _Floats) -> PlattScaling:
    """Fit a scaling by maximum likelihood.

    Args:
        targets: (N,) int64, 1 where the label is present; both occur.
        scores: (N,) float64 in [0, 1], of scans that the network was not fitted on.

    Raises:
        TrainingError: higher scores do not go with the label: nothing was learned, and nothing can be calibrated.
    """
    from sklearn.linear_model import LogisticRegression

    clipped = np.clip(scores, _EDGE, 1 - _EDGE)
    logits = np.log(clipped / (1 - clipped))
    model = LogisticRegression(C=_LEAST_PENALTY, tol=1e-8, max_iter=1000).fit(logits[:, None], targets)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
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
