"""Preprocessing: a scan's pixels to a network's input, the same function for trainer and worker.

A change to a prepared tensor, here or in `nightread.scan.decode`, needs a new `PREPROCESSING_VERSION`. Stored
predictions are keyed on the version, and a bundle names the version that it was trained with. Older versions stay
readable, so that older bundles keep their scores.

| version | 8-bit scans | other scans |
|---|---|---|
| 1 | to float, then resized | to float, then resized |
| 2 | resized as 8 bits, then to float | as in version 1 |
| 3 | to float, averaged in blocks, then resized | the same |

The blocks of version 3 have 2, 4 or 8 pixels a side: those that a scaled decode of a JPEG averages. So a JPEG that is
decoded at a smaller scale, one that is decoded whole, and a DICOM or PNG copy of it are prepared alike.
"""

from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from nightread.scan.acquisition import RADIOGRAPHS, Accepted
from nightread.scan.decode import read_scan
from nightread.scan.scan import Scan, find_scale

Version = Literal["1", "2", "3"]

#: Version of new trainings, and all that can be read.
PREPROCESSING_VERSION: Final[Version] = "3"
KNOWN_VERSIONS: Final[frozenset[str]] = frozenset({"1", "2", PREPROCESSING_VERSION})
SHOWN_VERSIONS: Final = ", ".join(sorted(KNOWN_VERSIONS))

#: Shorter side of a scaled decode, as a multiple of the input's larger side: the resize must still average pixels. With
#: 1.5 instead of 2, twice as many of 240 scans get another decision than with a full decode (docs/training-log.md).
_DECODE_MARGIN: Final = 2

Tensor = npt.NDArray[np.float32]


#: Maximum number of pixels in a batch whose size is not set.
_PIXELS_AT_ONCE: Final = 256 * 96 * 96


class InputSpec(BaseModel):
    """Input of a network: (height_px, width_px, channels), float32 within `value_range`, and its preprocessing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height_px: Annotated[int, Field(ge=8, le=4096)]
    width_px: Annotated[int, Field(ge=8, le=4096)]
    channels: Literal[1, 3]
    value_range: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    preprocessing_version: Version = PREPROCESSING_VERSION

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
        """Default batch size in scans: 256, and fewer for larger inputs.

        A network's memory grows with their pixels: 256 scans of 192 x 192 take Keras more than 16 GiB.
        """
        return max(1, min(256, _PIXELS_AT_ONCE // (self.height_px * self.width_px)))


def complete_input(card: Any) -> Any:
    """Return a card's fields with its preprocessing version put into its input, which does not store it a second time.

    Args:
        card: fields as read, not yet checked.
    """
    if not (isinstance(card, dict) and isinstance(card.get("input"), dict)):
        return card
    version = card.get("preprocessing_version")
    if not isinstance(version, str) or version not in KNOWN_VERSIONS:  # refused later, in better words
        return card
    return {**card, "input": {**card["input"], "preprocessing_version": version}}


def prepare(scan: Scan, spec: InputSpec) -> Tensor:
    """Turn a scan into one network input.

    Gray levels are mapped linearly from black..white to `spec.value_range`, and clipped. A large picture is averaged in
    blocks (version 3), then stretched to the input's size with an antialiased triangle filter. The gray channel is
    repeated where the network takes three.

    Returns:
        (H, W, C) float32 within `spec.value_range`.
    """
    version, scale = spec.preprocessing_version, scan.scale
    is_8_bit = version != "1" and _is_full_range(scan)
    image = Image.fromarray(scan.pixels if is_8_bit else _to_unit(scan))
    if version == "3":
        image = image.convert("F") if is_8_bit else image  # not copied where it is of floats already
        wanted = find_scale(scan.width_px, scan.height_px, decode_size_px(spec))
        if wanted > scale:
            image, scale = image.reduce(wanted // scale), wanted
    # The last block of a row or column may cover fewer pixels than the others.
    box = (0.0, 0.0, scan.width_px / scale, scan.height_px / scale)
    gray = np.asarray(image.resize((spec.width_px, spec.height_px), Image.Resampling.BILINEAR, box=box), np.float32)
    if is_8_bit:
        gray = gray / np.float32(255)
        gray = np.float32(1) - gray if scan.black else gray
    low, high = spec.value_range
    prepared = gray * np.float32(high - low) + np.float32(low)
    np.clip(prepared, low, high, out=prepared)  # rounding may leave the range by the last bit
    gray = prepared[:, :, np.newaxis]
    return gray if spec.channels == 1 else np.repeat(gray, spec.channels, axis=2)


def _is_full_range(scan: Scan) -> bool:
    """Return whether a scan has 8 bits, of which black and white are the ends."""
    return scan.pixels.dtype == np.uint8 and {scan.black, scan.white} == {0.0, 255.0}


def _to_unit(scan: Scan) -> Tensor:
    """Return (H, W) gray levels in [0, 1] from black to white, at the scan's own size."""
    exact = np.float32 if scan.pixels.dtype.itemsize <= 2 else np.float64  # 24 bits hold a difference of 16-bit values
    gray = np.subtract(scan.pixels, scan.black, dtype=exact)
    gray *= 1.0 / ((scan.white - scan.black) or 1.0)
    return np.clip(gray, 0.0, 1.0, out=gray).astype(np.float32, copy=False)


def decode_size_px(spec: InputSpec) -> int:
    """Return the shorter side that a scaled decode must keep, where the format allows one."""
    return _DECODE_MARGIN * max(spec.height_px, spec.width_px)


def read_and_prepare(
    data: bytes,
    spec: InputSpec,
    *,
    max_pixels: int,
    with_colors: bool = False,
    accepted: Accepted = RADIOGRAPHS,
) -> tuple[Tensor, Scan]:
    """Decode a file no further than `spec` needs, and prepare it.

    Args:
        data: the whole file.
        spec: the network's input.
        max_pixels: see `read_scan`.
        with_colors: see `read_scan`.
        accepted: see `read_scan`.

    Returns:
        The prepared (H, W, C) float32 tensor, and the scan it came from.

    Raises:
        ScanError: as `read_scan` does.
    """
    scan = read_for(data, spec, max_pixels=max_pixels, with_colors=with_colors, accepted=accepted)
    return prepare(scan, spec), scan


def read_for(
    data: bytes,
    spec: InputSpec,
    *,
    max_pixels: int,
    with_colors: bool = False,
    accepted: Accepted = RADIOGRAPHS,
) -> Scan:
    """Decode a file no further than `spec` needs; for the arguments and errors see `read_and_prepare`."""
    at_least_px = decode_size_px(spec)
    return read_scan(data, max_pixels=max_pixels, at_least_px=at_least_px, with_colors=with_colors, accepted=accepted)
