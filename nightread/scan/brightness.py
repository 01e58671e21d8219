"""Black and white of a scan whose file does not say: robust statistics, never one extreme pixel.

docs/reference/pixels.md states the rule. The bulk of the gray levels is taken from the inner four fifths of each side,
so that borders and markers at the edge have no say in it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

#: Share of each side that is left out at both of its ends.
_BORDER = 0.1
#: Quantiles between which the bulk of the gray levels lies.
_BULK = (0.05, 0.95)
#: A pixel that lies further from the bulk than this many times its width is a marker, a border or a defect.
_FAR = 1.0
#: Share of pixels that must lie below the white of an integer range.
_BELOW_WHITE = 0.995


def find_extremes(pixels: npt.NDArray[Any], padding: npt.NDArray[np.bool_] | None = None) -> tuple[float, float] | None:
    """Return the least and the largest gray level, markers and defective pixels left out; None where none is a number.

    Args:
        pixels: (H, W), any real dtype.
        padding: (H, W), True where a pixel holds no gray level.
    """
    inner, values = _take_inner(pixels, padding), _take(pixels, padding)
    if not values.size:
        return None
    low, high = (float(level) for level in np.quantile(inner if inner.size else values, _BULK))
    reach = _FAR * (high - low)
    if reach:
        values = values[(values >= low - reach) & (values <= high + reach)]
    return float(values.min()), float(values.max())


def find_white(pixels: npt.NDArray[np.integer[Any]]) -> float:
    """Return the white of integers that begin at 0: the largest value of the fewest bits, 8 or more, that hold them.

    Args:
        pixels: (H, W) unsigned; a detector of 12 bits may lie in 16.
    """
    values = _take_inner(pixels, None)
    bits = int(np.quantile(values, _BELOW_WHITE, method="lower")).bit_length()
    return float(2 ** max(8, bits) - 1)


def _take_inner(pixels: npt.NDArray[Any], padding: npt.NDArray[np.bool_] | None) -> npt.NDArray[Any]:
    """Return the gray levels of the inner part, (N,)."""
    rows, columns = (round(side * _BORDER) for side in pixels.shape)
    inner = (slice(rows, pixels.shape[0] - rows), slice(columns, pixels.shape[1] - columns))
    return _take(pixels[inner], None if padding is None else padding[inner])


def _take(pixels: npt.NDArray[Any], padding: npt.NDArray[np.bool_] | None) -> npt.NDArray[Any]:
    """Return the pixels that hold a number, (N,)."""
    kept = np.isfinite(pixels) if pixels.dtype.kind == "f" else np.ones(pixels.shape, bool)
    values: npt.NDArray[Any] = pixels[kept if padding is None else kept & ~padding]
    return values
