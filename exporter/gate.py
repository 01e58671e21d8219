"""The input gate in the graph: distance and components as the trainer has fitted them, checked against Keras."""

from typing import Any, Final

import numpy as np
import tensorflow as tf
from scipy.stats import binomtest

from nightread.errors import ExportError, ParityMismatch
from nightread.inference.session import OpenSession
from nightread.model.card import COMPONENTS, DISTANCE, PLACEMENT, Gate, Metric, Output
from nightread.model.gate import VARIANTS, judge_scans
from nightread.model.training_folder import COMPONENTS_COUNT, FittedGate
from nightread.scan.preprocessing import InputSpec, Tensor

_SHRINK: Final = 16.0

#: Largest relative difference between the distances of Keras and of a float32 graph.
_TOLERANCE: Final = 1e-3
#: Largest share of the hold-out that a gate may reject; the share itself is on the card.
_MOST_REJECTED: Final = 0.05


def describe_gate(gate: FittedGate) -> tuple[Output, ...]:
    """Return the outputs that a gate adds to a graph."""
    outputs = (
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
    if gate.placement is None:
        return outputs
    logits = Output(
        name=PLACEMENT,
        shape=(1 + len(VARIANTS),),
        description=f"logits of how the scan lies: upright, {', '.join(VARIANTS)}",
    )
    return (*outputs, logits)


def check_gate(
    session: OpenSession, trained_gate: FittedGate, scans: Tensor, spec: InputSpec, card: Gate, *, exact: bool
) -> Gate:
    """Return the card's gate with its false rejections, counted through the graph in the precision that is served.

    Args:
        session: of the converted graph.
        trained_gate: as the trainer left it.
        scans: (N, H, W, C) float32, the hold-out.
        spec: input that they were prepared for.
        card: as the trainer left it.
        exact: whether distances must equal those of Keras; in a lower precision only the verdicts count.

    Raises:
        ParityMismatch: the graph gives other distances.
        ExportError: the gate rejects too many real scans.
    """

    def measure(variants: Tensor) -> list[float]:
        return list(session.compute([DISTANCE], variants, spec.scored_at_once)[0].reshape(-1).tolist())

    names = [DISTANCE] if trained_gate.placement is None else [DISTANCE, PLACEMENT]
    measured, *placements = session.compute(names, scans, spec.scored_at_once)
    distances = measured.reshape(-1)
    difference = float(np.abs(distances / trained_gate.distances - 1).max())
    if exact and not difference <= _TOLERANCE:
        raise ParityMismatch(
            f"the graph's distances differ from Keras' by up to {difference:.2%}; at most {_TOLERANCE:.2%} is allowed: "
            "export again, or repeat `nightread train --resume` if that does not help"
        )
    logits = placements[0].tolist() if placements else None
    findings = judge_scans(list(scans), distances.tolist(), logits, spec=spec, gate=card, measure=measure)
    rejected = sum(finding is not None for finding in findings)
    share = rejected / len(scans)
    if share > _MOST_REJECTED:
        raise ExportError(
            f"the input gate rejects {share:.1%} of the hold-out's scans in this precision; at most "
            f"{_MOST_REJECTED:.0%} is allowed: export with --precision float32, or train again on more scans"
        )
    return card.model_copy(update={"false_rejection": _measure_share(rejected, len(scans))})


def _measure_share(count: int, trials: int) -> Metric:
    """Return a share with its Clopper-Pearson interval."""
    interval = binomtest(count, trials).proportion_ci(method="exact")
    return Metric(value=round(count / trials, 4), low=round(interval.low, 4), high=round(interval.high, 4))


def compute_gate(maps: list[Any], gate: FittedGate) -> dict[str, Any]:
    """Compute the gate's outputs, as TensorFlow tensors, from the (N, h, w, channels) outputs of its layers."""
    features = tf.concat([tf.reduce_mean(tensor, axis=(1, 2)) for tensor in maps], axis=-1)
    whitened = tf.matmul(features - gate.mean, gate.projection)  # (N, D)
    misplaced = tf.nn.relu(tf.matmul(whitened, gate.misplaced[:, np.newaxis]) + np.float32(gate.misplaced_at))  # (N, 1)
    # Divided by a power of 2, which costs no digit: the squares of large distances would overflow float16.
    spread = tf.reduce_mean(tf.square(whitened / _SHRINK), axis=1, keepdims=True)
    distance = tf.sqrt(spread + tf.square(misplaced / _SHRINK)) * _SHRINK
    outputs = {DISTANCE: distance, COMPONENTS: whitened[:, :COMPONENTS_COUNT]}
    if gate.placement is not None:
        outputs[PLACEMENT] = tf.matmul(whitened, gate.placement) + gate.placement_at
    return outputs
