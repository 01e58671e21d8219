"""From a scan's pixels to a network's input: the one function that trainer and worker share.

Whatever changes a prepared tensor, here or in `nightread.scan.decode`, needs a new `PREPROCESSING_VERSION`: stored
predictions are keyed on it, and a bundle names the version that it was trained with.
"""

from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from nightread.scan.decode import read_scan
from nightread.scan.scan import Scan

PREPROCESSING_VERSION = "1"

#: Scaled decoding keeps this many times the network's input, so that the resize below still averages over real pixels.
_DECODE_MARGIN = 2

Tensor = npt.NDArray[np.float32]


#: Of all scans of a batch.
_PIXELS_AT_ONCE: Final = 256 * 96 * 96


class InputSpec(BaseModel):
    """What a network takes: (height_px, width_px, channels), float32 within `value_range`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height_px: Annotated[int, Field(ge=8, le=4096)]
    width_px: Annotated[int, Field(ge=8, le=4096)]
    channels: Literal[1, 3]
    value_range: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if not self.value_range[0] < self.value_range[1]:
            msg = f"value_range is {self.value_range}; the first value must be below the second"
            raise ValueError(msg)
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one prepared scan."""
        return self.height_px, self.width_px, self.channels

    @property
    def scored_at_once(self) -> int:
        """How many scans are scored in one batch where nobody chose: up to 256, fewer of larger ones.

        A network's memory grows with their pixels: 256 scans of 192 x 192 take Keras more than 16 GiB.
        """
        return max(1, min(256, _PIXELS_AT_ONCE // (self.height_px * self.width_px)))


def prepare(scan: Scan, spec: InputSpec) -> Tensor:
    """Turn a scan into one network input.

    Gray levels go linearly from black..white to `spec.value_range` (values beyond are clipped), then the picture is
    stretched to the input's size with an antialiased triangle filter, as both articles stretch theirs, and the gray
    channel is repeated where the network wants three.

    Returns:
        (H, W, C) float32 within `spec.value_range`.
    """
    exact = np.float32 if scan.pixels.dtype.itemsize <= 2 else np.float64  # 24 bits hold a difference of 16-bit values
    gray = np.subtract(scan.pixels, scan.black, dtype=exact)
    gray *= 1.0 / ((scan.white - scan.black) or 1.0)
    gray = np.clip(gray, 0.0, 1.0, out=gray).astype(np.float32, copy=False)
    box = None if scan.scale == 1 else (0.0, 0.0, scan.width_px / scan.scale, scan.height_px / scan.scale)
    resized = Image.fromarray(gray).resize((spec.width_px, spec.height_px), Image.Resampling.BILINEAR, box=box)
    low, high = spec.value_range
    prepared = np.asarray(resized, dtype=np.float32) * np.float32(high - low) + np.float32(low)
    np.clip(prepared, low, high, out=prepared)  # the filter's rounding may leave the range by its last bit
    return np.repeat(prepared[:, :, np.newaxis], spec.channels, axis=2)


def decode_size_px(spec: InputSpec) -> int:
    """Return the shorter side that a scan is decoded to at least, where its format allows for less than all of it."""
    return _DECODE_MARGIN * max(spec.height_px, spec.width_px)


def read_and_prepare(
    data: bytes, spec: InputSpec, *, max_pixels: int, with_colors: bool = False
) -> tuple[Tensor, Scan]:
    """Decode a file no further than `spec` needs, and prepare it.

    Args:
        data: the whole file.
        spec: the network's input.
        max_pixels: see `read_scan`.
        with_colors: see `read_scan`.

    Returns:
        The prepared (H, W, C) float32 tensor, and the scan it came from.

    Raises:
        ScanError: as `read_scan` does.
    """
    scan = read_scan(data, max_pixels=max_pixels, at_least_px=decode_size_px(spec), with_colors=with_colors)
    return prepare(scan, spec), scan
