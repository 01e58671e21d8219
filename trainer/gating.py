"""Fitting the input gate: how far a scan's features may be from those of the training scans.

The distance is Mahalanobis' in the sense of probabilistic principal components (Tipping and Bishop 1999): the largest
directions of the training scans' features are whitened each by its own deviation, all others together by their common
one. The empirical covariance of so many features from a few thousand scans could not be inverted; this shrinks it where
it is not known, and what travels with the network stays small.

A network that is fine-tuned on two classes forgets, by its last layer, most of what tells a chest from anything else:
the features are those of several depths, each the mean over the picture.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightread.card import Gate, Metric
from nightread.preparing import Tensor
from trainer.dividing import Divided
from trainer.splitting import Part

GATE_FILE: Final = "gate.npz"

#: Components that are stored with each scan; see the table `measurements`.
COMPONENTS: Final = 8

#: The chest X-rays of one hospital are 0.94 to 3.2 times as wide as high (240 files of full resolution; the data set
#: itself comes scaled to squares), and those of published cases up to 2.3.
_MAX_ASPECT_RATIO: Final = 4.0

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Whitening:
    """What turns D features of a scan into its distance and its components.

    Attributes:
        mean: (D,) of the training scans.
        scale: (D,), what each feature is multiplied by.
        axes: (D, K) orthonormal, the principal directions of the scaled features, the largest first.
        deviations: (K,), the standard deviation along each.
        rest: the mean standard deviation along all other directions.
    """

    mean: _Floats
    scale: _Floats
    axes: _Floats
    deviations: _Floats
    rest: float

    def measure(self, features: npt.NDArray[Any]) -> tuple[_Floats, _Floats]:
        """Return (N,) distances and (N, 8) components of (N, D) features."""
        scaled = (features.astype(np.float64) - self.mean) * self.scale
        along = scaled @ self.axes
        whitened = along / self.deviations
        beside = np.maximum(np.square(scaled).sum(axis=1) - np.square(along).sum(axis=1), 0.0)
        return np.sqrt(np.square(whitened).sum(axis=1) + beside / self.rest**2), whitened[:, :COMPONENTS]


def fit_whitening(features: npt.NDArray[Any], *, axes: int) -> Whitening:
    """Fit a whitening on (N, D) features of the training scans.

    Args:
        features: one row a scan.
        axes: how many directions are whitened each by itself; fewer where there are fewer.
    """
    features = features.astype(np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # A feature that hardly ever moves in training would outweigh all others where it does.
    scale = 1.0 / (deviation + _FLOOR * np.median(deviation) + 1e-12)
    scaled = (features - mean) * scale
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    variances = np.square(singular) / len(features)
    count = min(axes, len(variances) - 1)
    rest = np.sqrt(max(float(variances[count:].sum()), 1e-12) / max(1, features.shape[1] - count))
    return Whitening(mean, scale, directions[:count].T, np.sqrt(variances[:count]), float(rest))
