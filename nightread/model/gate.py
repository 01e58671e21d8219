"""The input gate: a scan that is no frontal chest X-ray is rejected with a reason, and not given a confident score.

Cheap rules come first, which know no model: the shape of the picture, its colors, and how much of it is one flat gray.
What passes them is scored, and how far its features are from those of the training scans decides. A gate belongs to a
model: a card without one lets everything pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nightread.model.card import Gate
from nightread.reasons import Reason
from nightread.scan.preprocessing import InputSpec, Tensor
from nightread.scan.scan import Colors, Pixels, Scan

#: What is stored for a scan that the gate lets pass; else the code of its reason.
PASSED: Final = "passed"

#: Chroma (of 255) beyond the tint of a whole picture; below it is the noise of a JPEG.
_COLORED: Final = 12.0
#: Share of the picture that may be colored: letters and arrows that somebody drew into a scan are.
_MOST_COLORED: Final = 0.10
#: Mean chroma of a picture; films and lamps that tint a whole scan stay far below it.
_STRONGEST_TINT: Final = 30.0

#: Of the 256 grays between black and white, those that are no background: collimated scans are half black.
_BLACKS: Final = 3
#: Share of one gray other than black, at most 0.19 among 6,033 scans, and what makes a page where the rest is bare too.
_MOST_OF_ONE_GRAY: Final = 0.35
_LEAST_TEXTURE: Final = 0.48
#: Share, of what is not black, where a pixel is exactly like its neighbour; at most 0.71 among 6,033 scans.
_MOST_FLAT: Final = 0.88
#: Pixels that are looked at, in whole rows of which there are some.
_SAMPLE: Final = 25_000
_LEAST_ROWS: Final = 16

#: A variant of a scan tells what is wrong with it where it lies at most this share of the scan's own distance away.
_NEARER: Final = 0.85

#: The name of the inverted variant; the others tell how the scan was turned.
INVERTED: Final = "inverted"

_GO_ON: Final = "; --no-gate scores it all the same"


@dataclass(frozen=True, slots=True)
class Finding:
    """Why the gate rejects a scan."""

    reason: Reason
    text: str


def check_pixels(scan: Scan, gate: Gate) -> Finding | None:
    """Apply the rules that need no model; None where the scan passes them.

    Args:
        scan: read with its colors.
        gate: of the model's card.
    """
    ratio = max(scan.width_px, scan.height_px) / min(scan.width_px, scan.height_px)
    if ratio > gate.max_aspect_ratio:
        return Finding(
            Reason.ASPECT_RATIO,
            f"the longer side is {ratio:.1f} times the shorter; a chest X-ray has at most {gate.max_aspect_ratio:g}"
            + _GO_ON,
        )
    return _check_flatness(scan) or _check_colors(scan.colors)  # a screenshot may be colored, and is one all the same


def _check_colors(colors: Colors | None) -> Finding | None:
    """Tell colors from the tint of a film or of paper, which follows the gray level."""
    if colors is None or not (colors[:, :, 1:] != 128).any():
        return None
    luma = colors[:, :, 0].reshape(-1).astype(np.float64)
    chroma = colors[:, :, 1:].reshape(-1, 2).astype(np.float64) - 128.0
    lines = np.stack([np.ones_like(luma), luma], axis=1)
    tint, *_ = np.linalg.lstsq(lines, chroma, rcond=None)
    beyond = np.hypot(*(chroma - lines @ tint).T)
    share = float((beyond > _COLORED).mean())
    strength = float(np.hypot(*chroma.T).mean())
    if share <= _MOST_COLORED and strength <= _STRONGEST_TINT:
        return None
    return Finding(
        Reason.COLOR_PHOTOGRAPH,
        f"{share:.0%} of the picture is in color, with a mean chroma of {strength:.0f}; a radiograph is gray, and "
        f"marks in it may cover {_MOST_COLORED:.0%}" + _GO_ON,
    )


def _check_flatness(scan: Scan) -> Finding | None:
    """Find pages, screenshots and charts: one flat gray, and little but sharp edges besides."""
    height_px = len(scan.pixels)
    rows = scan.pixels[:: max(1, min(scan.pixels.size // _SAMPLE, height_px // _LEAST_ROWS))]
    shades = _to_shades(rows, scan)
    counts = np.bincount(shades.reshape(-1), minlength=256)
    is_lit = shades[:, 1:] >= _BLACKS
    neighbours = is_lit.size
    lit = np.count_nonzero(is_lit) / neighbours
    flat = np.count_nonzero((rows[:, 1:] == rows[:, :-1]) & is_lit) / neighbours
    commonest = float(counts[_BLACKS:].max()) / shades.size
    if (commonest <= _MOST_OF_ONE_GRAY or lit - flat >= _LEAST_TEXTURE) and flat <= _MOST_FLAT * lit:
        return None
    return Finding(
        Reason.DOCUMENT,
        f"{commonest:.0%} of the picture is one gray and {flat:.0%} has no texture, as in a document, a screenshot or "
        f"a chart; in a radiograph at most {_MOST_OF_ONE_GRAY:.0%} and {_MOST_FLAT:.0%}" + _GO_ON,
    )


def _to_shades(rows: Pixels, scan: Scan) -> npt.NDArray[np.uint8]:
    """Return gray levels as 0 (black) to 255 (white), whatever depth they have."""
    if rows.dtype == np.uint8 and (scan.black, scan.white) == (0.0, 255.0):
        return rows
    levels = (rows - np.float32(scan.black)) * np.float32(255.0 / (scan.white - scan.black))
    shades: npt.NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)
    return shades


def turn_and_invert(tensor: Tensor, spec: InputSpec) -> dict[str, Tensor]:
    """Return a scan inverted and turned, to tell why it is far from the training scans.

    Args:
        tensor: (H, W, C) float32, prepared.
        spec: what it was prepared for.

    Returns:
        (H, W, C) float32 by what was done to it.
    """
    low, high = spec.value_range
    turned = {f"turned by {90 * turns} degrees": _turn(tensor, turns) for turns in (1, 2, 3)}
    return {INVERTED: (np.float32(low + high) - tensor).astype(np.float32), **turned}


def _turn(tensor: Tensor, turns: int) -> Tensor:
    """Turn a scan by quarters, clockwise, and stretch it to its input again."""
    height_px, width_px, channels = tensor.shape
    turned = np.rot90(tensor[:, :, 0], -turns)
    if turned.shape != (height_px, width_px):
        image = Image.fromarray(np.ascontiguousarray(turned))
        turned = np.asarray(image.resize((width_px, height_px), Image.Resampling.BILINEAR))
    return np.repeat(np.ascontiguousarray(turned)[:, :, np.newaxis], channels, axis=2)


def judge_scan(
    tensor: Tensor, distance: float, spec: InputSpec, gate: Gate, measure: Callable[[Tensor], float]
) -> Finding | None:
    """Say whether, and why, a scan is rejected for its distance; one that is doubtful is measured again.

    Args:
        tensor: (H, W, C) float32, prepared.
        distance: of its features from the training scans'; may be no number.
        spec: what it was prepared for.
        gate: of the model's card.
        measure: returns the distance of another (H, W, C) scan.
    """
    if distance <= min(gate.doubtful_distance, gate.max_distance):
        return None
    variants = turn_and_invert(tensor, spec)
    return judge_distance(distance, {name: measure(variant) for name, variant in variants.items()}, gate)


def judge_distance(distance: float, variants: Mapping[str, float], gate: Gate) -> Finding | None:
    """Say whether, and why, a doubtful scan is rejected; None where it is only unusual.

    Args:
        distance: of its features from the training scans'.
        variants: the distances of what `turn_and_invert` made of it, by the same names.
        gate: of the model's card.
    """
    found = f"its features lie {distance:.2f} from the training scans'"
    nearest = min(variants, key=variants.__getitem__, default=None)
    if nearest is not None and variants[nearest] <= min(_NEARER * distance, gate.max_distance):
        near = f"{found}, {nearest} it would be {variants[nearest]:.2f}"
        if nearest == INVERTED:
            return Finding(Reason.INVERTED, f"{near}: black and white are swapped; mend that first{_GO_ON}")
        return Finding(Reason.ROTATED, f"{near}: it does not stand upright; turn it first{_GO_ON}")
    if distance <= gate.max_distance:
        return None
    return Finding(
        Reason.NOT_A_CHEST_XRAY,
        f"{found}, and at most {gate.max_distance:.2f} is allowed: no frontal chest X-ray like those{_GO_ON}",
    )


def recall(verdict: str) -> Finding | None:
    """Return what a stored verdict says; None for a scan that passed."""
    if verdict == PASSED:
        return None
    return Finding(Reason(verdict), f"the input gate has rejected the same content before{_GO_ON}")
