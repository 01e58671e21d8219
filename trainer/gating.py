"""Fitting the input gate: how far a scan's embedding may be from those of the training scans.

The distance is Mahalanobis' in the sense of probabilistic principal components (Tipping and Bishop 1999): the largest
directions of the training embeddings are whitened each by its own deviation, all others together by their mean one. An
empirical covariance of more than a thousand features from a few thousand scans could not be inverted; this shrinks it
where it is not known, and the matrix that travels with the network stays small.
"""

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float64]
