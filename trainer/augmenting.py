"""What is done to training scans on their way into a batch: all of it decided by seed, epoch and step."""

import numpy as np
import numpy.typing as npt

from nightread.preparing import InputSpec, Tensor

#: The pediatric article's doubling: a copy of each scan in which darker gray levels, of 255, become black.
_ARTICLE_BLACK = 25 / 255

# The modern set. Half-widths of uniform draws; exposure differs between hospitals, so the gray levels move the most.
_SHIFT = 0.06  # of the side
_ROTATION_RAD = np.deg2rad(7.0)
_ZOOM = 0.10
_CONTRAST = 0.30
_BRIGHTNESS = 0.12  # of the range from black to white
_GAMMA = 0.35  # of its natural logarithm


def blacken(inputs: Tensor, spec: InputSpec) -> Tensor:
    """Return a copy in which gray levels below 25 of 255 are black, as the pediatric article doubles its scans.

    Args:
        inputs: (N, H, W, C) float32 within `spec.value_range`.
        spec: the network's input.
    """
    low, high = spec.value_range
    return np.where(inputs < low + _ARTICLE_BLACK * (high - low), np.float32(low), inputs)


def vary(inputs: Tensor, spec: InputSpec, rng: np.random.Generator) -> Tensor:
    """Return the scans shifted, rotated, zoomed, and changed in contrast, brightness and gamma, each by its own draw.

    They are never mirrored: the heart is on the left. What comes in at the edges is black, as beside the patient.

    Args:
        inputs: (N, H, W, C) float32 within `spec.value_range`; the C channels are copies of one.
        spec: the network's input.
        rng: decides; the same state gives the same scans.
    """
    low, high = spec.value_range
    gray = (np.ascontiguousarray(inputs[..., :1]) - np.float32(low)) / np.float32(high - low)
    gray = _move(gray, rng)

    def draw(half_width: float) -> npt.NDArray[np.float32]:
        return rng.uniform(-half_width, half_width, (len(gray), 1, 1, 1)).astype(np.float32)

    gray = np.clip(gray, 0.0, 1.0) ** np.exp(draw(_GAMMA))
    means = gray.mean(axis=(1, 2, 3), keepdims=True)
    gray = (gray - means) * (1 + draw(_CONTRAST)) + means + draw(_BRIGHTNESS)
    varied = np.clip(gray, 0.0, 1.0) * np.float32(high - low) + np.float32(low)
    return np.repeat(varied, inputs.shape[-1], axis=-1)


def _move(gray: Tensor, rng: np.random.Generator) -> Tensor:
    """Rotate and zoom about the middle, and shift; TensorFlow does it on all cores, without the interpreter's lock."""
    import tensorflow as tf

    count, height, width, _ = gray.shape
    angle = rng.uniform(-_ROTATION_RAD, _ROTATION_RAD, count)
    scale = 1 / (1 + rng.uniform(-_ZOOM, _ZOOM, count))
    dx, dy = (rng.uniform(-_SHIFT, _SHIFT, (2, count)).T * (width, height)).T
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
