"""Builders of scans, folders and cards, with defaults for all fields."""

import hashlib
import inspect
import io
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from nightread.reasons import Reason
from nightread.scan.drawn_chest import draw_chest
from nightread.scan.preprocessing import PREPROCESSING_VERSION

__all__ = ["draw_chest"]

ROOT = Path(__file__).parents[1]

#: Patient name and id in every DICOM instance built here; must never appear in a log, message or table.
CANARY = "CANARY^PATIENT"

#: The article's small network, which has no input gate.
UNGATED_MODEL = "pneumonia-cnn75@1"

_DRAWN = ROOT / ".pytest_cache" / "drawn" / hashlib.sha256(Path(inspect.getfile(draw_chest)).read_bytes()).hexdigest()

_NATIVE = {ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian}


def small_chest(seed: int = 0, height_px: int = 120, width_px: int = 144):
    """Draw a chest, which takes a tenth of a second, once for all tests and all their processes."""
    file = _DRAWN / f"{seed}-{height_px}x{width_px}.npy"
    try:
        return np.load(file)
    except FileNotFoundError:
        chest = draw_chest(seed, height_px, width_px)
    _DRAWN.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=_DRAWN, delete=False) as draft:
        np.save(draft, chest)
    Path(draft.name).replace(file)
    return chest


def encode_image(pixels=None, kind: str = "PNG", **options: Any) -> bytes:
    """Encode an array or a Pillow image with Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(small_chest() if pixels is None else pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_jpeg(pixels=None, **options: Any) -> bytes:
    return encode_image(pixels, "JPEG", **{"quality": 90, **options})


def encode_png16(pixels=None) -> bytes:
    """Encode (H, W) as 16-bit gray PNG; 8-bit pixels are scaled to 16 bits."""
    pixels = small_chest() if pixels is None else np.asarray(pixels)
    return encode_image(pixels.astype(np.uint16) * 257 if pixels.dtype == np.uint8 else pixels)


def encode_dicom(
    pixels=None,
    *,
    syntax: str = ExplicitVRLittleEndian,
    frame: bytes | None = None,
    preamble: bytes = b"\0" * 128,
    **fields: Any,
) -> bytes:
    """Encode (H, W) or (H, W, 3) as a DICOM instance.

    Args:
        pixels: uint8, uint16 or int16.
        syntax: transfer syntax UID.
        frame: encoded frame for an encapsulated `syntax`.
        preamble: the 128 bytes before DICM.
        fields: data elements by keyword, which override the defaults; None omits an element.
    """
    pixels = small_chest() if pixels is None else np.asarray(pixels)
    bits = pixels.dtype.itemsize * 8
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    meta.TransferSyntaxUID = syntax
    native = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    defaults = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.2",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.3",
        "PatientName": CANARY,
        "PatientID": CANARY,
        "Modality": "CR",
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "PlanarConfiguration": None if pixels.ndim == 2 else 0,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": native + b"\0" * (len(native) % 2) if frame is None else encapsulate([frame]),
    }
    dataset = FileDataset(
        "",
        {},
        file_meta=meta,
        preamble=preamble,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=order == "<",
    )
    for keyword, value in {**defaults, **fields}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OB" if frame is not None or bits == 8 else "OW"
    buffer = io.BytesIO()
    if syntax in _NATIVE or frame is not None:
        dataset.save_as(buffer, enforce_file_format=True)
    else:  # pydicom writes no native pixels in this syntax: write Explicit VR and replace its UID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(buffer, enforce_file_format=True)
        return _replace_syntax(buffer.getvalue(), syntax)
    return buffer.getvalue()


def _replace_syntax(data: bytes, syntax: str) -> bytes:
    """Replace (0002,0010) in the file meta group, and correct the group's length."""
    old = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    new = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    assert data.count(old) == 1
    length = struct.unpack_from("<I", data, 140)[0] + len(new) - len(old)
    return data[:140] + struct.pack("<I", length) + data[144:].replace(old, new)


def make_table(values, *, first: int = 0, bits: int = 16, keyword: str = "VOILUTSequence") -> dict[str, Any]:
    """Return a modality or VOI lookup table as a field for `encode_dicom`."""
    item = Dataset()
    item.LUTDescriptor = [len(values) % 2**16, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.add_new("LUTData", "OW", np.asarray(values, "<u2").tobytes())
    return {keyword: [item]}


def encode_tiff(
    pixels, *, order: str = "<", photometric: int = 1, bits: int | None = None, pages: int = 1, **tags: Any
) -> bytes:
    """Encode an uncompressed gray TIFF by hand, since Pillow writes neither big-endian nor WhiteIsZero."""
    pixels = np.asarray(pixels)
    height, width = pixels.shape
    raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    entries = {
        256: width, 257: height, 258: bits or pixels.dtype.itemsize * 8, 259: 1, 262: photometric, 273: 0, 277: 1,
        278: height, 279: len(raw), 339: 2 if pixels.dtype.kind == "i" else 3 if pixels.dtype.kind == "f" else 1,
    } | {int(tag): value for tag, value in tags.items()}  # fmt: skip
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8))
    size = 2 + 12 * len(entries) + 4
    for page in range(pages):
        start = len(data)
        entries[273] = start + size
        end = start + size + len(raw)
        data += struct.pack(order + "H", len(entries))
        for tag, value in sorted(entries.items()):
            data += struct.pack(order + "HHII", tag, 4, 1, value)
        data += struct.pack(order + "I", end if page + 1 < pages else 0) + raw
    return bytes(data)


