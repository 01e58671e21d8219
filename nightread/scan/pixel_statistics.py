"""Pixel statistics of a prepared scan, from which drift is computed.

They are computed on the scan averaged to 32 x 32 cells, so that they reflect exposure and position and hardly depend on
sharpness, file size or the network's input size.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from nightread.scan.preprocessing import InputSpec, Tensor

_SIDE: Final = 32
#: Number of cells in 5 % of the scan.
_TAIL: Final = _SIDE * _SIDE // 20


@dataclass(frozen=True, slots=True)
class Statistics:
    """Pixel statistics of one scan, in gray from 0 (black) to 1 (white) for any value range of the network.

    Attributes:
        brightness: mean gray.
        contrast: standard deviation of the gray.
        darkest: 5th percentile of the gray.
        brightest: 95th percentile of the gray.
        detail: mean absolute difference of neighbouring cells.
        symmetry: correlation of the scan with its mirror image, -1 to 1; 0 if every cell has the same gray.
    """

    brightness: float
    contrast: float
    darkest: float
    brightest: float
    detail: float
    symmetry: float


def measure(tensor: Tensor, spec: InputSpec) -> Statistics:
    """Return the pixel statistics of a prepared scan.

    Args:
        tensor: (H, W, C) float32 within `spec.value_range`; its channels are equal.
        spec: input for which it was prepared.
    """
    low, high = spec.value_range
    shrunk = Image.fromarray(tensor[:, :, 0]).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    places = (np.asarray(shrunk, np.float64) - low) / (high - low)
    brightness = float(places.mean())
    centred = places - brightness
    variance = float(np.square(centred).mean())
    ordered = np.sort(places, axis=None)
    return Statistics(
        brightness=brightness,
        contrast=variance**0.5,
        darkest=float(ordered[_TAIL]),
        brightest=float(ordered[-1 - _TAIL]),
        detail=float((np.abs(np.diff(places, axis=0)).mean() + np.abs(np.diff(places, axis=1)).mean()) / 2),
        symmetry=float((centred * centred[:, ::-1]).mean()) / variance if variance > 0 else 0.0,
    )
