"""From listed scans to arrays in memory, through the very function that workers use."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nightread.errors import ScanError, StorageError
from nightread.files import read_file
from nightread.preparing import InputSpec, Tensor, read_and_prepare
from nightread.reasons import Reason
from trainer.datasets import LabelledScan
from trainer.errors import DatasetError

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 40_000_000

#: Scans that are decoded ahead of the one that is waited for, so that a large data set never lies in memory twice.
_AHEAD = 256

#: (H, W, C) and the SHA-256 of the file, or why there is none.
_Outcome = tuple[Tensor, str] | Reason


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A scan that cannot be trained on, and why."""

    path: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class PreparedScans:
    """A data set in memory, in the order of its paths.

    Attributes:
        scans: N scans that could be read.
        inputs: (N, H, W, C) float32 within the input's value range.
        targets: (N,) float32, 1 where the label is present, else 0.
        sha256: of each file's bytes.
        unreadable: the others.
    """

    scans: tuple[LabelledScan, ...]
    inputs: Tensor
    targets: npt.NDArray[np.float32]
    sha256: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]


def prepare_scans(
    scans: Sequence[LabelledScan], folder: Path, spec: InputSpec, *, report: Callable[[int, int], None]
) -> PreparedScans:
    """Read and prepare every scan, on one thread a core.

    Args:
        scans: what a data set listed.
        folder: the data set's folder; files that links lead out of it are not read.
        spec: the network's input.
        report: is told (scans done, scans in all).

    Raises:
        DatasetError: not one scan can be read.
    """
    roots = [folder.resolve()]

    def read_one(scan: LabelledScan) -> _Outcome:
        try:
            data = read_file(scan.path, roots=roots, max_bytes=MAX_FILE_BYTES)
            prepared, _ = read_and_prepare(data, spec, max_pixels=MAX_PIXELS)
        except (ScanError, StorageError) as error:
            return error.reason
        return prepared, hashlib.sha256(data).hexdigest()

    inputs = np.empty((len(scans), *spec.shape), np.float32)
    kept: list[LabelledScan] = []
    sha256: list[str] = []
    unreadable: list[Unreadable] = []
    for done, (scan, outcome) in enumerate(_map_ahead(read_one, scans), start=1):
        if isinstance(outcome, Reason):
            unreadable.append(Unreadable(scan.path, outcome))
        else:
            inputs[len(kept)] = outcome[0]
            kept.append(scan)
            sha256.append(outcome[1])
        report(done, len(scans))
    if not kept:
        raise DatasetError(
            f"none of the {len(scans)} scans in {folder} can be read; the first is {unreadable[0].reason}"
        )
    targets = np.array([scan.is_positive for scan in kept], np.float32)
    return PreparedScans(tuple(kept), inputs[: len(kept)], targets, tuple(sha256), tuple(unreadable))


def _map_ahead(
    function: Callable[[LabelledScan], _Outcome], scans: Sequence[LabelledScan]
) -> Iterator[tuple[LabelledScan, _Outcome]]:
    """Yield (scan, outcome) in order."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(scans), _AHEAD):
            block = scans[start : start + _AHEAD]
            yield from zip(block, pool.map(function, block), strict=True)
