"""Augmentation of training scans, decided by random seed, epoch and step alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nightread.scan.preprocessing import InputSpec, Tensor
from trainer.fit.hyperparameters import Augment

#: The pediatric article's doubling: a copy of each scan in which darker gray levels, of 255, become black.
_ARTICLE_BLACK = 25 / 255


@dataclass(frozen=True, slots=True)
class Variation:
    """How far scans are changed: half-widths of uniform draws.

    Attributes:
        shift: of the side.
        rotation_rad: about the middle.
        zoom: of the size.
        contrast: of the distance from the mean.
        brightness: of the range from black to white.
        gamma: of its natural logarithm.
        sharpness: of the fine detail, the difference to the scan blurred over 3 x 3 places: -1 leaves none of it, 1
            doubles it.
        noise: the largest standard deviation of what is added to each place, of the range.
    """

    shift: float
    rotation_rad: float
    zoom: float
    contrast: float
    brightness: float
    gamma: float
    sharpness: float = 0.0
    noise: float = 0.0


#: Exposure differs between hospitals, so the gray levels move the most. How sharp a scan is depends on the file that it
#: comes in, above all on how often it was scaled and compressed.
VARIATIONS: Final[Mapping[Augment, Variation]] = {
    Augment.MODERN: Variation(0.06, np.deg2rad(7.0), 0.10, 0.30, 0.12, 0.35),
    Augment.STRONG: Variation(0.10, np.deg2rad(12.0), 0.20, 0.50, 0.20, 0.60, 0.4),
}


@dataclass(frozen=True, slots=True)
class Crop:
    """Random resized crop: half-widths and bounds of uniform draws.

    A scan is stretched to a square, so that a network can see its framing and aspect ratio, and these go with the
    label. A crop of random area and aspect ratio hides both.

    Attributes:
        least_area: smallest share of the scan's area.
        aspect: logarithm of the largest aspect ratio, width to height or height to width.
        gamma: of its natural logarithm.
        contrast: of the distance from the mean.
        brightness: of the range from black to white.
        noise: largest standard deviation of the noise of a scan, of the range from black to white. Without it a
            rounding to 8 bits could change a decision.
    """

    least_area: float = 0.25
    aspect: float = math.log(4 / 3)
    gamma: float = 0.2
    contrast: float = 0.2
    brightness: float = 0.075
    noise: float = 0.02


CROP: Final = Crop()

#: Sides of the scans that are cropped, as a multiple of the input's: the crop of half a side still has real pixels.
SOURCE_SCALE: Final = 2


def crop(
    sources: npt.NDArray[np.uint8],
    spec: InputSpec,
    rng: np.random.Generator,
    variation: Crop = CROP,
) -> Tensor:
    """Cut a random part out of each scan, resize it to the input, mirror every other one and vary its gray levels.

    Args:
        sources: (N, H, W) gray, larger than the input.
        spec: the network's input.
        rng: decides; the same state gives the same scans.
        variation: how far.

    Returns:
        (N, H, W, C) float32 within `spec.value_range`.
    """
    count, height, width = sources.shape
    area = rng.uniform(variation.least_area, 1.0, count)
    aspect = np.exp(rng.uniform(-variation.aspect, variation.aspect, count))
    across, down = np.minimum(np.sqrt(area * aspect), 1.0) * width, np.minimum(np.sqrt(area / aspect), 1.0) * height
    left, top = rng.uniform(0.0, 1.0, (2, count)) * (width - across, height - down)
    is_mirrored = rng.random(count) < 0.5
    cropped = np.empty((count, spec.height_px, spec.width_px), np.float32)
    for place, source in enumerate(sources):
        box = (left[place], top[place], left[place] + across[place], top[place] + down[place])
        image = Image.fromarray(source).convert("F")  # as a scan is prepared: not rounded to 8 bits again
        size = spec.width_px, spec.height_px
        cropped[place] = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box), np.float32)
    cropped /= 255
    cropped[is_mirrored] = cropped[is_mirrored, :, ::-1]

    def draw(half_width: float) -> npt.NDArray[np.float32]:
        return rng.uniform(-half_width, half_width, (count, 1, 1)).astype(np.float32)

    np.clip(cropped, 0.0, 1.0, out=cropped)  # rounding may leave the range by the last bit
    cropped **= np.exp(draw(variation.gamma))
    means = cropped.mean(axis=(1, 2), keepdims=True)
    varied = (cropped - means) * (1 + draw(variation.contrast)) + means + draw(variation.brightness)
    varied += np.abs(draw(variation.noise)) * rng.standard_normal(varied.shape, np.float32)
    low, high = spec.value_range
    inputs = np.clip(varied, 0.0, 1.0) * np.float32(high - low) + np.float32(low)
    return np.repeat(inputs[..., np.newaxis], spec.channels, axis=-1)


def blacken(inputs: Tensor, spec: InputSpec) -> Tensor:
    """Return a copy in which gray levels below 25 of 255 are black, as the pediatric article doubles its scans.

    Args:
        inputs: (N, H, W, C) float32 within `spec.value_range`.
        spec: the network's input.
    """
    low, high = spec.value_range
    return np.where(inputs < low + _ARTICLE_BLACK * (high - low), np.float32(low), inputs)


def vary(inputs: Tensor, spec: InputSpec, rng: np.random.Generator, variation: Variation) -> Tensor:
    """Return the scans shifted, rotated, zoomed, and changed in contrast, brightness and gamma, each by its own draw.

    They are never mirrored: the heart is on the left. What comes in at the edges is black, as beside the patient.

    Args:
        inputs: (N, H, W, C) float32 within `spec.value_range`; the C channels are copies of one.
        spec: the network's input.
        rng: decides; the same state gives the same scans.
        variation: how far.
    """
    low, high = spec.value_range
    gray = (np.ascontiguousarray(inputs[..., :1]) - np.float32(low)) / np.float32(high - low)
    gray = _move(gray, rng, variation)

    def draw(half_width: float) -> npt.NDArray[np.float32]:
        return rng.uniform(-half_width, half_width, (len(gray), 1, 1, 1)).astype(np.float32)

    gray = np.clip(gray, 0.0, 1.0) ** np.exp(draw(variation.gamma))
    means = gray.mean(axis=(1, 2, 3), keepdims=True)
    gray = (gray - means) * (1 + draw(variation.contrast)) + means + draw(variation.brightness)
    if variation.sharpness:
        gray += draw(variation.sharpness) * (gray - _blur(gray))
    if variation.noise:
        grain = rng.standard_normal(gray.shape, dtype=np.float32)
        gray += np.abs(draw(variation.noise)) * grain
    varied = np.clip(gray, 0.0, 1.0) * np.float32(high - low) + np.float32(low)
    return np.repeat(varied, inputs.shape[-1], axis=-1)


def _blur(gray: Tensor) -> Tensor:
    """Blur (N, H, W, 1) with the binomial filter 1 2 1 along both sides; the edges stand for what is beyond them."""
    for axis in (1, 2):
        widened = np.pad(gray, [(1, 1) if side == axis else (0, 0) for side in range(4)], mode="edge")
        before, after = (np.take(widened, range(start, start + gray.shape[axis]), axis=axis) for start in (0, 2))
        gray = ((before + after) / 4 + gray / 2).astype(np.float32)
    return gray


def _move(gray: Tensor, rng: np.random.Generator, variation: Variation) -> Tensor:
    """Rotate and zoom about the middle, and shift; TensorFlow does it on all cores, without the interpreter's lock."""
    import tensorflow as tf

    count, height, width, _ = gray.shape
    angle = rng.uniform(-variation.rotation_rad, variation.rotation_rad, count)
    scale = 1 / (1 + rng.uniform(-variation.zoom, variation.zoom, count))
    dx, dy = (rng.uniform(-variation.shift, variation.shift, (2, count)).T * (width, height)).T
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    # From a place in the result to its place in the scan: (a0 x + a1 y + a2, b0 x + b1 y + b2), row by row.
    transforms = np.stack(
        [
            cos, -sin, middle_x - cos * middle_x + sin * middle_y + dx,
            sin, cos, middle_y - sin * middle_x - cos * middle_y + dy,
            np.zeros(count), np.zeros(count),
        ],
        axis=1,
    ).astype(np.float32)  # fmt: skip
    with tf.device("/CPU:0"):  # the accelerator has the network to do
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=gray,
            transforms=transforms,
            output_shape=[height, width],
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
            fill_value=0.0,
        )
    result: Tensor = moved.numpy()
    return result
