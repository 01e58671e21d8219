"""The input gate in the graph: the distance of a scan from the training scans, as the trainer has fitted it."""

from typing import Any, Final

import numpy as np

from nightread.errors import ExportError, ParityMismatch
from nightread.model.card import Gate, Metric, Output
from nightread.model.gate import judge_scan
from nightread.model.training_folder import COMPONENTS_COUNT, FittedGate, _Floats
from nightread.scan.preprocessing import InputSpec, Tensor

DISTANCE: Final = "distance"
COMPONENTS: Final = "components"

_SHRINK: Final = 16.0

#: Largest relative difference between the distances of Keras and of a float32 graph.
_TOLERANCE: Final = 1e-3
#: Share of the hold-out that a gate may reject; beyond it, it is no gate for these scans. The card tells the share.
_MOST_REJECTED: Final = 0.05


def describe_gate() -> tuple[Output, ...]:
    """Return the outputs that a gate adds to a graph."""
    return (
        Output(
            name=DISTANCE,
            shape=(1,),
            description="Mahalanobis distance of the scan's features from the training scans'; theirs are about 1",
        ),
        Output(
            name=COMPONENTS,
            shape=(COMPONENTS_COUNT,),
            description="principal components of those features, 0 on average and with a deviation of 1 in training",
        ),
    )


def check_gate(
    model: bytes, trained_gate: FittedGate, scans: Tensor, spec: InputSpec, card: Gate, *, exact: bool
) -> Gate:
    """Return a gate's card with its false rejections as counted through the graph, in the precision that is served.

    Args:
        model: the converted graph.
        trained_gate: as the trainer left it.
        scans: (N, H, W, C) float32, the hold-out.
        spec: what they were prepared for.
        card: as the trainer left it.
        exact: whether distances must be those of Keras: not so in a lower precision, whose verdicts count alone.

    Raises:
        ParityMismatch: the graph's distances are others.
        ExportError: it rejects too many real scans.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def measure_all(batch: Tensor) -> _Floats:
        distances: _Floats = session.run([DISTANCE], {taken.name: batch})[0].reshape(-1)
        return distances

    at_once = spec.scored_at_once
    distances = np.concatenate([measure_all(scans[start : start + at_once]) for start in range(0, len(scans), at_once)])
    difference = float(np.abs(distances / trained_gate.distances - 1).max())
    if exact and not difference <= _TOLERANCE:
        raise ParityMismatch(
            f"the graph's distances differ from Keras' by up to {difference:.2%}; at most {_TOLERANCE:.2%} is allowed: "
            "export again, or repeat `nightread train --resume` where that does not help"
        )
    rejected = sum(
        judge_scan(scan, float(distance), spec, card, lambda variant: float(measure_all(variant[np.newaxis])[0]))
        is not None
        for scan, distance in zip(scans, distances, strict=True)
    )
    share = rejected / len(scans)
    if share > _MOST_REJECTED:
        raise ExportError(
            f"the input gate rejects {share:.1%} of the hold-out's scans in this precision; at most "
            f"{_MOST_REJECTED:.0%} is allowed: export with --precision float32, or train again on more scans"
        )
    return card.model_copy(update={"false_rejection": _measure_share(rejected, len(scans))})


def _measure_share(count: int, trials: int) -> Metric:
    """Return a share with its Clopper-Pearson interval."""
    from scipy.stats import binomtest

    interval = binomtest(count, trials).proportion_ci(method="exact")
    return Metric(value=round(count / trials, 4), low=round(interval.low, 4), high=round(interval.high, 4))


def compute_gate(maps: list[Any], gate: FittedGate) -> dict[str, Any]:
    """Return the outputs, as TensorFlow tensors, from the (N, h, w, channels) outputs of the gate's layers."""
    import tensorflow as tf

    features = tf.concat([tf.reduce_mean(tensor, axis=(1, 2)) for tensor in maps], axis=-1)
    whitened = tf.matmul(features - gate.mean, gate.projection)  # (N, D)
    # Shrunk by a power of 2, which costs no digit: the squares of what is far away would overflow a half.
    distance = tf.sqrt(tf.reduce_mean(tf.square(whitened / _SHRINK), axis=1, keepdims=True)) * _SHRINK
    return {DISTANCE: distance, COMPONENTS: whitened[:, :COMPONENTS_COUNT]}
