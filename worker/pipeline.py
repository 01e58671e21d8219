"""The way of a job's scans from file to score: read and hash, look up, decode and prepare, score, in overlapping steps.

Scans go through in windows of one batch. While a window is being scored, the next one is decoded on threads (the
decoders, the hash and the inference all release the GIL) and the one after that is read. On a CPU the scoring, too, is
work for the same threads: as many of them as there are cores, each with the next thing to do, never more.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from db.jobs import NewPrediction, OpenScan, ScanOutcome
from db.measuring import NewMeasurement
from db.tables import REASON_TEXT_LENGTH
from db.types import ScanStatus
from failpoints.points import Point, failpoint
from nightread.errors import DeviceFull, StorageError
from nightread.gate import Finding, recall
from nightread.preparing import Tensor
from nightread.reading import DicomUids
from nightread.reasons import Reason
from worker.decoder import Decoder, Decoding
from worker.decoding import Prepared
from worker.judging import Judged, Judgement, judge_scans, make_measurement
from worker.scan_files import ScanFile, find_uids, read_scan_file
from worker.scorer import Scorer
from worker.threads import Task

_log = logging.getLogger(__name__)

#: A window ends early where its files are large, so that a job's memory does not grow with them.
_WINDOW_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the reading and scoring of one job.

    Attributes:
        roots: folders below which scans may be read.
        max_file_bytes: the largest file that is read.
        batch_size: the most scans that are scored together.
        micro_batch: where not 0, a batch is divided into parts of at most so many scans, which the decoder's threads
            score side by side; else it is scored as a whole by the caller, as a GPU wants it.
        gated: whether what the model's gate says is acted on; it is stored in any case.
    """

    roots: Sequence[Path]
    max_file_bytes: int
    batch_size: int
    micro_batch: int = 0
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
class _Window:
    """Files of one batch, with the decoding of each new content under way."""

    files: list[ScanFile]
    known: set[str]
    decoding: dict[str, Decoding]


#: Prepared scans that are scored together, by digest, and what is said of them, which may still be under way.
_Part = tuple[dict[str, Tensor], Task[Judged] | None]


@dataclass(frozen=True, slots=True)
class _Scoring:
    """A window that is decoded, with its scoring under way."""

    files: list[ScanFile]
    known: set[str]
    contents: set[str]
    parts: list[_Part]


