"""Listed scans to arrays in memory, prepared by the function that workers use."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nightread.errors import ScanError, StorageError
from nightread.machine import count_cores
from nightread.reasons import Reason
from nightread.scan.files import read_file
from nightread.scan.preprocessing import InputSpec, Tensor, read_and_prepare
from trainer.data.dataset import LabelledScan, Listing
from trainer.errors import DatasetError

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 40_000_000

#: Scans decoded ahead; limited so that a large data set is never in memory twice.
_AHEAD = 256

#: (H, W, C), the larger scan where asked for, and the SHA-256 of the file; or why there is none.
_Outcome = tuple[Tensor, Tensor | None, str] | Reason


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A scan that cannot be read, and why."""

    path: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class PreparedScans:
    """A data set in memory, in the order of its paths.

    Attributes:
        scans: N scans that could be read.
        inputs: (N, H, W, C) float32 in the input's value range; read-only: with C of 3 the channels share their memory.
        targets: (N,) int64, indices into the task's classes.
        sha256: of each file's bytes.
        unreadable: the other scans.
        sources: (N, H, W) uint8, the scans in gray at a larger size, to crop from; None where not asked for.
    """

    scans: tuple[LabelledScan, ...]
    inputs: Tensor
    targets: npt.NDArray[np.int64]
    sha256: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    sources: npt.NDArray[np.uint8] | None = None


def prepare_scans(
    listing: Listing, spec: InputSpec, *, source_scale: int = 0, report: Callable[[int, int], None]
) -> PreparedScans:
    """Read and prepare every scan, on one thread a core.

    Args:
        listing: scans of a data set; files outside its roots are not read.
        spec: the network's input.
        source_scale: sides of `sources` as a multiple of the input's; 0 for none.
        report: called with (scans done, scans in all).

    Raises:
        DatasetError: no scan can be read.
    """
    scans, roots = listing.scans, [root.resolve() for root in listing.roots]
    gray = spec.model_copy(update={"channels": 1})  # a radiograph has one channel, which is repeated below
    sides = {"height_px": source_scale * spec.height_px, "width_px": source_scale * spec.width_px}
    source = gray.model_copy(update={**sides, "value_range": (0.0, 1.0)}) if source_scale else None

    def read_one(scan: LabelledScan) -> _Outcome:
        try:
            data = read_file(scan.path, roots=roots, max_bytes=MAX_FILE_BYTES)
            prepared, _ = read_and_prepare(data, gray, max_pixels=MAX_PIXELS)
            larger = None if source is None else read_and_prepare(data, source, max_pixels=MAX_PIXELS)[0]
        except (ScanError, StorageError) as error:
            return error.reason
        return prepared, larger, hashlib.sha256(data).hexdigest()

    inputs = np.empty((len(scans), *gray.shape), np.float32)
    sources = None if source is None else np.empty((len(scans), *source.shape[:2]), np.uint8)
    kept: list[LabelledScan] = []
    sha256: list[str] = []
    unreadable: list[Unreadable] = []
    for done, (scan, outcome) in enumerate(_map_ahead(read_one, scans), start=1):
        if isinstance(outcome, Reason):
            unreadable.append(Unreadable(scan.path, outcome))
        else:
            inputs[len(kept)], larger, digest = outcome
            if sources is not None and larger is not None:
                np.rint(larger[:, :, 0] * 255, out=sources[len(kept)], casting="unsafe")
            kept.append(scan)
            sha256.append(digest)
        report(done, len(scans))
    if not kept:
        raise DatasetError(
            f"none of the {len(scans)} scans in {listing.roots[0]} can be read; the first is {unreadable[0].reason}"
        )
    repeated = np.broadcast_to(inputs[: len(kept)], (len(kept), *spec.shape))
    targets = np.array([listing.task.classes.index(scan.label) for scan in kept], np.int64)
    sources = None if sources is None else sources[: len(kept)]
    return PreparedScans(tuple(kept), repeated, targets, tuple(sha256), tuple(unreadable), sources)


def select_scans(scans: PreparedScans, places: Sequence[int], classes: Sequence[str]) -> PreparedScans:
    """Return the scans at these places; their targets become indices into `classes`."""
    kept = tuple(scans.scans[place] for place in places)
    return PreparedScans(
        kept,
        np.broadcast_to(scans.inputs[list(places), :, :, :1], (len(kept), *scans.inputs.shape[1:])),
        np.array([classes.index(scan.label) for scan in kept], np.int64),
        tuple(scans.sha256[place] for place in places),
        scans.unreadable,
        None if scans.sources is None else scans.sources[list(places)],
    )


def _map_ahead(
    function: Callable[[LabelledScan], _Outcome], scans: Sequence[LabelledScan]
) -> Iterator[tuple[LabelledScan, _Outcome]]:
    """Yield (scan, outcome) in the order of the scans."""
    with ThreadPoolExecutor(count_cores()) as pool:
        for start in range(0, len(scans), _AHEAD):
            block = scans[start : start + _AHEAD]
            yield from zip(block, pool.map(function, block), strict=True)
