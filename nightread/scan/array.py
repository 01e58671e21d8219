"""Scans from NumPy arrays."""

from typing import Final

from nightread.scan.brightness import find_white
from nightread.scan.decode import check_content
from nightread.scan.scan import Pixels, Scan, check_size

#: White by kind and size of a dtype, in either byte order; None if it depends on the pixels.
_WHITES: Final = {"u1": 255.0, "u2": None, "f2": 1.0, "f4": 1.0, "f8": 1.0}


def check_array(pixels: Pixels) -> None:
    """Check that the shape and dtype of an array fit a scan.

    Raises:
        TypeError: not (H, W) of uint8, uint16, float16, float32 or float64.
    """
    if pixels.ndim != 2 or pixels.dtype.str[1:] not in _WHITES:
        raise TypeError(
            f"an array of shape {pixels.shape} and dtype {pixels.dtype}; a scan is (H, W), gray, of uint8, uint16, "
            "float16, float32 or float64"
        )


def read_array(pixels: Pixels, *, max_pixels: int) -> Scan:
    """Return an array as a scan, with black and white by its dtype.

    Black to white is 0 to 255 for uint8 and 0.0 to 1.0 for floating point; values beyond are clipped. For uint16 it is
    0 to the largest value of the bits in use, as for a 16-bit PNG of these pixels.

    Args:
        pixels: (H, W), see `check_array`.
        max_pixels: maximum width times height.

    Raises:
        UnreadableScan: too large, too small, blank, or with values that are not finite.
    """
    height_px, width_px = pixels.shape
    check_size(width_px, height_px, max_pixels)
    white = _WHITES[pixels.dtype.str[1:]]
    scan = Scan(pixels, 0.0, find_white(pixels) if white is None else white, None, width_px, height_px)
    check_content(scan)
    return scan
