"""Check of hold-out scans from their files: pixels and scores of a worker against those of the training."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exporter.parity import Scorer
from nightread.errors import ExportError, ParityMismatch, ScanError, StorageError
from nightread.model.training_folder import TrainingFolder
from nightread.scan.files import read_file
from nightread.scan.preprocessing import Tensor, read_and_prepare
from nightread.scan.walk import Walk, find_scans

#: Hold-out files that are read again, of each label and of none.
_FILES_EACH: Final = 16
_MAX_FILE_BYTES: Final = 256 * 2**20
_MAX_PIXELS: Final = 40_000_000
#: Share of the value range: resizing on another processor may round the last bit differently.
_PIXEL_TOLERANCE: Final = 1e-6


def check_files(trained: TrainingFolder, data: Path, expect: Scorer, compute: Scorer, tolerance: float) -> int:
    """Read hold-out scans from their files and compare pixels and scores with those of the training.

    Files are found by their SHA-256: a training folder holds no file names, which may identify patients.

    Args:
        trained: with the SHA-256 of each hold-out scan's file.
        data: folder of the data set.
        expect: Keras, on the scans that the training prepared.
        compute: ONNX Runtime, on the scans read now.
        tolerance: largest absolute difference of two scores.

    Returns:
        The number of compared files.

    Raises:
        ExportError: the folder holds none of the hold-out's files, or the training folder does not name them.
        ParityMismatch: prepared pixels or scores differ.
    """
    if trained.sha256 is None:
        raise ExportError(
            "the training folder does not name its hold-out files; repeat `nightread train --resume` on it, which "
            "trains nothing again"
        )
    places = {digest: place for place, digest in enumerate(trained.sha256)}
    groups = Counter(trained.name_group(place) for place in places.values())
    wanted = {group: min(count, _FILES_EACH) for group, count in groups.items()}
    compared = 0
    for found in find_scans([data], Walk(), roots=[data.resolve()]):
        if not any(wanted.values()):
            break
        try:
            content = read_file(found.path, roots=[data.resolve()], max_bytes=_MAX_FILE_BYTES)
        except (ScanError, StorageError):
            continue  # no file of the hold-out, all of which could be read
        place = places.pop(hashlib.sha256(content).hexdigest(), None)
        if place is None or not wanted[trained.name_group(place)]:
            continue
        wanted[trained.name_group(place)] -= 1
        prepared = _prepare_again(content, place, trained)
        _compare_scores(expect(trained.scans[place : place + 1]), compute(prepared[np.newaxis]), content, tolerance)
        compared += 1
    if not compared:
        raise ExportError(f"{data} holds none of the hold-out's files: name the folder of the training with --data")
    return compared


def _prepare_again(content: bytes, place: int, trained: TrainingFolder) -> Tensor:
    """Prepare a file as a worker does; (H, W, C) float32, which must equal the training scan but for rounding."""
    try:
        prepared, _ = read_and_prepare(content, trained.input, max_pixels=_MAX_PIXELS)
    except ScanError as error:
        raise ParityMismatch(
            f"the scan {_shorten(content)} could be read in the training and cannot be read now: {error}"
        ) from None
    low, high = trained.input.value_range
    apart = float(np.abs(prepared - trained.scans[place]).max()) / (high - low)
    if not apart <= _PIXEL_TOLERANCE:
        raise ParityMismatch(
            f"the scan {_shorten(content)} is prepared differently now: pixels differ by {apart:.2g} of the value "
            "range; train again with the installed packages"
        )
    return prepared


def _compare_scores(expected: npt.NDArray[Any], computed: npt.NDArray[Any], content: bytes, tolerance: float) -> None:
    difference = float(np.abs(expected.astype(np.float64) - computed).max())
    if not difference <= tolerance:
        raise ParityMismatch(
            f"the score of the scan {_shorten(content)} from its file differs from Keras' by {difference:.2g}; "
            f"at most {tolerance:g} is allowed"
        )


def _shorten(content: bytes) -> str:
    """Return the first digits of a file's SHA-256: its name may identify a patient."""
    return hashlib.sha256(content).hexdigest()[:12]
