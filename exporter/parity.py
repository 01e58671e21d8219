"""Whether a converted model is the model that was trained: Keras against ONNX Runtime, on real prepared scans."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightread.errors import ParityMismatch
from nightread.scan.preprocessing import Tensor

#: Largest absolute difference between two scores; float32 sums in another order differ by about 1e-7.
TOLERANCE: Final = 1e-5

#: Largest absolute difference between the float32 scores of one scan in two batches.
BATCH_TOLERANCE: Final = 1e-6

_INDEPENDENCE_SCANS: Final = 64

#: One scan, a pair, a batch that divides nothing, and the default batch: converters have been wrong for all sizes but
#: the one that they were tried with. A large one, as large as memory allows, comes on top.
BATCH_SIZES: Final = (1, 2, 7, 32)

#: (N, H, W, C) float32 to (N, labels).
Scorer = Callable[[Tensor], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Parity:
    """The outcome of a comparison that held.

    Attributes:
        largest_difference: over all batch sizes, scans and labels.
        batch_sizes: that were compared.
        scans: different scans that were scored.
    """

    largest_difference: float
    batch_sizes: tuple[int, ...]
    scans: int


def open_session(model: bytes) -> Scorer:
    """Open an ONNX model on the CPU, the provider that every worker has.

    Raises:
        ParityMismatch: ONNX Runtime refuses the model, or it has not one input and scores first.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # its exceptions have no common base, and all mean the same here
        raise ParityMismatch(f"ONNX Runtime cannot open the converted model: {_first_line(error)}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or not outputs:
        raise ParityMismatch(
            f"the converted model has {len(inputs)} inputs and {len(outputs)} outputs; a bundle's model has one input, "
            "and its first output holds the scores"
        )

    def score(scans: Tensor) -> npt.NDArray[Any]:
        scores: npt.NDArray[Any] = session.run([outputs[0].name], {inputs[0].name: scans})[0]
        return scores

    return score


def choose_batch_sizes(largest: int) -> tuple[int, ...]:
    """Return the batch sizes that are compared, with the largest that fits: `InputSpec.scored_at_once`."""
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
    """Compare two models' scores: shape, dtype, values and decisions, at every batch size and for every scan.

    Args:
        expect: the model as trained.
        compute: the model as converted.
        scans: (N, H, W, C) float32, prepared; repeated where N is below a batch size.
        thresholds: of each label, in output order; none for a model whose highest score decides.
        tolerance: largest absolute difference allowed.
        batch_sizes: to be compared.
        same_decisions: whether every decision must be the same.

    Raises:
        ParityMismatch: they differ; the message says in what and at which batch size.
    """
    largest = 0.0
    for size in batch_sizes:
        batch = scans[_spread(len(scans), size)]
        decided = thresholds if same_decisions else None
        largest = max(largest, _compare(expect(batch), compute(batch), decided, tolerance, size))
    for start in range(0, len(scans), max(batch_sizes)):
        batch = scans[start : start + max(batch_sizes)]
        decided = thresholds if same_decisions else None
        largest = max(largest, _compare(expect(batch), compute(batch), decided, tolerance, len(batch)))
    return Parity(largest, tuple(batch_sizes), len(scans))


def check_independence(
    compute: Scorer, scans: Tensor, *, at_once: int = _INDEPENDENCE_SCANS, tolerance: float = BATCH_TOLERANCE
) -> float:
    """Compare the scores that each scan gets alone, in a batch and at another position of it.

    Args:
        compute: the model as converted.
        scans: (N, H, W, C) float32; at most 64 of them are looked at, evenly spread.
        at_once: how many are scored in one batch at most.
        tolerance: largest absolute difference allowed: kernels for one row and for many add in other orders.

    Returns:
        The largest absolute difference.

    Raises:
        ParityMismatch: the batch around a scan, or its place there, changes its score.
    """
    chosen = scans[_spread(len(scans), min(len(scans), at_once, _INDEPENDENCE_SCANS))]
    alone = np.concatenate([compute(scan[np.newaxis]) for scan in chosen]).astype(np.float64)
    around = float(np.abs(compute(chosen) - alone).max())
    if not around <= tolerance:
        raise ParityMismatch(
            f"the batch around a scan changes its score by up to {around:.2g}; at most {tolerance:g} is allowed"
        )
    turned = [np.roll(compute(np.roll(chosen, by, axis=0)), -by, axis=0) for by in (1, len(chosen) // 2)]
    moved = max(float(np.abs(scores - alone).max()) for scores in [*turned, compute(chosen[::-1])[::-1]])
    if not moved <= tolerance:
        raise ParityMismatch(
            f"the position of a scan in its batch changes its score by up to {moved:.2g}; at most {tolerance:g} is "
            "allowed"
        )
    return max(around, moved)


def _compare(
    expected: npt.NDArray[Any],
    computed: npt.NDArray[Any],
    thresholds: Sequence[float] | None,
    tolerance: float,
    size: int,
) -> float:
    """Return the largest absolute difference of (N, labels) scores; without `thresholds`, decisions may differ."""
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
    """Return (N, labels) bool, or without thresholds (N,) indices of the highest score."""
    return scores >= np.asarray(thresholds, scores.dtype) if thresholds else scores.argmax(axis=1)


def _spread(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """Return (wanted,) places, evenly spread: scans are listed label by label, and both are wanted; or repeated."""
    if wanted > count:
        return np.resize(np.arange(count), wanted)
    return np.linspace(0, count - 1, wanted).astype(np.int64)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
