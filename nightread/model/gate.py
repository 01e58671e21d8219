"""The input gate: rejects pictures that are not frontal chest X-rays, with a reason, instead of scoring them.

Cheap rules without a model come first: aspect ratio, colors, and large areas of one flat gray. Scans that pass them are
scored, and the distance of their features from those of the training scans decides. A scan of a doubtful distance gets
a second look: it is measured inverted and turned, too, unless the graph's output `placement` says that it is upright: a
night of unusual chests costs no more than any other. A gate belongs to a model: without a gate in the card everything
passes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nightread.model.card import Gate
from nightread.reasons import Reason
from nightread.scan.preprocessing import InputSpec, Tensor
from nightread.scan.scan import Colors, Pixels, Scan

#: Stored verdict of a scan that passes; otherwise the verdict is the code of its reason.
PASSED: Final = "passed"

#: Chroma (of 255) beyond the tint of the whole picture that counts as color; less is JPEG noise.
_COLORED: Final = 12.0
#: Share of the picture that may be colored, such as annotations drawn into a scan.
_MOST_COLORED: Final = 0.10
#: Maximum mean chroma; tints from films and lamps stay far below it.
_STRONGEST_TINT: Final = 30.0

#: The lowest of the 256 gray levels are background: half of a collimated scan is black.
_BLACKS: Final = 3
#: Share of the commonest gray other than black (at most 0.19 among 6,033 scans) from which a picture with less texture
#: than the next value is a document.
_MOST_OF_ONE_GRAY: Final = 0.35
_LEAST_TEXTURE: Final = 0.48
#: Share of non-black pixels that equal their neighbour (at most 0.71 among 6,033 scans) from which it is a document.
_MOST_FLAT: Final = 0.88
#: Approximate number of sampled pixels, in at least so many whole rows.
_SAMPLE: Final = 25_000
_LEAST_ROWS: Final = 16

#: A variant explains a scan's distance if its own distance is at most this share of it.
_NEARER: Final = 0.85

#: Name of the inverted variant; the other names describe rotations.
INVERTED: Final = "inverted"
_TURNS: Final = {f"turned by {90 * turns} degrees": turns for turns in (1, 2, 3)}
#: The variants of a scan, in the order of a placement's logits after the first, which is that of an upright scan.
VARIANTS: Final = (INVERTED, *_TURNS)

#: A scan looks upright where the logit of upright is more than this above that of every variant: an error of the
#: placement must not let an inverted scan pass.
_PLACEMENT_MARGIN: Final = 1.0

_OVERRIDE: Final = "; --no-gate scores it anyway"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rejection by the gate."""

    reason: Reason
    text: str


def check_pixels(scan: Scan, gate: Gate) -> Finding | None:
    """Apply the rules that need no model; returns None if the scan passes.

    Args:
        scan: a scan that was read with its colors.
        gate: the gate of the model's card.
    """
    ratio = max(scan.width_px, scan.height_px) / min(scan.width_px, scan.height_px)
    if ratio > gate.max_aspect_ratio:
        return Finding(
            Reason.ASPECT_RATIO,
            f"the longer side is {ratio:.1f} times the shorter; allowed are {gate.max_aspect_ratio:g}{_OVERRIDE}",
        )
    return _check_flatness(scan) or _check_colors(scan.colors)  # flatness first: a colored screenshot is a document


def _check_colors(colors: Colors | None) -> Finding | None:
    """Detect colors beyond the tint of film or paper, which depends linearly on the gray level."""
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
        f"{share:.0%} of the picture is colored, mean chroma {strength:.0f}; a radiograph is gray, and colored marks "
        f"may cover {_MOST_COLORED:.0%}{_OVERRIDE}",
    )


def _check_flatness(scan: Scan) -> Finding | None:
    """Detect documents, screenshots and charts: mostly one flat gray with sharp edges."""
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
        f"{commonest:.0%} of the picture is one gray and {flat:.0%} has no texture, as in a document, screenshot or "
        f"chart; allowed are {_MOST_OF_ONE_GRAY:.0%} and {_MOST_FLAT:.0%}{_OVERRIDE}",
    )


def _to_shades(rows: Pixels, scan: Scan) -> npt.NDArray[np.uint8]:
    """Return gray levels of any depth as uint8, 0 (black) to 255 (white)."""
    if rows.dtype == np.uint8 and (scan.black, scan.white) == (0.0, 255.0):
        return rows
    levels = (rows - np.float32(scan.black)) * np.float32(255.0 / (scan.white - scan.black))
    shades: npt.NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)
    return shades