def score_scans(
    open_scans: Sequence[OpenScan],
    scorer: Scorer,
    limits: Limits,
    *,
    decoder: Decoder,
    find_predicted: Callable[[Sequence[str]], set[str]],
    find_verdicts: Callable[[Sequence[str]], dict[str, str]],
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
        find_predicted: returns those of some SHA-256 digests that are predicted already.
        find_verdicts: returns what the gate has said of those that it has seen.
        check_lease: is called once a window; raises where the job is no longer ours.
        worker: who scores, for the stored rows.
        isolated: decode in processes that may die, since one of these scans may be the death of them.

    Raises:
        LeaseLost: from `check_lease`.
        DeviceFull: the device has not even the memory for one scan.
    """
    pipeline = _Pipeline(scorer, limits, decoder, find_predicted, find_verdicts, worker=worker, isolated=isolated)
    decoding: _Window | None = None
    scoring: _Scoring | None = None
    for files in pipeline.read_ahead(open_scans):
        check_lease()
        failpoint(Point.WORKER_AFTER_READ, MemoryError)
        window = pipeline.start_decoding(files)
        # The threads never run dry: what they decode or score next is submitted before anything is waited for.
        following = None if decoding is None else pipeline.start_scoring(decoding)
        if scoring is not None:
            pipeline.end(scoring)
        decoding, scoring = window, following
    if decoding is not None:
        following = pipeline.start_scoring(decoding)
        if scoring is not None:
            pipeline.end(scoring)
        pipeline.end(following)
    return pipeline.result


class _Pipeline:
    def __init__(
        self,
        scorer: Scorer,
        limits: Limits,
        decoder: Decoder,
        find_predicted: Callable[[Sequence[str]], set[str]],
        find_verdicts: Callable[[Sequence[str]], dict[str, str]],
        *,
        worker: str,
        isolated: bool,
    ) -> None:
        self._scorer = scorer
        self._limits = limits
        self._decoder = decoder
        self._find_predicted = find_predicted
        self._find_verdicts = find_verdicts
        self._gate = scorer.card.gate
        self._worker = worker
        self._isolated = isolated
        self._most = limits.batch_size  # scans in one batch, fewer once the device was found full
        self._contents: dict[str, Prepared] = {}  # of this job, without their tensors
        self._started: set[str] = set()  # contents that are, or have been, decoded by this job
        self.result = JobResult()

    def read_ahead(self, open_scans: Sequence[OpenScan]) -> Iterator[list[ScanFile]]:
        """Yield windows of read files, the next one always being read meanwhile."""
        roots, max_bytes = self._limits.roots, self._limits.max_file_bytes
        reading: list[Task[ScanFile]] = []
        for window in split_windows(open_scans, self._limits.batch_size, _WINDOW_BYTES):
            upcoming = [self._decoder.submit(read_scan_file, scan, roots, max_bytes) for scan in window]
            if reading:
                yield [future.result() for future in reading]
            reading = upcoming
        if reading:
            yield [future.result() for future in reading]

    def start_decoding(self, files: list[ScanFile]) -> _Window:
        """Look up which contents are predicted already, and put the others on the threads, each once."""
        contents = {file.sha256: file.data for file in files if file.error is None and file.sha256 not in self._started}
        recalled = self._recall(sorted(contents)) if contents else {}
        for sha256, finding in recalled.items():
            self._contents[sha256] = Prepared(None, None, finding.reason, finding.text)
        wanted = sorted(contents.keys() - recalled.keys())
        known = self._find_predicted(wanted) if wanted else set()
        decoding = {
            sha256: self._decoder.start(data, self._scorer.card.input, isolated=self._isolated, gate=self._gate)
            for sha256, data in contents.items()
            if sha256 not in known and sha256 not in recalled
        }
        self._started.update(decoding, recalled)
        return _Window(files, known, decoding)

    def _recall(self, digests: list[str]) -> dict[str, Finding]:
        """Return why the gate has rejected those contents before which it has; nothing where it is not acted on."""
        if self._gate is None or not self._limits.gated:
            return {}
        findings = {sha256: recall(verdict) for sha256, verdict in self._find_verdicts(digests).items()}
        return {sha256: finding for sha256, finding in findings.items() if finding is not None}

    def start_scoring(self, window: _Window) -> _Scoring:
        """Take what a window has decoded, and have it scored: in parts on the threads, or as a whole by `end`."""
        prepared = {sha256: self._decoder.finish(decoding) for sha256, decoding in window.decoding.items()}
        tensors = {}
        for sha256, content in prepared.items():
            self._contents[sha256] = replace(content, tensor=None)  # what is kept until the job's end
            if content.finding is not None and self._limits.gated:
                self._measure(sha256, Judgement())
            elif content.tensor is not None:
                tensors[sha256] = content.tensor
        parts: list[_Part] = []
        for part in self._divide(tensors):
            task = self._decoder.submit(self._score, list(part.values())) if self._limits.micro_batch else None
            parts.append((part, task))
        # Of the bytes only those are needed any more whose UIDs were not read with their pixels.
        files = [file if file.sha256 in window.known else replace(file, data=b"") for file in window.files]
        return _Scoring(files, window.known, set(prepared), parts)

    def _divide(self, tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield the parts of a batch that are scored at once: all of it, or enough parts to keep every thread busy."""
        size = self._limits.batch_size
        if self._limits.micro_batch:
            size = min(size, self._limits.micro_batch, math.ceil(len(tensors) / self._decoder.threads))
        pairs = list(tensors.items())
        for start in range(0, len(pairs), size or 1):
            yield dict(pairs[start : start + size])

    def end(self, scoring: _Scoring) -> None:
        """Take the scores of a window, and write down the outcome of each of its files."""
        for part, task in scoring.parts:
            self._keep(part, task)
        first_seen = set(scoring.contents)
        for file in scoring.files:
            self._end(file, scoring.known, is_first=file.sha256 in first_seen)
            first_seen.discard(file.sha256)

    def _measure(self, sha256: str, judgement: Judgement) -> bool:
        """Keep what a content measures; returns whether it is to be scored.

        The rules that need no model go first: they know better what a picture is.
        """
        content = self._contents[sha256]
        if content.statistics is None:
            return True
        finding = content.finding or judgement.finding
        new = make_measurement(self._scorer, sha256, content.statistics, judgement, finding)
        self.result.measurements.append(new)
        if finding is None or not self._limits.gated:
            return True
        self._contents[sha256] = replace(content, reason=finding.reason, text=finding.text)
        return False

    def _keep(self, part: dict[str, Tensor], task: Task[Judged] | None) -> None:
        """Keep the predictions of contents, and note which of their scores are invalid."""
        card = self._scorer.card
        digests = list(part)
        for start, judged in self._collect(list(part.values()), task):
            scores = judged.scores
            judgements = zip(digests[start : start + len(scores)], scores, judged.judgements, strict=True)
            for sha256, row, judgement in judgements:
                values = tuple(float(score) for score in row)
                if not all(0.0 <= value <= 1.0 for value in values):  # also where one is not a number
                    text = "the model returned a score that is no number in [0, 1]"
                    self._contents[sha256] = replace(self._contents[sha256], reason=Reason.INVALID_SCORE, text=text)
                    continue
                if not self._measure(sha256, judgement):
                    continue
                decisions = card.decide(values)
                self.result.predictions.extend(
                    NewPrediction(
                        sha256=sha256, model_digest=self._scorer.digest, preprocessing=card.preprocessing_version,
                        label=label, score=value, decision=decision, runtime=self._scorer.runtime,
                        provider=self._scorer.provider, device=self._scorer.device, batch_size=len(scores),
                        worker=self._worker,
                    )
                    for label, value, decision in zip(card.labels, values, decisions, strict=True)
                )  # fmt: skip

    def _collect(self, tensors: list[Tensor], task: Task[Judged] | None) -> Iterator[tuple[int, Judged]]:
        """Yield (place of the first, scores) of a part as it was scored, or of what did not fit, in smaller parts."""
        if task is not None:
            try:
                judged = task.result()
            except DeviceFull as error:
                self._reduce(len(tensors), error)
            else:
                yield 0, judged
                return
        start = 0
        while start < len(tensors):
            part = tensors[start : start + self._most]
            try:
                judged = self._score(part)
            except DeviceFull as error:
                self._reduce(len(part), error)
                continue
            yield start, judged
            start += len(part)

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
            content = self._contents[file.sha256]
            if content.reason is not None:
                outcome = end_without_score(file.scan, content.reason, content.text, file.sha256)
            else:
                outcome = _end_scored(file, content.uids, reused=not is_first)
            self.result.outcomes.append(outcome)


def _end_scored(file: ScanFile, uids: DicomUids | None, *, reused: bool) -> ScanOutcome:
    outcome = ScanOutcome(file.scan.id, ScanStatus.SCORED, file.sha256, reused=reused)
    if uids is None:
        return outcome
    return replace(outcome, study_uid=uids.study, series_uid=uids.series, instance_uid=uids.instance)


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
