"""Synthetic chest X-rays, and a demo folder of them for users without data.

The chests are drawn from ellipses, ribs and noise. They show no real patient, and their scores mean nothing.
"""

import hashlib
import io
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

Gray = npt.NDArray[Any]  # floating point

_WARDS: Final = ("ward-1", "ward-2")
_SCANS_PER_WARD: Final = 12
#: Every third drawn chest has a shadow in one lung.
_OPACITY_EVERY: Final = 3
#: (height, width) at which chests are drawn before they are resized.
_CANVAS_PX: Final = (360, 432)
#: (height, width) of the demo's scans.
_DEMO_PX: Final = (640, 768)
_DICOM_WHITE: Final = 4095  # 12 bits, like most detectors
#: UID root of pydicom, for generated identifiers.
_UID_ROOT: Final = "1.2.826.0.1.3680043.8.498."


def draw_chest(
    seed: int, height_px: int = 848, width_px: int = 1024, *, has_opacity: bool = False
) -> npt.NDArray[np.uint8]:
    """Draw one frontal chest: bones and heart bright, lungs dark.

    Args:
        seed: random seed; equal seeds draw equal chests at any size, apart from the grain.
        height_px: height.
        width_px: width.
        has_opacity: draw a bright, blurred shadow in one lung, as pneumonia may look.

    Returns:
        (H, W) uint8.
    """
    random = np.random.default_rng([seed, 1])
    height, width = _CANVAS_PX
    y, x = np.meshgrid(
        np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32), indexing="ij"
    )
    x = x / random.uniform(0.92, 1.02) + random.uniform(-0.04, 0.04)
    y = y / random.uniform(0.96, 1.05) + random.uniform(-0.05, 0.05)
    body, lungs = _draw_body(x, y), _draw_lungs(x, y, random)
    gray = 0.03 + 0.50 * body - 0.34 * lungs
    gray += 0.10 * body * _draw_ribs(x, y, random) * (0.5 + 0.5 * lungs)
    gray += 0.11 * body * _draw_collarbones(x, y) + 0.20 * body * _draw_spine(x, y)
    gray += 0.30 * _draw_heart(x, y, random) * (0.25 + 0.75 * lungs)
    gray += 0.10 * np.minimum(_draw_vessels(x, y, random), 1.4) * lungs
    gray += 0.17 * _soft_ellipse(x, y, (-0.02, 1.20), (0.88, 0.60), 0.08) * body * (1 - lungs)  # below the diaphragm
    if has_opacity:
        gray += _draw_opacity(x, y, random) * (0.2 + 0.8 * lungs)
    gray *= 1.0 - 0.08 * (x**2 + y**2)
    drawn = np.asarray(Image.fromarray(gray).resize((width_px, height_px), Image.Resampling.BICUBIC))
    grain = np.random.default_rng([seed, 2]).normal(0.0, 0.012, drawn.shape)
    levels: npt.NDArray[np.uint8] = (np.clip(drawn + grain, 0.0, 1.0) * 255.0).round().astype(np.uint8)
    return levels


