"""What a model and its gate say of prepared scans: scores, distances, and why a scan is too far from the training scans."""

import math
from dataclasses import astuple, dataclass

import numpy as np

from db.measuring import NewMeasurement
from nightread.card import Gate
from nightread.gate import PASSED, Finding, explain_distance, is_far, turn_and_invert
from nightread.measuring import Statistics
from nightread.preparing import Tensor
from worker.scorer import Inference, Scorer, Scores


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
    """Score prepared scans, and those again that are too far from the training scans, turned and inverted.

    Raises:
        DeviceFull: there is not enough memory for so many scans at once.
    """
    inferred = scorer.infer_batch(np.stack(tensors))
    gate = scorer.card.gate
    if gate is None:
        return Judged(inferred.scores, [Judgement()] * len(tensors))
    return Judged(
        inferred.scores,
        [_judge(scorer, gate, tensor, inferred, place) for place, tensor in enumerate(tensors)],
    )


def _judge(scorer: Scorer, gate: Gate, tensor: Tensor, inferred: Inference, place: int) -> Judgement:
    if inferred.distances is None or inferred.components is None:
        raise AssertionError("a graph that has a gate was checked for its outputs")
    distance = float(inferred.distances[place])
    components = [float(value) for value in inferred.components[place]]
    finding = _explain(scorer, gate, tensor, distance) if is_far(distance, gate) else None
    if not all(map(math.isfinite, (distance, *components))):
        return Judgement(finding=finding)
    return Judgement(distance, components, finding)


def _explain(scorer: Scorer, gate: Gate, tensor: Tensor, distance: float) -> Finding:
    variants = turn_and_invert(tensor, scorer.card.input)
    distances = {}
    for name, variant in variants.items():  # one by one: this many scans may not fit the device at once
        found = scorer.infer_batch(variant[np.newaxis]).distances
        distances[name] = math.nan if found is None else float(found[0])
    return explain_distance(distance, distances, gate)


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
