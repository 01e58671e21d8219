"""The types of a scan as read, and the limits of its size."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nightread.errors import UnreadableScan
from nightread.reasons import Reason
from nightread.scan.formats import Format

#: Pixels of one scan: (H, W), gray, uint8, uint16 or another real dtype, as read.
Pixels = npt.NDArray[Any]


#: A sample of a color file: (64, 64, 3) uint8, luma and two chroma channels (ITU-R BT.601), 128 where there is none.
Colors = npt.NDArray[np.uint8]


#: Below this side a file is an icon, not a radiograph; the smallest network input in use is 75 pixels.
MIN_SIDE_PX = 32


COLORS_SIDE_PX = 64


#: What Pillow's decoders raise on damaged bytes, gathered from their sources and from its own corpus of crashes.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, ArithmeticError, AttributeError,
    AssertionError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DicomUids:
    """The identifiers of DICOM's three levels, which are no patient data; None where the file has none."""

    study: str | None
    series: str | None
    instance: str | None


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan as read.

    Attributes:
        pixels: (H, W), gray, any real dtype; H and W may be smaller than stored where scaled decoding was allowed.
        black: the pixel value that is shown black.
        white: the pixel value that is shown white; lower than `black` where the gray levels are inverted.
        format: what the file is.
        width_px: width as stored.
        height_px: height as stored.
        uids: of a DICOM instance, else None.
        scale: 1, or where scaled decoding was allowed 2, 4 or 8: each pixel then stands for this many squared, and the
            last of a row or column for fewer where `scale` does not divide the size as stored.
        colors: a sample of what the file stores in color, where that was asked for; None where it stores gray.
    """

    pixels: Pixels
    black: float
    white: float
    format: Format
    width_px: int
    height_px: int
    uids: DicomUids | None = None
    scale: int = 1
    colors: Colors | None = None


def check_size(width_px: int, height_px: int, max_pixels: int) -> None:
    """Refuse a size that no radiograph has, or that would take too much memory to decode.

    Raises:
        UnreadableScan: too large or too small.
    """
    if width_px * height_px > max_pixels:
        raise UnreadableScan(
            Reason.TOO_LARGE,
            f"{width_px} x {height_px} pixels; at most {max_pixels:,} are decoded (NIGHTREAD_MAX_PIXELS)",
        )
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise UnreadableScan(Reason.TOO_SMALL, f"{width_px} x {height_px} pixels; each side needs {MIN_SIDE_PX}")
