"""Black and white of a scan whose file does not define them, estimated by robust statistics.

docs/reference/pixels.md states the rule. The bulk of the gray levels is measured in the inner four fifths of each side,
so that borders and markers at the edges do not affect it.
"""

from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

#: Share of each side that is ignored at both ends.
_BORDER = 0.1
#: Quantiles that bound the bulk of the gray levels.
_BULK = (0.05, 0.95)
#: A pixel further from the bulk than this multiple of its width is an outlier: a marker, border or defect.
_FAR = 1.0
#: Share of pixels below or at the white of an integer range.
_BELOW_WHITE = 0.995


def find_extremes(pixels: npt.NDArray[Any], padding: npt.NDArray[np.bool_] | None = None) -> tuple[float, float] | None:
    """Return the smallest and largest gray level without outliers; None if no pixel is finite.

    Args:
        pixels: (H, W), any real dtype.
        padding: (H, W) bool, True for padding pixels.
    """
    inner, values = _take_inner(pixels, padding), _take(pixels, padding)
    if not values.size:
        return None
    low, high = _find_bulk(inner if inner.size else values)
    reach = _FAR * (high - low)
    if reach:
        values = values[(values >= low - reach) & (values <= high + reach)]
    return float(values.min()), float(values.max())


def find_white(pixels: npt.NDArray[np.integer[Any]]) -> float:
    """Return the white of unsigned integers: the largest value of the bits in use, at least 8.

    Args:
        pixels: (H, W) unsigned; the 12 bits of a detector may be stored in 16.
    """
    values = _take_inner(pixels, None)
    (level,) = _find_ranked(values, [int(_BELOW_WHITE * (len(values) - 1))])
    bits = int(level).bit_length()
    return float(2 ** max(8, bits) - 1)


def _find_bulk(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the quantiles that bound the bulk of N > 0 values, interpolated linearly."""
    places = [share * (len(values) - 1) for share in _BULK]
    ranked = _find_ranked(values, [rank for place in places for rank in (int(place), ceil(place))])
    low, above_low, high, above_high = (float(value) for value in ranked)
    return low + (above_low - low) * (places[0] % 1), high + (above_high - high) * (places[1] % 1)


def _find_ranked(values: npt.NDArray[Any], ranks: list[int]) -> npt.NDArray[Any]:
    """Return the values of these ranks, from 0 for the smallest.

    Integers of at most 16 bits are counted by level: a megapixel in 2 ms instead of 10.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        return np.partition(values, ranks)[ranks]
    least = int(values.min())
    at_most = np.cumsum(np.bincount(values.astype(np.intp) - least))  # (levels,) how many values are no higher
    return least + np.searchsorted(at_most, ranks, "right")


def _take_inner(pixels: npt.NDArray[Any], padding: npt.NDArray[np.bool_] | None) -> npt.NDArray[Any]:
    """Return the finite, non-padding pixels of the inner part, (N,)."""
    rows, columns = (round(side * _BORDER) for side in pixels.shape)
    inner = (slice(rows, pixels.shape[0] - rows), slice(columns, pixels.shape[1] - columns))
    return _take(pixels[inner], None if padding is None else padding[inner])


def _take(pixels: npt.NDArray[Any], padding: npt.NDArray[np.bool_] | None) -> npt.NDArray[Any]:
    """Return the finite, non-padding pixels, (N,)."""
    kept = np.isfinite(pixels) if pixels.dtype.kind == "f" else np.ones(pixels.shape, bool)
    values: npt.NDArray[Any] = pixels[kept if padding is None else kept & ~padding]
    return values
