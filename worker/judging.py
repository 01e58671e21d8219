"""What a model and its gate say of prepared scans: scores, distances, and why a scan is rejected for its distance."""

import math
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np

from db.measuring import NewMeasurement
from nightread.gate import PASSED, Finding, judge_scan
from nightread.measuring import Statistics
from nightread.preparing import Tensor
from worker.scorer import Scorer, Scores

#: Decimals of a stored component, whose deviation is 1: each digit more is eight bytes of every scan, and noise.
_COMPONENT_DIGITS: Final = 4


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said of one scan.

    Attributes:
        distance: None where the model has no gate, or where it is no number.
        components: the same.
        finding: why the distance rejects the scan.
    """

    distance: float | None = None
    components: list[float] | None = None
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What is said of N scans: (N, labels) scores, and the gate's judgements of each."""

    scores: Scores
    judgements: list[Judgement]


def judge_scans(scorer: Scorer, tensors: list[Tensor]) -> Judged:
    """Score prepared scans, and measure those again, inverted and turned, whose distance is doubtful.

    Raises:
        DeviceFull: there is not enough memory for so many scans at once.
    """
    inferred = scorer.infer_batch(np.stack(tensors))
    gate = scorer.card.gate
    if gate is None:
        return Judged(inferred.scores, [Judgement()] * len(tensors))
    if inferred.distances is None or inferred.components is None:
        raise AssertionError("a graph with a gate was checked for its outputs")
    judgements = []
    for tensor, distance, components in zip(tensors, inferred.distances, inferred.components, strict=True):
        finding = judge_scan(tensor, float(distance), scorer.card.input, gate, lambda scan: _measure(scorer, scan))
        if math.isfinite(distance) and np.isfinite(components).all():
            kept = [round(float(value), _COMPONENT_DIGITS) for value in components]
            judgements.append(Judgement(float(distance), kept, finding))
        else:
            judgements.append(Judgement(finding=finding))
    return Judged(inferred.scores, judgements)


def _measure(scorer: Scorer, tensor: Tensor) -> float:
    """Return the distance of one scan: one at a time, since several might not fit where one does."""
    distances = scorer.infer_batch(tensor[np.newaxis]).distances
    return math.nan if distances is None else float(distances[0])


def make_measurement(
    scorer: Scorer, sha256: str, statistics: Statistics, judgement: Judgement, finding: Finding | None
) -> NewMeasurement:
    """Return what is stored of a content under a model with a gate."""
    return NewMeasurement(
        sha256,
        scorer.digest,
        scorer.card.preprocessing_version,
        PASSED if finding is None else finding.reason.value,
        judgement.distance,
        judgement.components,
        *astuple(statistics),
    )