def write_demo_night(folder: Path, *, seed: int = 0) -> None:
    """Write two wards of drawn scans as JPEG, 16-bit PNG and DICOM, and three files with common faults.

    Args:
        folder: created if missing; files of the same names are overwritten.
        seed: random seed; equal seeds write equal bytes.
    """
    number = 0
    for ward in _WARDS:
        (folder / ward).mkdir(parents=True, exist_ok=True)
        for _ in range(_SCANS_PER_WARD):
            stem = folder / ward / f"demo-{number:03d}"
            chest = draw_chest(seed * 1000 + number, *_DEMO_PX, has_opacity=number % _OPACITY_EVERY == 0)
            if number % 4 == 3:
                stem.with_suffix(".dcm").write_bytes(encode_dicom(chest, seed=seed, number=number))
            elif number % 4 == 2:
                stem.with_suffix(".png").write_bytes(_encode_png16(chest))
            else:
                stem.with_suffix(".jpg").write_bytes(_encode_jpeg(chest))
            number += 1
    first, second = (folder / ward for ward in _WARDS)
    whole = (first / "demo-000.jpg").read_bytes()
    (second / "copy-of-demo-000.jpg").write_bytes(whole)
    (second / "cut-short.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (second / "no-image.jpg").write_text("This file is called .jpg and holds no image.\n", encoding="utf-8")


def encode_dicom(pixels: npt.NDArray[np.uint8], *, seed: int, number: int) -> bytes:
    """Encode pixels, (H, W) uint8, as a 12-bit DICOM computed radiograph with generated identifiers."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = _make_uid(seed, number, "instance")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stored = (pixels.astype(np.uint32) * _DICOM_WHITE // 255).astype("<u2")
    fields: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": _make_uid(seed, number, "study"),
        "SeriesInstanceUID": _make_uid(seed, number, "series"),
        "PatientName": "SYNTHETIC^DEMO",
        "PatientID": f"DEMO-{number:03d}",
        "Modality": "CR",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": "2048",
        "WindowWidth": "4096",
        "PixelData": stored.tobytes(),
    }
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _make_uid(seed: int, number: int, level: str) -> UID:
    digest = hashlib.sha256(f"{seed}/{number}/{level}".encode()).hexdigest()
    return UID(_UID_ROOT + str(int(digest[:24], 16)))


def _encode_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _encode_png16(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16) * 257).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _step(distance: Gray, softness: float) -> Gray:
    """Return a soft step: 1 where `distance` is well below 0, 0 where it is well above."""
    inside: Gray = 1.0 / (1.0 + np.exp(np.clip(distance / softness, -60, 60)))
    return inside


def _soft_ellipse(
    x: Gray, y: Gray, center: tuple[float, float], radii: tuple[float, float], softness: float, tilt: float = 0.0
) -> Gray:
    u, v = x - center[0], y - center[1]
    u, v = u * math.cos(tilt) + v * math.sin(tilt), v * math.cos(tilt) - u * math.sin(tilt)
    return _step(np.hypot(u / radii[0], v / radii[1]) - 1.0, softness)


def _draw_body(x: Gray, y: Gray) -> Gray:
    side = np.abs(x)
    trunk = _step(side - (0.90 - 0.03 * y), 0.015) * _step(-0.35 - y, 0.12)
    shoulders = _step(-0.90 - y + 0.42 * np.clip(side - 0.22, 0, 1) ** 1.3, 0.03) * _step(y - 0.2, 0.12)
    neck = _step(side - 0.22 - 0.16 * np.clip(y + 1.0, 0, 1) ** 2, 0.02) * _step(y + 0.4, 0.05)
    body: Gray = np.maximum(np.maximum(trunk, 0.85 * shoulders), 0.88 * neck)
    return body


def _draw_lungs(x: Gray, y: Gray, random: np.random.Generator) -> Gray:
    size = random.uniform(0.96, 1.06)
    lungs = np.zeros_like(x)
    for side in (-1.0, 1.0):
        lobe = _soft_ellipse(x, y, (side * 0.42, 0.09), (0.35 * size, 0.78 * size), 0.03, tilt=side * -0.14)
        dome = 0.60 - (0.06 if side < 0 else 0.0) + 1.3 * (x - side * 0.36) ** 2  # the diaphragm; higher on the right
        mediastinum = _step(0.14 + 0.05 * np.sin(y * 3.0) - side * x, 0.018)
        lungs = np.maximum(lungs, lobe * _step(y - dome, 0.014) * mediastinum)
    return lungs


def _draw_ribs(x: Gray, y: Gray, random: np.random.Generator) -> Gray:
    """Draw ten pairs of ribs: the rear parts from the spine outwards and down, the front parts fainter."""
    ribs = np.zeros_like(x)
    shift, gap = random.uniform(-0.03, 0.03), random.uniform(0.155, 0.168)
    side = np.abs(x)
    behind = _step(side - 0.80, 0.012) * _step(0.07 - side, 0.02)
    before = _step(0.34 - side, 0.06) * _step(side - 0.80, 0.012)
    rise = 0.13 * np.sin(np.pi * np.clip(side / 0.9, 0, 1))
    for index in range(10):
        level = -0.80 + shift + gap * index
        distance = y - (level + (0.50 + 0.03 * index) * np.clip(side - 0.1, 0, 1) ** 2 - rise)
        ribs += (0.75 * _bump(distance, 0.032) + 0.45 * _bump(np.abs(distance) - 0.036, 0.009)) * behind
        ribs += 0.40 * _bump(y - (level + 0.10 + 0.55 * (0.80 - side)), 0.030) * before
    wall = _bump(np.hypot(x / 0.80, (y - 0.15) / 1.05) - 1.0, 0.018) * _step(-0.55 - y, 0.1)
    return ribs + 1.1 * wall * (0.6 + 0.4 * np.cos(y * 2 * np.pi / gap))


def _draw_collarbones(x: Gray, y: Gray) -> Gray:
    side = np.abs(x)
    distance = y - (-0.56 - 0.26 * (side - 0.1) + 0.03 * np.sin(side * 8.0))
    bone = _bump(distance, 0.034) + 0.6 * _bump(np.abs(distance) - 0.038, 0.009)
    return bone * _step(side - 0.76, 0.02) * _step(0.10 - side, 0.015)


def _draw_spine(x: Gray, y: Gray) -> Gray:
    column = _step(np.abs(x) - 0.085 - 0.012 * np.cos(y * 2 * np.pi / 0.14), 0.012)
    return column * (0.84 + 0.16 * np.cos(y * 2 * np.pi / 0.14)) * (0.8 + 0.2 * y)


def _draw_heart(x: Gray, y: Gray, random: np.random.Generator) -> Gray:
    width = random.uniform(0.34, 0.41)
    heart = _soft_ellipse(x, y, (0.13, 0.33), (width, 0.42), 0.035, tilt=0.5)
    right_atrium = _soft_ellipse(x, y, (-0.08, 0.36), (0.17, 0.27), 0.05)
    aorta = _soft_ellipse(x, y, (0.05, -0.22), (0.17, 0.30), 0.06)
    return np.maximum(np.maximum(heart, 0.9 * right_atrium), 0.75 * aorta)


def _draw_vessels(x: Gray, y: Gray, random: np.random.Generator) -> Gray:
    """Draw vessels from each hilum outwards, thinner and fainter with distance."""
    vessels = np.zeros_like(x)
    for side in (-1.0, 1.0):
        for angle in random.uniform(-1.4, 1.4, 12).tolist():
            bend, length = random.uniform(-0.9, 0.9), random.uniform(0.25, 0.6)
            u, v = side * x - 0.15 - random.uniform(0, 0.06), y - 0.02 - random.uniform(-0.12, 0.12)
            along = u * math.cos(angle) + v * math.sin(angle)
            across = v * math.cos(angle) - u * math.sin(angle) - bend * along**2
            fade = np.clip(1.0 - along / length, 0.0, 1.0) * _step(0.01 - along, 0.02)
            vessels += 0.7 * fade * _bump(across, 0.006 + 0.016 * fade)
    return vessels + 0.9 * _soft_ellipse(np.abs(x), y, (0.20, 0.02), (0.09, 0.17), 0.4)


def _draw_opacity(x: Gray, y: Gray, random: np.random.Generator) -> Gray:
    side = float(random.choice([-1.0, 1.0]))
    center = side * random.uniform(0.36, 0.50), random.uniform(-0.05, 0.38)
    radii = random.uniform(0.15, 0.23), random.uniform(0.15, 0.27)
    shadow = _soft_ellipse(x, y, center, radii, 0.26)
    texture = np.zeros_like(x)
    for turn in random.uniform(0, np.pi, 6).tolist():
        texture += np.sin(random.uniform(8, 26) * (x * math.cos(turn) + y * math.sin(turn)) + random.uniform(0, 6))
    return 0.30 * shadow * (1.0 + 0.10 * texture)


def _bump(distance: Gray, width: Gray | float) -> Gray:
    height: Gray = np.exp(-((distance / width) ** 2))
    return height
