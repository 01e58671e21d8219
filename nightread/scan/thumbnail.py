"""Thumbnails: small pictures of scans for people, from the decoding and the gray levels that networks see."""

import numpy as np
import numpy.typing as npt

from nightread.scan.acquisition import RADIOGRAPHS, Accepted
from nightread.scan.decode import read_scan
from nightread.scan.preprocessing import InputSpec, prepare

#: The network's smallest input; a narrower thumbnail shows nothing.
_SHORTEST_PX = 8


def make_thumbnail(
    data: bytes, *, side_px: int, max_pixels: int, accepted: Accepted = RADIOGRAPHS
) -> npt.NDArray[np.uint8]:
    """Decode a file and scale it down.

    Args:
        data: the whole file.
        side_px: longer side of the thumbnail; a smaller scan is enlarged.
        max_pixels: see `nightread.scan.decode.read_scan`.
        accepted: see there.

    Returns:
        (H, W) gray levels from 0, black, to 255, white; H : W is that of the scan.

    Raises:
        ScanError: as `read_scan` does.
    """
    scan = read_scan(data, max_pixels=max_pixels, at_least_px=side_px, accepted=accepted)
    longer = max(scan.width_px, scan.height_px)
    width, height = (max(_SHORTEST_PX, round(side_px * side / longer)) for side in (scan.width_px, scan.height_px))
    gray = prepare(scan, InputSpec(height_px=height, width_px=width, channels=1))[:, :, 0]
    return np.rint(gray * 255).astype(np.uint8)
