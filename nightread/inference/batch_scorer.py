"""Measurements, scores and verdicts of decoded contents, in batches that suit the device.

On a CPU each thread scores the few contents that it has decoded. A GPU gets batches as large as they may be. A batch
that does not fit into the device's memory is scored again in halves.
"""

import logging
import math
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from nightread.errors import DeviceFull
from nightread.failpoints import Point, failpoint
from nightread.inference.content import Content
from nightread.inference.scorer import Scorer
from nightread.model.gate import Finding, choose_variants, judge_scans
from nightread.reasons import Reason
from nightread.scan.pixel_statistics import measure
from nightread.scan.preprocessing import Tensor

_log = logging.getLogger(__name__)

#: Decimals of a stored component, whose deviation is 1: each digit more is eight bytes of every scan, and noise.
_COMPONENT_DIGITS: Final = 4


class BatchScorer:
    """Scores contents with one model; several threads may call it."""

    def __init__(self, scorer: Scorer, batch_size: int, *, gated: bool) -> None:
        """Score nothing yet.

        Args:
            scorer: the model.
            batch_size: largest number of scans in one batch.
            gated: whether the input gate's verdict is acted on; it is recorded in any case.
        """
        self._scorer = scorer
        self._gated = gated
        self._most = batch_size  # fewer once the device was found full

    def measure(self, contents: Sequence[Content]) -> None:
        """Measure the pixels of decoded contents, where the model has a gate.

        A thread does so with what it has decoded, also where a device scores the whole batch.
        """
        unmeasured = [one for one in contents if one.tensor is not None and one.statistics is None]
        if not unmeasured or self._scorer.card.gate is None:
            return
        began = time.perf_counter()
        tensors = [content.tensor for content in unmeasured if content.tensor is not None]
        measured = measure(tensors, self._scorer.card.input)
        share_s = (time.perf_counter() - began) / len(unmeasured)
        for content, statistics in zip(unmeasured, measured, strict=True):
            content.statistics = statistics
            content.stage_s["prepare"] = content.stage_s.get("prepare", 0.0) + share_s

    def score_part(self, contents: Sequence[Content]) -> DeviceFull | None:
        """Score the contents that this thread has decoded, in as many batches as is fastest on this CPU.

        Returns:
            The error where the memory does not suffice, for `reduce`; contents without scores keep their tensors.
        """
        to_score = self._select(contents)
        tuner, start = self._scorer.tuner, 0
        try:
            while start < len(to_score):
                batch = to_score[start : start + tuner.choose(len(to_score) - start)]
                began = time.thread_time()
                self._score(batch)
                tuner.note(len(batch), time.thread_time() - began)
                start += len(batch)
        except DeviceFull as error:
            return error
        return None

    def score_rest(self, contents: Sequence[Content]) -> None:
        """Score every decoded content that has no scores yet: all of them on a GPU, what did not fit on a CPU.

        Raises:
            DeviceFull: the memory does not suffice for a single scan.
        """
        left = self._select(contents)
        while left:
            batch = left[: self._most]
            try:
                self._score(batch)
            except DeviceFull as error:
                self.reduce(batch, error)
            left = [content for content in left if content.tensor is not None]

    def reduce(self, contents: Sequence[Content], error: DeviceFull) -> None:
        """Halve the batches after contents did not fit.

        Raises:
            DeviceFull: it was a single one.
        """
        count = sum(content.tensor is not None or content.batch_size > 0 for content in contents)
        if count == 1:
            raise error
        self._most = min(self._most, count // 2)
        _log.warning("%s; going on with %d", error, self._most)

    def _select(self, contents: Sequence[Content]) -> list[Content]:
        """Return the decoded contents that are to be scored; those that a rule of the gate rejects end here.

        All of them are measured, the rejected ones too.
        """
        self.measure(contents)
        for content in contents:
            if self._gated and content.finding is not None:
                content.reject(content.finding)
        return [content for content in contents if content.tensor is not None]

    def _score(self, contents: Sequence[Content]) -> None:
        failpoint(Point.WORKER_BEFORE_SCORING, DeviceFull)
        began = time.perf_counter()
        score_contents(self._scorer, contents, gated=self._gated)
        share_s = (time.perf_counter() - began) / max(1, len(contents))
        for content in contents:
            content.stage_s["infer"] = share_s
        failpoint(Point.WORKER_AFTER_SCORING, DeviceFull)


def score_contents(scorer: Scorer, contents: Sequence[Content], *, gated: bool) -> None:
    """Score decoded contents in one batch, judge each by the input gate, and fill in what comes of it.

    Scans whose distance is doubtful get a second look, inverted and turned, all in one batch. Where the verdict is not
    acted on, they get none and stay unjudged. Nothing is filled in where an error is raised.

    Args:
        scorer: the model.
        contents: each with a tensor.
        gated: whether a content that the gate rejects ends without scores.

    Raises:
        DeviceFull: the memory does not suffice for so many scans at once.
    """
    tensors = [content.tensor for content in contents if content.tensor is not None]
    inferred = scorer.infer_batch(np.stack(tensors))
    distances, components = [math.nan] * len(contents), [[math.nan]] * len(contents)
    if inferred.distances is not None and inferred.components is not None:
        distances, components = inferred.distances.tolist(), inferred.components.tolist()
        _judge(scorer, contents, tensors, distances, inferred.placements, gated=gated)
    for content, values, distance, parts in zip(contents, inferred.scores.tolist(), distances, components, strict=True):
        content.tensor, content.batch_size = None, len(contents)
        if not all(0.0 <= value <= 1.0 for value in values):  # also where one is not a number
            content.end(Reason.INVALID_SCORE, "the model returned a score that is no number in [0, 1]")
            continue
        if all(map(math.isfinite, (distance, *parts))):
            content.distance, content.components = distance, [round(part, _COMPONENT_DIGITS) for part in parts]
        if gated and content.finding is not None:
            content.reject(content.finding)
        else:
            content.scores = values


def _judge(
    scorer: Scorer,
    contents: Sequence[Content],
    tensors: Sequence[Tensor],
    distances: Sequence[float],
    placements: Tensor | None,
    *,
    gated: bool,
) -> None:
    """Fill in the gate's findings. The rules that need no model came first: they know better what a picture is."""
    gate = scorer.card.gate
    if gate is None:
        return
    logits = None if placements is None else placements.tolist()
    places = [place for place, content in enumerate(contents) if content.finding is None]
    if not gated:
        for place in places:
            placement = None if logits is None else logits[place]
            contents[place].is_judged = not choose_variants(distances[place], gate, placement)
        places = [place for place in places if contents[place].is_judged]

    def measure(variants: Tensor) -> list[float]:
        # No more at once than has just fitted into the memory.
        size = len(contents)
        batches = [scorer.infer_batch(variants[start : start + size]) for start in range(0, len(variants), size)]
        return [distance for batch in batches if batch.distances is not None for distance in batch.distances.tolist()]

    findings: list[Finding | None] = judge_scans(
        [tensors[place] for place in places],
        [distances[place] for place in places],
        None if logits is None else [logits[place] for place in places],
        spec=scorer.card.input,
        gate=gate,
        measure=measure,
    )
    for place, finding in zip(places, findings, strict=True):
        contents[place].finding = finding
