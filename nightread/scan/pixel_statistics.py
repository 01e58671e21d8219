"""Pixel statistics of a prepared scan, from which drift is computed.

They are computed on the scan averaged to 32 x 32 cells, so that they reflect exposure and position and hardly depend on
sharpness, file size or the network's input size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

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


def measure(tensors: Iterable[Tensor], spec: InputSpec) -> list[Statistics]:
    """Return the pixel statistics of prepared scans.

    Together they take less time than one after the other, after each of which a decoder empties the caches. The numbers
    of a scan do not depend on the others.

    Args:
        tensors: (H, W, C) float32 each, within `spec.value_range`; their channels are equal.
        spec: input for which they were prepared.
    """
    low, high = spec.value_range
    # In float64 sums of equal pixels are exact, so that the cells of a scan of one gray are equal, too.
    gray = np.stack([tensor[:, :, 0] for tensor in tensors], dtype=np.float64)
    (rows, heights_px), (columns, widths_px) = _find_cells(gray.shape[1]), _find_cells(gray.shape[2])
    sums = np.add.reduceat(np.add.reduceat(gray, rows, axis=1), columns, axis=2)
    cells = (sums / np.outer(heights_px, widths_px) - low) / (high - low)
    brightness = cells.mean(axis=(1, 2))
    centred = cells - brightness[:, np.newaxis, np.newaxis]
    variance = np.square(centred).mean(axis=(1, 2))
    ordered = np.sort(cells.reshape(len(cells), -1), axis=1)
    down, across = (np.abs(np.diff(cells, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2))
    mirrored = (centred * centred[:, :, ::-1]).mean(axis=(1, 2))
    values = (
        brightness,
        np.sqrt(variance),
        ordered[:, _TAIL],
        ordered[:, -1 - _TAIL],
        (down + across) / 2,
        np.divide(mirrored, variance, out=np.zeros_like(variance), where=variance > 0),
    )
    return [Statistics(*told) for told in zip(*(value.tolist() for value in values), strict=True)]


@cache
def _find_cells(side_px: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the first pixel of each of 32 cells along a side, and its number of pixels, as in Pillow's box filter.

    A side below 32 has cells of one pixel.
    """
    scale = side_px / _SIDE
    starts = np.floor((np.arange(_SIDE) + 0.5) * scale - max(scale, 1.0) / 2 + 0.5).astype(np.intp)
    return starts, np.maximum(np.diff(starts, append=side_px), 1).astype(np.float64)
