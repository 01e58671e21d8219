"""Pixels that are in memory already, as a scan."""

from typing import Final

from nightread.scan.brightness import find_white
from nightread.scan.decode import check_content
from nightread.scan.scan import Pixels, Scan, check_size

#: White by kind and bytes of a dtype, in either byte order; None where the pixels decide.
_WHITES: Final = {"u1": 255.0, "u2": None, "f2": 1.0, "f4": 1.0, "f8": 1.0}


def check_array(pixels: Pixels) -> None:
    """Make sure that an array is of a kind that can be a scan.

    Raises:
        TypeError: it is not (H, W) of uint8, uint16, float16, float32 or float64.
    """
    if pixels.ndim != 2 or pixels.dtype.str[1:] not in _WHITES:
        raise TypeError(
            f"an array of shape {pixels.shape} and dtype {pixels.dtype}; a scan is (H, W), gray, of uint8, uint16, "
            "float16, float32 or float64"
        )


def read_array(pixels: Pixels, *, max_pixels: int) -> Scan:
    """Return an array as a scan, with black and white by its dtype.

    uint8 is shown from 0 (black) to 255 (white), floating point from 0.0 to 1.0, and values beyond are clipped. uint16
    is shown from 0 to the largest value of the bits in use, as a 16-bit PNG of the same pixels is.

    Args:
        pixels: (H, W), see `check_array`.
        max_pixels: largest width times height that is taken.

    Raises:
        UnreadableScan: too large, too small, blank, or with values that are not finite.
    """
    height_px, width_px = pixels.shape
    check_size(width_px, height_px, max_pixels)
    white = _WHITES[pixels.dtype.str[1:]]
    scan = Scan(pixels, 0.0, find_white(pixels) if white is None else white, None, width_px, height_px)
    check_content(scan)
    return scan
