"""Pictures: a scan's pixels for people, in the gray levels that networks see, with a window of their choice."""

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nightread.scan.acquisition import RADIOGRAPHS, Accepted
from nightread.scan.decode import read_scan
from nightread.scan.scan import Scan

#: Gray levels that are kept, as shares of the range from black to white: a window may reach beyond both.
_LOWEST, _HIGHEST = -1.0, 2.0
_STEPS: Final = 65_535


@dataclass(frozen=True, slots=True)
class Window:
    """The gray levels that are shown, as shares of the scan's own range from black (0) to white (1).

    Attributes:
        center: gray level in the middle; 0.5 is that of the scan.
        width: distance from the darkest to the brightest gray level; 1 is that of the scan.
        invert: whether bright is shown dark.
    """

    center: float = 0.5
    width: float = 1.0
    invert: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded scan, scaled down for display.

    Attributes:
        levels: (H, W) uint16; 0 and 65,535 are gray levels one range below black and one range above white, so that 16
            bits of a scan are not flattened to 8 before the window is chosen.
        width_px: width of the upright scan at full size.
        height_px: height of the upright scan at full size.
    """

    levels: npt.NDArray[np.uint16]
    width_px: int
    height_px: int

    def show(self, window: Window) -> npt.NDArray[np.uint8]:
        """Return (H, W) gray levels from 0, black, to 255, white, in a window."""
        level = np.linspace(_LOWEST, _HIGHEST, _STEPS + 1)
        share = np.clip((level - window.center) / window.width + 0.5, 0.0, 1.0)
        table = np.rint((1.0 - share if window.invert else share) * 255).astype(np.uint8)
        return table[self.levels]


def draw_picture(data: bytes, *, side_px: int, max_pixels: int, accepted: Accepted = RADIOGRAPHS) -> Picture:
    """Decode a file and scale it down.

    Args:
        data: the whole file.
        side_px: longest side of the picture; a smaller scan keeps its size.
        max_pixels: see `nightread.scan.decode.read_scan`.
        accepted: see there.

    Raises:
        ScanError: as `read_scan` does.
    """
    scan = read_scan(data, max_pixels=max_pixels, at_least_px=side_px, accepted=accepted)
    shrink = min(1.0, side_px / max(scan.width_px, scan.height_px))
    size = max(1, round(scan.width_px * shrink)), max(1, round(scan.height_px * shrink))
    levels = Image.fromarray(_to_levels(scan))
    if levels.size != size:
        box = (0.0, 0.0, scan.width_px / scan.scale, scan.height_px / scan.scale)
        levels = levels.resize(size, Image.Resampling.BILINEAR, box=box)
    steps = np.clip(np.asarray(levels, np.float32), 0, _STEPS)
    return Picture(np.rint(steps).astype(np.uint16), scan.width_px, scan.height_px)


def encode_png(gray: npt.NDArray[np.uint8]) -> bytes:
    """Return (H, W) gray or (H, W, 4) colors with opacity as PNG, without any metadata."""
    file = BytesIO()
    Image.fromarray(gray).save(file, "PNG", compress_level=1)
    return file.getvalue()


def encode_webp(gray: npt.NDArray[np.uint8]) -> bytes:
    """Return (H, W) gray as WebP, without any metadata; small, and not exact."""
    file = BytesIO()
    Image.fromarray(gray).convert("RGB").save(file, "WEBP", quality=75, method=2)
    return file.getvalue()


def _to_levels(scan: Scan) -> npt.NDArray[np.float32]:
    """Return (H, W) float32 steps of `Picture.levels`, not rounded, at the size that was decoded."""
    exact = np.float32 if scan.pixels.dtype.itemsize <= 2 else np.float64
    levels = np.subtract(scan.pixels, scan.black, dtype=exact)
    levels *= 1.0 / ((scan.white - scan.black) or 1.0)
    np.clip(levels, _LOWEST, _HIGHEST, out=levels)
    levels -= _LOWEST
    levels *= _STEPS / (_HIGHEST - _LOWEST)
    return levels.astype(np.float32, copy=False)
