"""Parity: the converted model gives the scores of the trained one, Keras against ONNX Runtime on prepared scans.

The session is the one that serves: `nightread.inference.session` opens it here and in a worker.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightread.errors import CardMismatch, ParityMismatch
from nightread.inference.bundle_check import BATCH_SIZES, measure_batches, spread_places
from nightread.inference.scorer import find_graph_faults
from nightread.inference.session import OpenSession, open_session
from nightread.machine import count_cores
from nightread.scan.preprocessing import Tensor
from nightread.settings import Device

#: Largest absolute difference between two scores; float32 sums in another order differ by about 1e-7.
TOLERANCE: Final = 1e-5

#: Largest absolute difference between the float32 scores of one scan in two batches.
BATCH_TOLERANCE: Final = 1e-6

_INDEPENDENCE_SCANS: Final = 64

#: (N, H, W, C) float32 to (N, labels).
Scorer = Callable[[Tensor], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Parity:
    """Outcome of a comparison that passed.

    Attributes:
        largest_difference: over all batch sizes, scans and labels.
        batch_sizes: that were compared.
        scans: different scans that were scored.
    """

    largest_difference: float
    batch_sizes: tuple[int, ...]
    scans: int


def open_converted(model: bytes) -> OpenSession:
    """Open a converted model on the CPU, the provider that every worker has.

    Raises:
        ParityMismatch: ONNX Runtime refuses the model, or its input and outputs are not those of a bundle.
    """
    try:
        session = open_session(model, Device.CPU, count_cores())
    except CardMismatch as error:
        raise ParityMismatch(f"ONNX Runtime cannot open the converted model: {error}") from None
    if faults := find_graph_faults(session.session, None):
        raise ParityMismatch(f"the converted model {'; it '.join(faults)}")
    return session


def choose_batch_sizes(largest: int) -> tuple[int, ...]:
    """Return the batch sizes to compare; the largest is `InputSpec.scored_at_once`, as memory allows."""
    return (*(size for size in BATCH_SIZES if size < largest), largest)


def check_parity(
    expect: Scorer,
    compute: Scorer,
    scans: Tensor,
    thresholds: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    batch_sizes: Sequence[int] = (*BATCH_SIZES, 256),
    same_decisions: bool = True,
) -> Parity:
    """Compare the scores of two models: shape, dtype, values and decisions, at every batch size and for every scan.

    Args:
        expect: the trained model.
        compute: the converted model.
        scans: (N, H, W, C) float32, prepared; repeated if N is below a batch size.
        thresholds: of each label, in output order; none if the highest score decides.
        tolerance: largest absolute difference allowed.
        batch_sizes: to compare.
        same_decisions: whether every decision must be the same.

    Raises:
        ParityMismatch: they differ; the message says in what and at which batch size.
    """
    decided = thresholds if same_decisions else None
    most = max(batch_sizes)
    batches = [scans[spread_places(len(scans), size)] for size in batch_sizes]
    batches += [scans[start : start + most] for start in range(0, len(scans), most)]
    largest = max(_compare(expect(batch), compute(batch), decided, tolerance, len(batch)) for batch in batches)
    return Parity(largest, tuple(batch_sizes), len(scans))


def check_independence(
    compute: Scorer, scans: Tensor, *, at_once: int = _INDEPENDENCE_SCANS, tolerance: float = BATCH_TOLERANCE
) -> float:
    """Compare the scores that scans get alone with those in batches, at every position.

    Args:
        compute: the converted model.
        scans: (N, H, W, C) float32; at most 64 of them are used, evenly spread.
        at_once: most scans in one batch.
        tolerance: largest absolute difference allowed: kernels for one row and for many add in different orders.

    Returns:
        The largest absolute difference.

    Raises:
        ParityMismatch: the score of a scan depends on its batch or on its position there.
    """
    chosen = scans[spread_places(len(scans), min(len(scans), at_once, _INDEPENDENCE_SCANS))]
    alone = np.concatenate([compute(scan[np.newaxis]) for scan in chosen])
    worst = 0.0
    for measured in measure_batches(compute, chosen, alone, choose_batch_sizes(len(chosen))):
        worst = max(worst, measured.difference)
        if not measured.difference <= tolerance:
            raise ParityMismatch(
                f"the score of a scan depends on its batch: {measured.where} it differs by {measured.difference:.2g} "
                f"from that of the scan alone; at most {tolerance:g} is allowed"
            )
    return worst


def _compare(
    expected: npt.NDArray[Any],
    computed: npt.NDArray[Any],
    thresholds: Sequence[float] | None,
    tolerance: float,
    size: int,
) -> float:
    """Return the largest absolute difference of (N, labels) scores; `thresholds` of None: decisions may differ."""
    where = f"at batch size {size}"
    if computed.shape != expected.shape:
        raise ParityMismatch(
            f"the converted model gives scores of shape {computed.shape}, Keras {expected.shape}, {where}"
        )
    if computed.dtype != expected.dtype:
        raise ParityMismatch(f"the converted model gives {computed.dtype} scores, Keras {expected.dtype}, {where}")
    if not np.isfinite(computed).all():
        raise ParityMismatch(f"the converted model gives scores that are not finite {where}")
    difference = float(np.abs(expected.astype(np.float64) - computed).max())
    if not difference <= tolerance:
        raise ParityMismatch(
            f"the converted model's scores differ from Keras' by up to {difference:.2g} {where}; "
            f"at most {tolerance:g} is allowed: export again, or train again where that does not help"
        )
    if thresholds is None:
        return difference
    differing = int((decide(expected, thresholds) != decide(computed, thresholds)).sum())
    if differing:
        raise ParityMismatch(f"{differing} decisions of the converted model differ from Keras' {where}")
    return difference


def decide(scores: npt.NDArray[Any], thresholds: Sequence[float]) -> npt.NDArray[Any]:
    """Return (N, labels) decisions, or (N,) indices of the highest score if there are no thresholds."""
    return scores >= np.asarray(thresholds, scores.dtype) if thresholds else scores.argmax(axis=1)
