"""Dependence of the score of a scan on its file format: `same_pixels` of the card.

A scan is scored as a worker reads its file of full resolution, and again in each other way: with the JPEG decoded in
full, from a PNG copy, from DICOM copies, and from the file of the data set with its name.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from exporter.parity import Scorer
from nightread.errors import ExportError, ScanError, StorageError
from nightread.model.card import SamePixels, Threshold
from nightread.scan.decode import read_scan
from nightread.scan.files import read_file
from nightread.scan.formats import Format
from nightread.scan.preprocessing import InputSpec, Tensor, prepare, read_and_prepare
from nightread.scan.scan import Scan
from nightread.scan.walk import Walk, find_scans

FULL_DECODING: Final = "JPEG decoded in full"
DATA_SET_FILE: Final = "file of the data set, {width} x {height}"
PNG_COPY: Final = "PNG copy"
DICOM_COPY: Final = "DICOM copy, {photometric}, {bits} bit"
NO_WINDOW: Final = "DICOM copy, MONOCHROME2, 16 bit, no window"

#: Most scans to compare, evenly spread over the folder.
_MOST_SCANS: Final = 240
_MAX_FILE_BYTES: Final = 256 * 2**20
_MAX_PIXELS: Final = 40_000_000
_WHITE: Final = {8: 2**8 - 1, 16: 2**16 - 1}


@dataclass(frozen=True, slots=True)
class Compared:
    """Scores of scans read in two ways, batch by batch."""

    usual: list[npt.NDArray[Any]] = field(default_factory=list)
    other: list[npt.NDArray[Any]] = field(default_factory=list)

    def summarise(self, thresholds: tuple[Threshold, ...]) -> SamePixels:
        """Return differences and changed decisions; a scan counts once, by the label with the largest difference."""
        usual, other = (np.concatenate(scores).astype(np.float64) for scores in (self.usual, self.other))
        moved = np.abs(usual - other).max(axis=1)
        changed = (_decide(usual, thresholds) != _decide(other, thresholds)).any(axis=1)
        return SamePixels(
            scans=len(moved),
            median_difference=_round(float(np.median(moved))),
            largest_difference=_round(float(moved.max())),
            decisions_changed=int(changed.sum()),
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """Prepared scans; for each other way their places among them and the tensors prepared in that way."""

    usual: list[Tensor]
    ways: dict[str, list[tuple[int, Tensor]]]

    def read(self, content: bytes, smaller_file: bytes, spec: InputSpec) -> None:
        """Prepare one scan in every way; skip it if it cannot be read."""
        try:
            usual, _ = read_and_prepare(content, spec, max_pixels=_MAX_PIXELS)
            scan = read_scan(content, max_pixels=_MAX_PIXELS)
        except ScanError:
            return
        prepared = {name: read_and_prepare(copy, spec, max_pixels=_MAX_PIXELS)[0] for name, copy in _copy(scan)}
        if scan.format is Format.JPEG:
            prepared[FULL_DECODING] = prepare(scan, spec)
        with suppress(ScanError):
            tensor, smaller = read_and_prepare(smaller_file, spec, max_pixels=_MAX_PIXELS)
            prepared[DATA_SET_FILE.format(width=smaller.width_px, height=smaller.height_px)] = tensor
        for name, tensor in prepared.items():
            self.ways.setdefault(name, []).append((len(self.usual), tensor))
        self.usual.append(usual)

    def score(self, compute: Scorer, compared: dict[str, Compared]) -> None:
        """Score all scans and add the scores to those of other batches."""
        if not self.usual:
            return
        scores = compute(np.stack(self.usual))
        for name, pairs in self.ways.items():
            gathered = compared.setdefault(name, Compared())
            gathered.usual.append(scores[[place for place, _ in pairs]])
            gathered.other.append(compute(np.stack([tensor for _, tensor in pairs])))


def compare_ways(
    full_resolution: Path,
    data: Path | None,
    spec: InputSpec,
    compute: Scorer,
    thresholds: tuple[Threshold, ...],
) -> dict[str, SamePixels]:
    """Compare the scores of scans that are read in several ways.

    Args:
        full_resolution: folder of scans that were not scaled down.
        data: folder of the data set, whose files with equal names are smaller files of these scans; None for none.
        spec: the network's input.
        compute: maps (N, H, W, C) to (N, labels) scores.
        thresholds: of the labels, in output order; none if the highest score decides.

    Returns:
        By name of the way, each compared with the file of full resolution as a worker reads it.

    Raises:
        ExportError: the folder holds no scan, or `data` none with an equal name.
    """
    paths = _list_files(full_resolution)
    chosen = sorted(paths)
    if not chosen:
        raise ExportError(f"{full_resolution} holds no scan: name a folder of scans with --full-resolution")
    if len(chosen) > _MOST_SCANS:
        chosen = [chosen[place] for place in np.linspace(0, len(chosen) - 1, _MOST_SCANS).astype(np.int64)]
    smaller = {} if data is None else _list_files(data)
    if data is not None and not smaller.keys() & set(chosen):
        raise ExportError(
            f"{data} and {full_resolution} hold no files of the same name: name a folder with scans of the data set "
            "with --full-resolution"
        )
    compared: dict[str, Compared] = {}
    for start in range(0, len(chosen), spec.scored_at_once):
        batch = _Batch([], {})
        for stem in chosen[start : start + spec.scored_at_once]:
            smaller_file = _read(smaller[stem], data) if data is not None and stem in smaller else b""
            batch.read(_read(paths[stem], full_resolution), smaller_file, spec)
        batch.score(compute, compared)
    if not compared:
        raise ExportError(f"{full_resolution} holds no readable scan: name a folder of scans with --full-resolution")
    return {name: scores.summarise(thresholds) for name, scores in compared.items()}


def encode_dicom(gray: npt.NDArray[np.uint8], *, bits: int, inverted: bool, window: bool) -> bytes:
    """Encode a picture as a DICOM instance that shows it unchanged.

    Args:
        gray: (H, W) uint8, 0 black to 255 white.
        bits: of a pixel, 8 or 16.
        inverted: whether to store MONOCHROME1, in which 0 is shown white.
        window: whether to state which stored values are black and white; without it viewers must guess at 16 bits.
    """
    stored = gray if bits == 8 else gray.astype(np.uint16) * (_WHITE[16] // _WHITE[8])
    if inverted:
        stored = _WHITE[bits] - stored
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.SamplesPerPixel = "CR", 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    if window:  # LINEAR_EXACT: black at center - width / 2, white at center + width / 2 (PS3.3 C.11.2.1.3.2)
        dataset.WindowCenter, dataset.WindowWidth = str(_WHITE[bits] / 2), str(_WHITE[bits])
        dataset.VOILUTFunction = "LINEAR_EXACT"
    pixels = np.ascontiguousarray(stored).tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _list_files(folder: Path) -> dict[str, str]:
    """Return the paths of scans below a folder by the stem of their names."""
    found = find_scans([folder], Walk(), roots=[folder.resolve()])
    return {Path(scan.path).stem: scan.path for scan in found if scan.reason is None}


def _read(path: str, folder: Path) -> bytes:
    try:
        return read_file(path, roots=[folder.resolve()], max_bytes=_MAX_FILE_BYTES)
    except (ScanError, StorageError):
        return b""  # skipped, as no scan


def _copy(scan: Scan) -> Iterator[tuple[str, bytes]]:
    """Yield copies of a scan in other formats, from its 8-bit rendering."""
    shown = np.subtract(scan.pixels, scan.black, dtype=np.float32) * np.float32(255 / (scan.white - scan.black))
    gray = np.rint(np.clip(shown, 0, 255)).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(gray).save(buffer, "PNG", compress_level=1)
    yield PNG_COPY, buffer.getvalue()
    for bits in _WHITE:
        for photometric in ("MONOCHROME2", "MONOCHROME1"):
            copy = encode_dicom(gray, bits=bits, inverted=photometric == "MONOCHROME1", window=True)
            yield DICOM_COPY.format(photometric=photometric, bits=bits), copy
    yield NO_WINDOW, encode_dicom(gray, bits=16, inverted=False, window=False)


def _decide(scores: npt.NDArray[np.float64], thresholds: tuple[Threshold, ...]) -> npt.NDArray[np.int64]:
    """Return (N, labels) 0 absent, 1 uncertain, 2 present; without thresholds (N, 1) places of the highest score."""
    if not thresholds:
        highest: npt.NDArray[np.int64] = np.argmax(scores, axis=1, keepdims=True).astype(np.int64)
        return highest
    low, high = (np.array([getattr(threshold, name) for threshold in thresholds]) for name in ("low", "high"))
    decided: npt.NDArray[np.int64] = (scores >= low).astype(np.int64) + (scores >= high)
    return decided


def _round(value: float) -> float:
    return float(f"{value:.3g}")
