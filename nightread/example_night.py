"""A small night of real scans for users without data, and of files with common faults.

The scans are the parity inputs of the bundle that ships: CC BY 4.0, as small as the network sees them.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nightread.model.bundle import DEFAULT_MODEL, SHIPPED_DIR, find_bundle, load_bundle
from nightread.scan.drawn_chest import encode_dicom

Pixels = npt.NDArray[np.uint8]

_JPEG_QUALITY: Final = 95
_PHOTOGRAPH_PX: Final = (240, 320)


def write_example_night(folder: Path) -> str:
    """Write two wards: real scans as JPEG, PNG and DICOM, and faulty files.

    Args:
        folder: created if missing; files of the same names are overwritten.

    Returns:
        The attribution of the scans, with their licence.
    """
    bundle = load_bundle(find_bundle(DEFAULT_MODEL, SHIPPED_DIR))
    low, high = bundle.card.input.value_range
    inputs = (bundle.parity_inputs[..., 0] - low) / (high - low)
    scans = [np.round(255 * scan).astype(np.uint8) for scan in inputs]
    for name, content in {**_encode_scans(scans), **_make_faults(scans)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return bundle.card.training.attribution.partition(". ")[0]


def _encode_scans(scans: list[Pixels]) -> dict[str, bytes]:
    encoders: tuple[tuple[str, Callable[[Pixels], bytes]], ...] = (
        (".jpg", _encode_jpeg), (".png", _encode_png),
        (".dcm", lambda scan: encode_dicom(scan, seed=0, number=int(scan.sum()))),
    )  # fmt: skip
    named = {}
    for index, scan in enumerate(scans):
        suffix, encode = encoders[index % len(encoders)]
        named[f"ward-1/patient-{index + 1}{suffix}"] = encode(scan)
    return named


def _make_faults(scans: list[Pixels]) -> dict[str, bytes]:
    first, last = scans[0], scans[-1]
    whole = _encode_jpeg(first)
    return {
        "ward-2/copy-of-patient-1.jpg": whole,
        "ward-2/cut-short.jpg": whole[: len(whole) * 2 // 3],
        "ward-2/no-image.jpg": b"This file is called .jpg and holds no image.\n",
        "ward-2/on-its-side.png": _encode_png(np.rot90(last)),
        "ward-2/negative.png": _encode_png(255 - first),
        "ward-2/meadow.jpg": _encode_jpeg(_draw_photograph()),
        "ward-2/all-black.png": _encode_png(np.zeros_like(first)),
    }


def _draw_photograph() -> npt.NDArray[Any]:
    """Return (H, W, 3) uint8: a meadow below a sky."""
    height, width = _PHOTOGRAPH_PX
    y, x = np.mgrid[0:height, 0:width]
    sky = np.stack([90 + y // 3, 150 + y // 4, np.full_like(y, 230)], axis=-1)
    meadow = np.stack([40 + x // 8, 120 + (x * y) % 40, np.full_like(y, 50)], axis=-1)
    return np.where((y < height * 0.55)[..., None], sky, meadow).astype(np.uint8)


def _encode_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _encode_png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