def encode_png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def encode_huge_png(width_px: int, height_px: int, *, idat: bytes | None = None) -> bytes:
    """Encode an 8-bit gray PNG that declares any size, with little pixel data."""
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + encode_png_chunk(b"IHDR", header)
        + encode_png_chunk(b"IDAT", zlib.compress(b"\0" * 65_536) if idat is None else idat)
        + encode_png_chunk(b"IEND", b"")
    )


def write_jpeg(path: Path, pixels=None, **options: Any) -> Path:
    return _write(path, encode_jpeg(pixels, **options))


def write_png16(path: Path, pixels=None) -> Path:
    return _write(path, encode_png16(pixels))


def write_dicom(path: Path, pixels=None, **fields: Any) -> Path:
    return _write(path, encode_dicom(pixels, **fields))


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@dataclass(frozen=True)
class Expected:
    """Expected outcome of one entry of the nasty folder."""

    status: str
    reason: Reason | None = None


_SCORED = Expected("scored")


def make_nasty_folder(path: Path, *, can_read_locked: bool | None = None) -> dict[str, Expected]:
    """Build a folder with all common faults of files.

    Args:
        path: the folder; created if missing.
        can_read_locked: whether this user, such as root, can read the folder without permission; None tests it.

    Returns:
        Expected outcomes by path below `path`, as in `os.fsdecode`; one row each, none skipped. The folder without
        permission is one row, or its scan is if the folder can be read.
    """
    jpeg = encode_jpeg(small_chest(1))
    rgba = np.dstack([small_chest(2)] * 3 + [np.full((120, 144), 200, np.uint8)])
    contents: dict[str, tuple[bytes, Expected]] = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], Expected("rejected", Reason.DAMAGED)),
        "text.jpg": (b"This is no image.\n", Expected("rejected", Reason.NOT_AN_IMAGE)),
        "empty.jpg": (b"", Expected("rejected", Reason.EMPTY_FILE)),
        "deep.png": (encode_png16(small_chest(3)), _SCORED),
        "rgba.png": (encode_image(rgba), _SCORED),
        "one-pixel.png": (encode_image(np.zeros((1, 1), np.uint8)), Expected("rejected", Reason.TOO_SMALL)),
        "huge.png": (encode_huge_png(40_000, 40_000), Expected("rejected", Reason.TOO_LARGE)),
        "with spaces.jpg": (encode_jpeg(small_chest(4)), _SCORED),
        "\"double\" and 'single'.jpg": (encode_jpeg(small_chest(5)), _SCORED),
        "new\nline.jpg": (encode_jpeg(small_chest(6)), _SCORED),
        "back\\slash.jpg": (encode_jpeg(small_chest(7)), _SCORED),
        os.fsdecode(b"not-utf-8-\xff\xfe.jpg"): (encode_jpeg(small_chest(8)), _SCORED),
    }
    path.mkdir(parents=True, exist_ok=True)
    for name, (content, _) in contents.items():
        (path / name).write_bytes(content)
    expected = {name: outcome for name, (_, outcome) in contents.items()}
    locked = path / "locked"
    write_jpeg(locked / "inside.jpg", small_chest(9))
    locked.chmod(0)
    if os.access(locked, os.R_OK | os.X_OK) if can_read_locked is None else can_read_locked:
        expected["locked/inside.jpg"] = _SCORED
    else:
        expected["locked"] = Expected("failed", Reason.PERMISSION_DENIED)
    return expected


def make_card(**fields: Any) -> dict[str, Any]:
    """Return the fields of a card without `digest` and `files`, for `write_bundle`."""
    return {
        "name": "tiny",
        "version": "1",
        "description": "A network for tests.",
        "created_at": "2026-11-20T10:00:00Z",
        "architecture": "none",
        "labels": ["pneumonia"],
        "activation": "sigmoid",
        "thresholds": {"pneumonia": {"low": 0.4, "high": 0.6}},
        "calibration": "none",
        "input": {"height_px": 8, "width_px": 8, "channels": 1},
        "preprocessing_version": PREPROCESSING_VERSION,
        "parity_tolerance": 1e-4,
        "training": {
            "data_source": "drawn",
            "license": "CC0-1.0",
            "attribution": "nobody",
            "split": "none",
            "scans": {"train": 1},
            "patients": {"train": 1},
            "seed": 0,
            "hyperparameters": {"epochs": 1},
            "packages": {"numpy": "2"},
        },
        "metrics": {"hold-out": {name: make_metric(0.95) for name in ("auc", "sensitivity", "specificity")}},
        "intended_use": "tests",
        "limitations": ["everything"],
        **fields,
    }


def make_metric(value: float, margin: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - margin, "high": value + margin}


def make_rates(sensitivity: float = 0.9, specificity: float = 0.8) -> dict[str, Any]:
    return {"sensitivity": make_metric(sensitivity), "specificity": make_metric(specificity)}


def make_operating_points(**thresholds: float) -> dict[str, Any]:
    """Return the operating points of one label from thresholds by name, with `_` for `-`."""
    thresholds = thresholds or {"high_sensitivity": 0.2, "balanced": 0.5, "high_specificity": 0.9}
    return {
        name.replace("_", "-"): {"threshold": threshold, "chosen_on": make_rates(), "hold_out": make_rates()}
        for name, threshold in thresholds.items()
    }
