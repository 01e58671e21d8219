"""The way of a job's scans from file to score: read and hash, look up, decode and prepare, score, in overlapping steps.

Scans go through in windows of one batch. While a window is being decoded and scored, the next one is read on the same
threads (the decoders, the hash and the inference all release the GIL): as many of them as there are cores, each with
the next thing to do, never more. They are handed a few scans at once. On a CPU a thread scores what it has decoded; a
GPU gets each window as a whole, while the threads decode the next one.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from db.job_results import NewPrediction, ScanOutcome
from db.jobs import OpenScan
from db.measurements import NewMeasurement
from db.tables import REASON_TEXT_LENGTH
from db.types import ScanStatus
from nightread.errors import DeviceFull, StorageError
from nightread.failpoints import Point, failpoint
from nightread.inference.batch_tuner import LARGEST_PART
from nightread.inference.scorer import Judged, Judgement, Scorer, judge_scans
from nightread.model.gate import PASSED, Finding, recall
from nightread.reasons import Reason
from nightread.scan.pixel_statistics import Statistics
from nightread.scan.preprocessing import Tensor
from nightread.scan.scan import DicomUids
from worker.decoder.decoder import Contents, Decoder, Decoding
from worker.decoder.prepared import Prepared
from worker.decoder.thread_pool import Task
from worker.jobs.scan_files import ScanFile, find_uids, read_scan_files
from worker.jobs.stored import FindStored, Stored


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


_log = logging.getLogger(__name__)

_Item = TypeVar("_Item")

#: A window ends early where its files are large, so that a job's memory does not grow with them.
_WINDOW_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the reading and scoring of one job.

    Attributes:
        roots: folders below which scans may be read.
        max_file_bytes: the largest file that is read.
        batch_size: the most scans that are scored together.
        scored_by_threads: whether each part of a batch is scored by the thread that has decoded it; else a batch is
            scored as a whole by the caller, as a GPU wants it.
        gated: whether what the model's gate says is acted on; it is stored in any case.
    """

    roots: Sequence[Path]
    max_file_bytes: int
    batch_size: int
    scored_by_threads: bool = False
    gated: bool = True


