"""What the pixels of a prepared scan measure: a night is compared with the training data by it.

Everything is taken from a picture of 32 x 32 places, each the mean of what lies there: how sharp and how large the file
was, and how large a network's input is, then hardly matters; what differs is exposure and position.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from nightread.scan.preprocessing import InputSpec, Tensor

_SIDE: Final = 32
#: 5 % of the places.
_TAIL: Final = _SIDE * _SIDE // 20


@dataclass(frozen=True, slots=True)
class Statistics:
    """Pixel statistics of one scan, of gray from 0 (black) to 1 (white) whatever the network's value range is.

    Attributes:
        brightness: mean gray.
        contrast: standard deviation of the gray.
        darkest: gray below which 5 % of the scan lies.
        brightest: gray above which 5 % of the scan lies.
        detail: mean absolute step between neighbouring places.
        symmetry: correlation of the scan with its mirror image, -1 to 1; 0 where every place has the same gray.
    """

    brightness: float
    contrast: float
    darkest: float
    brightest: float
    detail: float
    symmetry: float


def measure(tensor: Tensor, spec: InputSpec) -> Statistics:
    """Measure a prepared scan.

    Args:
        tensor: (H, W, C) float32 within `spec.value_range`; its channels are the same.
        spec: what it was prepared for.
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
