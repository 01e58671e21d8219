"""Types of a decoded scan, and the limits of its size."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nightread.errors import UnreadableScan
from nightread.reasons import Reason
from nightread.scan.formats import Format

#: Pixels of one scan as decoded: (H, W), gray, uint8, uint16 or another real dtype.
Pixels = npt.NDArray[Any]

COLORS_SIDE_PX = 64
#: A sample of a color file: (64, 64, 3) uint8, luma and two chroma channels (ITU-R BT.601); 128 means no chroma.
Colors = npt.NDArray[np.uint8]

#: Minimum side; smaller files are icons. The smallest network input in use is 75 pixels.
MIN_SIDE_PX = 32

#: Exceptions of Pillow's decoders on damaged bytes, from their sources and from Pillow's corpus of crashes.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, ArithmeticError, AttributeError,
    AssertionError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DicomUids:
    """The UIDs of DICOM's three levels, which are not patient data; None if missing."""

    study: str | None
    series: str | None
    instance: str | None


@dataclass(frozen=True, slots=True)
class Scan:
    """One decoded scan.

    Attributes:
        pixels: (H, W), gray, any real dtype; H and W are smaller than stored after scaled decoding.
        black: pixel value of black.
        white: pixel value of white; lower than `black` if the gray levels are inverted.
        format: file format; None of an array.
        width_px: width as stored.
        height_px: height as stored.
        uids: UIDs of a DICOM instance, else None.
        scale: 1, or 2, 4 or 8 after scaled decoding: each pixel covers `scale` x `scale` stored pixels, the last of a
            row or column fewer if `scale` does not divide the stored size.
        colors: a sample of the colors, if requested; None if the file stores gray.
    """

    pixels: Pixels
    black: float
    white: float
    format: Format | None
    width_px: int
    height_px: int
    uids: DicomUids | None = None
    scale: int = 1
    colors: Colors | None = None


def check_size(width_px: int, height_px: int, max_pixels: int) -> None:
    """Refuse a size that is too small for a radiograph or too large to decode.

    Raises:
        UnreadableScan: too large or too small.
    """
    if width_px * height_px > max_pixels:
        raise UnreadableScan(
            Reason.TOO_LARGE,
            f"the size is {width_px} x {height_px} pixels; allowed are {max_pixels:,} in total (NIGHTREAD_MAX_PIXELS)",
        )
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise UnreadableScan(
            Reason.TOO_SMALL, f"the size is {width_px} x {height_px} pixels; each side needs at least {MIN_SIDE_PX}"
        )
