"""From scores to probabilities: Platt's scaling, fitted on the validation part and folded into the last layer.

Platt 1999, Probabilistic outputs for support vector machines: `sigmoid(slope * logit + intercept)`, with targets drawn
in a little from 0 and 1, so that scans that are told apart without a fault do not ask for an endless slope. Folded into
the weights, it costs a worker nothing, and no score is ever seen that is not calibrated.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainer.errors import TrainingError
from trainer.splitting import Targets

_Floats = npt.NDArray[np.float64]

#: Scores nearer to 0 or 1 than this are rounded ones; their logit says nothing.
_EDGE: Final = 1e-7


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
    present, absent = int((targets == 1).sum()), int((targets == 0).sum())
    drawn_in = np.where(targets == 1, (present + 1) / (present + 2), 1 / (absent + 2))
    # Each scan stands twice, as present and as absent, with the weights of both: a target between 0 and 1.
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.concatenate([logits, logits])[:, None],
        np.repeat([1, 0], len(logits)),
        sample_weight=np.concatenate([drawn_in, 1 - drawn_in]),
    )
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
