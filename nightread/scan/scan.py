"""Types of a decoded scan, and the limits of its size."""

import struct
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from nightread.errors import UnreadableScan
from nightread.reasons import Reason
from nightread.scan.acquisition import Acquisition
from nightread.scan.formats import Format

#: Pixels of one scan as decoded: (H, W), gray, uint8, uint16 or another real dtype.
Pixels = npt.NDArray[Any]

COLORS_SIDE_PX = 64
#: A sample of a color file: (64, 64, 3) uint8, luma and two chroma channels (ITU-R BT.601); 128 means no chroma.
Colors = npt.NDArray[np.uint8]

#: Minimum side; smaller files are icons. The smallest network input in use is 75 pixels.
MIN_SIDE_PX = 32

#: Gray levels beyond it are none: they would overflow the float32 of a prepared scan.
LARGEST_GRAY = 1e30

#: Exceptions of Pillow's decoders on damaged bytes, from their sources and from Pillow's corpus of crashes.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, ArithmeticError, AttributeError,
    AssertionError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip


class BrightnessRule(StrEnum):
    """Which rule determined black and white; docs/reference/pixels.md has the rules."""

    FULL_RANGE = "full-range"  # 8 bits, or color
    VOI_TABLE = "voi-table"
    WINDOW = "window"
    STORED_BITS = "stored-bits"
    BITS_IN_USE = "bits-in-use"
    EXTREMES = "extremes"


class Contradiction(StrEnum):
    """Where attributes contradict each other, the frame or the standard, although the scan was read."""

    TRANSFER_SYNTAX = "transfer-syntax"  # the frame has another compression than declared
    BITS_STORED = "bits-stored"  # the frame has other bits than declared
    HIGH_BIT = "high-bit"  # not the highest of the stored bits
    MISSING_ATTRIBUTE = "missing-attribute"  # a required attribute of the pixels is missing
    WINDOW = "window"  # not of a finite center and a positive width, or far wider than the pixels
    VOI_TABLE = "voi-table"  # its entries take other bits than declared
    PADDING = "padding"  # its sign is not that of the pixels
    PRESENTATION_LUT_SHAPE = "presentation-lut-shape"  # not that of the photometric interpretation
    VIEW = "view"  # one attribute names a frontal view, another one a lateral view


@dataclass(frozen=True, slots=True)
class Scan:
    """One decoded scan.

    Attributes:
        pixels: (H, W), gray, any real dtype; H and W are smaller than stored after scaled decoding.
        black: pixel value of black.
        white: pixel value of white; lower than `black` if the gray levels are inverted.
        format: file format; None of an array.
        width_px: width of the upright scan at full size.
        height_px: height of the upright scan at full size.
        acquisition: of a DICOM instance, else None.
        rule: how black and white were determined; None of an array.
        contradictions: of the attributes of a DICOM instance.
        scale: 1, or 2, 4 or 8 after scaled decoding: each pixel covers `scale` x `scale` stored pixels, the last of a
            row or column fewer if `scale` does not divide the full size.
        colors: a sample of the colors, if requested; None if the file stores gray.
    """

    pixels: Pixels
    black: float
    white: float
    format: Format | None
    width_px: int
    height_px: int
    scale: int = 1
    colors: Colors | None = None
    rule: BrightnessRule | None = None
    acquisition: Acquisition | None = None
    contradictions: frozenset[Contradiction] = frozenset()


def find_scale(width_px: int, height_px: int, at_least_px: int) -> int:
    """Return the scale, 1, 2, 4 or 8, of the smallest decode of a JPEG whose shorter side keeps `at_least_px`."""
    share = at_least_px / min(width_px, height_px)
    room = min(side // max(1, round(side * share)) for side in (width_px, height_px))
    return max(scale for scale in (1, 2, 4, 8) if scale == 1 or scale <= room)


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