def make_variant(tensor: Tensor, name: str, spec: InputSpec) -> Tensor:
    """Return one of `VARIANTS` of a scan, which may explain its distance.

    Args:
        tensor: (H, W, C) float32, prepared.
        name: of the variant.
        spec: input for which it was prepared.

    Returns:
        (H, W, C) float32.
    """
    if name == INVERTED:
        low, high = spec.value_range
        return (np.float32(low + high) - tensor).astype(np.float32)
    return _turn(tensor, _TURNS[name])


def _turn(tensor: Tensor, turns: int) -> Tensor:
    """Rotate a scan by clockwise quarter turns and resize it to its shape."""
    height_px, width_px, channels = tensor.shape
    turned = np.rot90(tensor[:, :, 0], -turns)
    if turned.shape != (height_px, width_px):
        image = Image.fromarray(np.ascontiguousarray(turned))
        turned = np.asarray(image.resize((width_px, height_px), Image.Resampling.BILINEAR))
    return np.repeat(np.ascontiguousarray(turned)[:, :, np.newaxis], channels, axis=2)


def choose_variants(distance: float, gate: Gate, placement: Sequence[float] | None = None) -> list[str]:
    """Return the names of the variants in which a scan must be measured before it is judged; none for most scans.

    All of them where there are any: the placement of an adult's turned scan often names the wrong quarter.

    Args:
        distance: distance of its features from those of the training scans; may be NaN.
        gate: the gate of the model's card.
        placement: logits of an upright scan and of each of `VARIANTS`; None where the graph does not tell it.
    """
    if distance <= min(gate.doubtful_distance, gate.max_distance):
        return []
    looks_upright = placement is not None and all(placement[0] - logit > _PLACEMENT_MARGIN for logit in placement[1:])
    return [] if looks_upright else list(VARIANTS)


def judge_scans(
    tensors: Sequence[Tensor],
    distances: Sequence[float],
    placements: Sequence[Sequence[float]] | None,
    *,
    spec: InputSpec,
    gate: Gate,
    measure: Callable[[Tensor], Sequence[float]],
) -> list[Finding | None]:
    """Judge scans by their distances; the variants of the doubtful ones are measured together.

    Args:
        tensors: (H, W, C) float32 each, prepared.
        distances: of each; see `choose_variants`.
        placements: of each; see `choose_variants`.
        spec: input for which they were prepared.
        gate: the gate of the model's card.
        measure: returns M distances of (M, H, W, C) scans; it is not called where none is doubtful.

    Returns:
        The rejection of each scan, or None where it passes.
    """
    chosen = [
        choose_variants(distance, gate, None if placements is None else placements[place])
        for place, distance in enumerate(distances)
    ]
    variants = [
        make_variant(tensor, name, spec) for tensor, names in zip(tensors, chosen, strict=True) for name in names
    ]
    measured = iter(measure(np.stack(variants)) if variants else ())
    return [
        judge_distance(distance, {name: next(measured) for name in names}, gate)
        for distance, names in zip(distances, chosen, strict=True)
    ]


def judge_distance(distance: float, variants: Mapping[str, float], gate: Gate) -> Finding | None:
    """Judge a scan by its distance and those of its variants.

    Args:
        distance: distance of its features from those of the training scans; may be NaN.
        variants: distances of the variants that `choose_variants` names, by name.
        gate: the gate of the model's card.

    Returns:
        The rejection, or None if the scan passes.
    """
    found = f"feature distance {distance:.2f}"
    nearest = min(variants, key=variants.__getitem__, default=None)
    if nearest is not None and variants[nearest] <= min(_NEARER * distance, gate.max_distance):
        near = f"{found}, {nearest} {variants[nearest]:.2f}"
        if nearest == INVERTED:
            text = f"{near}: black and white appear swapped; correct the file and send it again{_OVERRIDE}"
            return Finding(Reason.INVERTED, text)
        text = f"{near}: the scan is not upright; rotate it and send it again{_OVERRIDE}"
        return Finding(Reason.ROTATED, text)
    if distance <= gate.max_distance:
        return None
    return Finding(
        Reason.NOT_A_CHEST_XRAY,
        f"{found}; allowed are {gate.max_distance:.2f}: not a frontal chest X-ray like the training scans{_OVERRIDE}",
    )


def restore_finding(verdict: str) -> Finding | None:
    """Return the rejection of a stored verdict; None for a scan that passed."""
    if verdict == PASSED:
        return None
    return Finding(Reason(verdict), f"the input gate rejected this content before{_OVERRIDE}")