@dataclass(slots=True)
class JobResult:
    """What a job came to.

    Attributes:
        outcomes: terminal statuses.
        predictions: new ones.
        measurements: new ones, where the model has a gate.
        put_off: scans whose fault may pass, with its reason and text.
    """

    outcomes: list[ScanOutcome] = field(default_factory=list)
    predictions: list[NewPrediction] = field(default_factory=list)
    measurements: list[NewMeasurement] = field(default_factory=list)
    put_off: list[tuple[OpenScan, Reason, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Ending:
    """What becomes of a content that is not `scored` with a prediction of before: why not, or its UIDs."""

    uids: DicomUids | None = None
    reason: Reason | None = None
    text: str = ""


#: What is said of those of some prepared scans that are scored, batch by batch; or why they could not be, all at once;
#: None where that is still to be asked.
_Scored = list[Judged] | DeviceFull | None


@dataclass(frozen=True, slots=True)
class _Window:
    """Files of one batch, with the decoding of each new content under way, some of them together."""

    files: list[ScanFile]
    known: set[str]
    parts: list[tuple[list[str], Decoding[_Scored]]]


def score_scans(
    open_scans: Sequence[OpenScan],
    scorer: Scorer,
    limits: Limits,
    *,
    decoder: Decoder,
    find_stored: FindStored,
    check_lease: Callable[[], None],
    worker: str,
    isolated: bool = False,
) -> JobResult:
    """Score a job's scans; touches files and the model, and the database only to find what is stored already.

    Args:
        open_scans: what is to be scored.
        scorer: the run's model.
        limits: see `Limits`.
        decoder: reads and decodes.
        find_stored: looks up what is stored already of some contents.
        check_lease: is called once a window; raises where the job is no longer ours.
        worker: who scores, for the stored rows.
        isolated: decode in processes that may die, since one of these scans may be the death of them.

    Raises:
        LeaseLost: from `check_lease`.
        DeviceFull: the device has not even the memory for one scan.
    """
    pipeline = _Pipeline(scorer, limits, decoder, find_stored, worker=worker, isolated=isolated)
    before: _Window | None = None
    for files in pipeline.read_ahead(open_scans):
        check_lease()
        failpoint(Point.WORKER_AFTER_READ, MemoryError)
        # The threads never run dry: what they do next is submitted before anything is waited for.
        window = pipeline.start(files)
        if before is not None:
            pipeline.end(before)
        before = window
    if before is not None:
        pipeline.end(before)
    return pipeline.result


class _Pipeline:
    def __init__(
        self,
        scorer: Scorer,
        limits: Limits,
        decoder: Decoder,
        find_stored: FindStored,
        *,
        worker: str,
        isolated: bool,
    ) -> None:
        self._scorer = scorer
        self._limits = limits
        self._decoder = decoder
        self._find_stored = find_stored
        self._gate = scorer.card.gate
        self._worker = worker
        self._isolated = isolated
        self._most = limits.batch_size  # scans in one batch, fewer once the device was found full
        self._endings: dict[str, _Ending] = {}  # of this job's contents, by digest
        self._started: set[str] = set()  # contents that are, or have been, decoded by this job
        self.result = JobResult()

    def read_ahead(self, open_scans: Sequence[OpenScan]) -> Iterator[list[ScanFile]]:
        """Yield windows of read files, the next one always being read meanwhile."""
        roots, max_bytes = self._limits.roots, self._limits.max_file_bytes
        reading: list[Task[list[ScanFile]]] = []
        for window in split_windows(open_scans, self._limits.batch_size, _WINDOW_BYTES):
            upcoming = [self._decoder.submit(read_scan_files, part, roots, max_bytes) for part in self._divide(window)]
            if reading:
                yield [file for task in reading for file in task.result()]
            reading = upcoming
        if reading:
            yield [file for task in reading for file in task.result()]

    def start(self, files: list[ScanFile]) -> _Window:
        """Look up which contents are predicted already, and put the others on the threads, each once."""
        contents = {file.sha256: file.data for file in files if file.error is None and file.sha256 not in self._started}
        stored = self._find_stored(sorted(contents)) if contents else Stored()
        recalled = self._recall(stored.verdicts)
        for sha256, finding in recalled.items():
            self._endings[sha256] = _Ending(reason=finding.reason, text=finding.text)
        known = stored.predicted - recalled.keys()
        new = [sha256 for sha256 in contents if sha256 not in known and sha256 not in recalled]
        finish = self._score_prepared if self._limits.scored_by_threads else _leave
        parts = [
            (
                part,
                self._decoder.start(
                    Contents([contents[sha256] for sha256 in part], self._scorer.card.input, self._gate, finish),
                    isolated=self._isolated,
                ),
            )
            for part in self._divide(new)
        ]
        self._started.update(new, recalled)
        return _Window(files, known, parts)

    def _recall(self, verdicts: Mapping[str, str]) -> dict[str, Finding]:
        """Return why the gate has rejected those contents before which it has; nothing where it is not acted on."""
        if not self._limits.gated:
            return {}
        findings = {sha256: recall(verdict) for sha256, verdict in verdicts.items()}
        return {sha256: finding for sha256, finding in findings.items() if finding is not None}

    def _divide(self, items: list[_Item]) -> Iterator[list[_Item]]:
        """Yield the parts that a thread does at once: large, but enough of them to keep every thread busy."""
        size = min(LARGEST_PART, math.ceil(len(items) / self._decoder.threads))
        for start in range(0, len(items), size or 1):
            yield items[start : start + size]

    def end(self, window: _Window) -> None:
        """Take the scores of a window, and write down the outcome of each of its files."""
        left: list[tuple[str, Prepared]] = []
        first_seen = set()
        for digests, decoding in window.parts:
            prepared, scored = self._decoder.finish(decoding)
            first_seen.update(digests)
            to_score = list(self._take(zip(digests, prepared, strict=True)))
            if isinstance(scored, DeviceFull):
                self._reduce(len(to_score), scored)
            if isinstance(scored, list):
                self._keep_batches(to_score, scored)
            else:
                left += to_score
        self._score_rest(left)
        for file in window.files:
            self._end(file, window.known, is_first=file.sha256 in first_seen)
            first_seen.discard(file.sha256)

    def _take(self, contents: Iterable[tuple[str, Prepared]]) -> Iterator[tuple[str, Prepared]]:
        """Note how prepared contents end as far as it is known; yields those that are scored."""
        for sha256, prepared in contents:
            self._endings[sha256] = _Ending(prepared.uids, prepared.reason, prepared.text)
            if self._is_to_score(prepared):
                yield sha256, prepared
            elif prepared.tensor is not None:
                self._measure(sha256, prepared, Judgement())

    def _is_to_score(self, prepared: Prepared) -> bool:
        return prepared.tensor is not None and (prepared.finding is None or not self._limits.gated)

    def _score_prepared(self, prepared: Sequence[Prepared]) -> _Scored:
        """Score what a thread has decoded, on that thread, in as many batches as is fastest here."""
        tensors = [one.tensor for one in prepared if one.tensor is not None and self._is_to_score(one)]
        tuner, batches, start = self._scorer.tuner, [], 0
        try:
            while start < len(tensors):
                batch = tensors[start : start + tuner.choose(len(tensors) - start)]
                began = time.thread_time()
                batches.append(self._score(batch))
                tuner.note(len(batch), time.thread_time() - began)
                start += len(batch)
        except DeviceFull as error:
            return error
        return batches

    def _score_rest(self, contents: Sequence[tuple[str, Prepared]]) -> None:
        """Score here what no thread has: a whole window as a GPU wants it, or what did not fit, in smaller parts.

        Raises:
            DeviceFull: not even one scan fits.
        """
        start = 0
        while start < len(contents):
            part = contents[start : start + self._most]
            try:
                judged = self._score([prepared.tensor for _, prepared in part if prepared.tensor is not None])
            except DeviceFull as error:
                self._reduce(len(part), error)
                continue
            self._keep(part, judged)
            start += len(part)

    def _keep_batches(self, contents: Sequence[tuple[str, Prepared]], batches: Sequence[Judged]) -> None:
        start = 0
        for judged in batches:
            end = start + len(judged.judgements)
            self._keep(contents[start:end], judged)
            start = end

    def _measure(self, sha256: str, prepared: Prepared, judgement: Judgement) -> bool:
        """Keep what a content measures; returns whether it is to be scored.

        The rules that need no model go first: they know better what a picture is.
        """
        if prepared.statistics is None:
            return True
        finding = prepared.finding or judgement.finding
        new = make_measurement(self._scorer, sha256, prepared.statistics, judgement, finding)
        self.result.measurements.append(new)
        if finding is None or not self._limits.gated:
            return True
        self._endings[sha256] = _Ending(prepared.uids, finding.reason, finding.text)
        return False

    def _keep(self, contents: Sequence[tuple[str, Prepared]], judged: Judged) -> None:
        """Keep the predictions of contents, and note which of their scores are invalid."""
        card, scorer = self._scorer.card, self._scorer
        scores: list[list[float]] = judged.scores.tolist()
        for (sha256, prepared), values, judgement in zip(contents, scores, judged.judgements, strict=True):
            if not all(0.0 <= value <= 1.0 for value in values):  # also where one is not a number
                text = "the model returned a score that is no number in [0, 1]"
                self._endings[sha256] = _Ending(prepared.uids, Reason.INVALID_SCORE, text)
                continue
            if not self._measure(sha256, prepared, judgement):
                continue
            self.result.predictions.extend(
                NewPrediction(
                    sha256=sha256, model_digest=scorer.digest, preprocessing=card.preprocessing_version, label=label,
                    score=value, decision=decision, runtime=scorer.runtime, provider=scorer.provider,
                    device=scorer.device, batch_size=len(scores), worker=self._worker,
                )
                for label, value, decision in zip(card.labels, values, card.decide(values), strict=True)
            )  # fmt: skip

    def _score(self, tensors: list[Tensor]) -> Judged:
        failpoint(Point.WORKER_BEFORE_SCORING, DeviceFull)
        judged = judge_scans(self._scorer, tensors)
        failpoint(Point.WORKER_AFTER_SCORING, DeviceFull)
        return judged

    def _reduce(self, count: int, error: DeviceFull) -> None:
        """Go on with smaller batches after one of `count` scans did not fit.

        Raises:
            DeviceFull: it was a single scan.
        """
        if count == 1:
            raise error
        self._most = min(self._most, count // 2)
        _log.warning("%s; going on with %d", error, self._most)

    def _end(self, file: ScanFile, known: set[str], *, is_first: bool) -> None:
        if isinstance(file.error, StorageError):
            self.result.put_off.append((file.scan, file.error.reason, str(file.error)))
        elif file.error is not None:
            self.result.outcomes.append(end_without_score(file.scan, file.error.reason, str(file.error)))
        elif file.sha256 in known:
            self.result.outcomes.append(_end_scored(file, find_uids(file.data), reused=True))
        else:
            ending = self._endings[file.sha256]
            if ending.reason is not None:
                outcome = end_without_score(file.scan, ending.reason, ending.text, file.sha256)
            else:
                outcome = _end_scored(file, ending.uids, reused=not is_first)
            self.result.outcomes.append(outcome)


def _leave(_: Sequence[Prepared]) -> None:
    """Score nothing on the thread that has decoded: the device wants a whole batch."""


def _end_scored(file: ScanFile, uids: DicomUids | None, *, reused: bool) -> ScanOutcome:
    study, series, instance = (None, None, None) if uids is None else (uids.study, uids.series, uids.instance)
    return ScanOutcome(
        file.scan.id, ScanStatus.SCORED, file.sha256, reused=reused, study_uid=study, series_uid=series,
        instance_uid=instance,
    )  # fmt: skip


def split_windows(open_scans: Sequence[OpenScan], batch_size: int, max_bytes: int) -> Iterator[list[OpenScan]]:
    """Yield consecutive scans, at most `batch_size` of them and, from the second on, at most `max_bytes` together."""
    window: list[OpenScan] = []
    size_bytes = 0
    for scan in open_scans:
        if window and (len(window) == batch_size or size_bytes + scan.size_bytes > max_bytes):
            yield window
            window, size_bytes = [], 0
        window.append(scan)
        size_bytes += scan.size_bytes
    if window:
        yield window


def end_without_score(scan: OpenScan, reason: Reason, text: str, sha256: str | None = None) -> ScanOutcome:
    """Return the terminal status that a reason stands for."""
    status = ScanStatus.REJECTED if reason.is_rejection else ScanStatus.FAILED
    return ScanOutcome(scan.id, status, sha256, reason_code=reason.value, reason_text=text[:REASON_TEXT_LENGTH])
