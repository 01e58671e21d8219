"""The way of a job's scans from file to score: read and hash, look up, decode and score, in overlapping steps.

Scans go through in windows of one batch. While a window is being decoded and scored, the next one is read on the same
threads (the decoders, the hash and the inference all release the GIL): as many of them as there are cores, each with
the next thing to do, never more. They are handed a few scans at once. On a CPU a thread scores what it has decoded; a
GPU gets each window as a whole, while the threads decode the next one.
"""

import hmac
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Engine

from db.contents import Stored, find_stored
from db.engine import reading
from db.job_results import JobStages, NewPrediction
from db.jobs import OpenScan
from db.measurements import NewMeasurement
from db.tables import REASON_TEXT_LENGTH
from db.tallies import ScanOutcome
from db.types import ScanStatus
from nightread.failpoints import Point, failpoint
from nightread.inference.batch_scorer import BatchScorer
from nightread.inference.batch_tuner import LARGEST_PART
from nightread.inference.content import Content, find_acquisition, read_content
from nightread.inference.scorer import Scorer
from nightread.model.card import Card
from nightread.model.gate import restore_finding
from nightread.reasons import Reason
from nightread.scan.acquisition import Acquisition
from nightread.scan.files import decode_path
from nightread.scan.path_map import PathMap
from nightread.scan.scan import Contradiction
from worker.decoder.decoder import Decoder, Decoding
from worker.decoder.thread_pool import Task

_Item = TypeVar("_Item")

#: Looks SHA-256 digests up; returns those with a prediction for each label, the gate's verdicts by digest, and the
#: brightness rules with contradictions by digest.
FindStored = Callable[[Sequence[str]], Stored]

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
        window_bytes: files that are read ahead at once; less in a container with little memory.
        gated: whether what the model's gate says is acted on; it is stored in any case.
        accession_key: secret key of the hash of accession numbers; none is stored where it is empty.
        archives: whether scans in archives are read.
        settle_s: seconds for which a file must not have changed.
        path_map: names of folders on this host.
    """

    roots: Sequence[Path]
    max_file_bytes: int
    batch_size: int
    scored_by_threads: bool = False
    window_bytes: int = _WINDOW_BYTES
    gated: bool = True
    accession_key: bytes = field(default=b"", repr=False)
    archives: bool = False
    settle_s: float = 0.0
    path_map: PathMap = field(default_factory=PathMap)


@dataclass(slots=True)
class JobResult:
    """What a job came to.

    Attributes:
        outcomes: terminal statuses.
        predictions: new ones.
        measurements: new ones, where the model has a gate.
        put_off: scans whose fault may pass, with its reason and text.
        stages: where the time went.
    """

    outcomes: list[ScanOutcome] = field(default_factory=list)
    predictions: list[NewPrediction] = field(default_factory=list)
    measurements: list[NewMeasurement] = field(default_factory=list)
    put_off: list[tuple[OpenScan, Reason, str]] = field(default_factory=list)
    stages: JobStages = field(default_factory=JobStages)


def find_under(engine: Engine, model_digest: str, card: Card) -> FindStored:
    """Return the function that looks contents up under one model, in one short transaction each time.

    Raises (when called):
        DatabaseUnavailable: the database does not answer.
    """
    preprocessing = card.preprocessing_version

    def find(digests: Sequence[str]) -> Stored:
        with reading(engine) as connection:
            return find_stored(connection, digests, model_digest, preprocessing, len(card.labels))

    return find


@dataclass(frozen=True, slots=True)
class _Window:
    """The scans of one batch with their contents, of which the new ones are being decoded, a few at a time."""

    scans: Sequence[tuple[OpenScan, Content]]
    new: Sequence[Content]
    parts: Sequence[Decoding]


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
    is_stopping: Callable[[], bool] = lambda: False,
) -> JobResult:
    """Score a job's scans; touches files and the model, and the database only to find what is stored already.

    Args:
        open_scans: scans to score.
        scorer: the run's model.
        limits: see `Limits`.
        decoder: reads and decodes.
        find_stored: looks up what is stored already of some contents.
        check_lease: is called once a window; raises where the job is no longer this worker's.
        worker: name of this worker, for the stored rows.
        isolated: decode in the sandbox, since one of these scans may have crashed a worker.
        is_stopping: is called once a window; if it is true, the scans from there on are left out of the result.

    Raises:
        LeaseLost: from `check_lease`.
        DeviceFull: the device has not even the memory for one scan.
    """
    pipeline = _Pipeline(scorer, limits, decoder, find_stored, worker=worker, isolated=isolated)
    before: _Window | None = None
    for scans in pipeline.read_ahead(open_scans):
        check_lease()
        if is_stopping():
            break
        failpoint(Point.WORKER_AFTER_READ, MemoryError)
        # The threads never run dry: what they do next is submitted before anything is waited for.
        window = pipeline.start(scans)
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
        self._worker = worker
        self._isolated = isolated
        self._batches = BatchScorer(scorer, limits.batch_size, gated=limits.gated)
        self._contents: dict[str, Content] = {}  # of this job, by digest
        self._brightness: dict[str, tuple[str, str | None]] = {}  # of contents that are not decoded again, by digest
        self.result = JobResult()

    def read_ahead(self, open_scans: Sequence[OpenScan]) -> Iterator[list[tuple[OpenScan, Content]]]:
        """Yield windows of scans with their files' contents; the next window is always being read meanwhile.

        Files that have grown since they were listed are read last, in windows for the size that they have by then: a
        folder that is still being written must not fill the memory.
        """
        grown: list[OpenScan] = []
        for window in self._read_windows(open_scans):
            grown += [replace(scan, size_bytes=content.grown_bytes) for scan, content in window if content.grown_bytes]
            yield [(scan, content) for scan, content in window if not content.grown_bytes]
        yield from self._read_windows(grown)

    def _read_windows(self, open_scans: Sequence[OpenScan]) -> Iterator[list[tuple[OpenScan, Content]]]:
        limits = self._limits
        # Small files may grow a little at once: together by no more than another window.
        window_bytes = min(_WINDOW_BYTES, limits.window_bytes)
        share_bytes = window_bytes // limits.batch_size
        reading: list[Task[list[tuple[OpenScan, Content]]]] = []
        for window in split_windows(open_scans, limits.batch_size, window_bytes):
            upcoming = [self._decoder.submit(_read, part, limits, share_bytes) for part in self._divide(window)]
            if reading:
                yield [scan for task in reading for scan in task.result()]
            reading = upcoming
        if reading:
            yield [scan for task in reading for scan in task.result()]

    def start(self, read: Sequence[tuple[OpenScan, Content]]) -> _Window:
        """Look up which contents are predicted already, and put the others on the threads, each once."""
        scans, fresh = self._unite(read)
        digests = sorted(content.sha256 for content in fresh)
        predicted, verdicts, brightness = self._find_stored(digests) if fresh else Stored(set(), {}, {})
        self._brightness.update(brightness)
        new: list[Content] = []
        scored: list[Content] = []
        card, gated = self._scorer.card, self._limits.gated and self._scorer.card.gate is not None
        for content in fresh:
            verdict = verdicts.get(content.sha256) if gated else None
            if verdict is not None and (finding := restore_finding(verdict)) is not None:
                content.acquisition = find_acquisition(content.data)
                _, contradictions = brightness.get(content.sha256, (None, None))
                noted = (contradictions or "").split()
                content.contradictions = frozenset(one for one in Contradiction if one in noted)
                content.reject(finding)
            elif content.sha256 not in predicted or (gated and verdict is None):  # scored with the gate off: not judged
                new.append(content)
            else:
                scored.append(content)
        finish = self._batches.score_part if self._limits.scored_by_threads else self._batches.measure
        parts = [
            self._decoder.start(part, card.input, card.gate, finish, isolated=self._isolated)
            for part in self._divide(new)
        ]
        for content in scored:
            content.acquisition, content.data = find_acquisition(content.data), b""
        return _Window(scans, new, parts)

    def _unite(self, read: Sequence[tuple[OpenScan, Content]]) -> tuple[list[tuple[OpenScan, Content]], list[Content]]:
        """Give scans of one content one record; also returns the contents that this job has not come across before."""
        scans, fresh = [], []
        for scan, content in read:
            self.result.stages.add(content.stage_s)
            content.stage_s = {}
            known = self._contents.setdefault(content.sha256, content) if content.sha256 else content
            if known is not content:
                content.data = b""
            elif content.sha256:
                fresh.append(content)
            scans.append((scan, known))
        return scans, fresh

    def _divide(self, items: list[_Item]) -> Iterator[list[_Item]]:
        """Yield the parts that a thread does at once: large, but enough of them to keep every thread busy."""
        size = min(LARGEST_PART, math.ceil(len(items) / self._decoder.threads))
        for start in range(0, len(items), size or 1):
            yield items[start : start + size]

    def end(self, window: _Window) -> None:
        """Wait for the scores of a window, and write down the outcome of each of its scans."""
        for part in window.parts:
            if (full := self._decoder.wait(part)) is not None:
                self._batches.reduce(part.contents, full)
        self._batches.score_rest(window.new)
        for content in window.new:
            self._keep(content)
        unseen = {content.sha256 for content in window.new}
        for scan, content in window.scans:
            self._end(scan, content, reused=content.sha256 not in unseen)
            unseen.discard(content.sha256)

    def _keep(self, content: Content) -> None:
        """Keep the predictions, measurements and seconds of a content."""
        self.result.stages.add(content.stage_s, content.batch_size)
        card, scorer = self._scorer.card, self._scorer
        if content.statistics is not None and content.reason is not Reason.INVALID_SCORE:
            self.result.measurements.append(
                NewMeasurement(
                    content.sha256, scorer.digest, card.preprocessing_version, content.verdict, content.distance,
                    content.components, *astuple(content.statistics),
                )
            )  # fmt: skip
        if content.scores:
            self.result.predictions.extend(
                NewPrediction(
                    sha256=content.sha256, model_digest=scorer.digest, preprocessing=card.preprocessing_version,
                    label=label, score=score, decision=decision, runtime=scorer.runtime, provider=scorer.provider,
                    device=scorer.device, batch_size=content.batch_size, worker=self._worker,
                )
                for label, score, decision in zip(
                    card.labels, content.scores, card.decide(content.scores), strict=True
                )
            )  # fmt: skip

    def _end(self, scan: OpenScan, content: Content, *, reused: bool) -> None:
        if content.reason is None:
            outcome = ScanOutcome(scan.id, ScanStatus.SCORED, content.sha256, reused=reused, **self._describe(content))
        elif content.sha256 or content.reason.is_rejection or content.is_lasting:
            outcome = end_without_score(scan, content.reason, content.text, content.sha256 or None)
            outcome = replace(outcome, **self._describe(content))
        else:  # the storage is at fault, perhaps for a moment
            self.result.put_off.append((scan, content.reason, content.text))
            return
        self.result.outcomes.append(outcome)

    def _describe(self, content: Content) -> dict[str, Any]:
        """Return what is stored with a scan of its acquisition and brightness, by field of `ScanOutcome`."""
        rule, contradictions = self._brightness.get(content.sha256, (None, None))
        if content.rule is not None:
            rule, contradictions = content.rule.value, " ".join(sorted(content.contradictions)) or None
        found = content.acquisition or Acquisition()
        key, accession = self._limits.accession_key, found.accession
        is_hashed = bool(key) and accession is not None
        return {
            "study_uid": found.study, "series_uid": found.series, "instance_uid": found.instance,
            "body_part": found.body_part, "view_position": found.view_position, "laterality": found.laterality,
            # In the form in which SQLite compares times as text.
            "acquired_at": found.acquired_at and f"{found.acquired_at.replace('T', ' ')}.000000",
            "manufacturer": found.manufacturer, "station": found.station,
            "accession_hash": hmac.digest(key, (accession or "").encode(), "sha256").hex() if is_hashed else None,
            "brightness_rule": rule, "contradictions": contradictions,
        }  # fmt: skip


def _read(scans: Sequence[OpenScan], limits: Limits, share_bytes: int) -> list[tuple[OpenScan, Content]]:
    """Read scans that are no larger than listed, or than their share of a window."""
    return [(scan, _read_one(scan, limits, max(scan.size_bytes, share_bytes))) for scan in scans]


def _read_one(scan: OpenScan, limits: Limits, expected_bytes: int) -> Content:
    path = limits.path_map.to_local(decode_path(scan.path))
    content = read_content(
        path, limits.roots, limits.max_file_bytes, expected_bytes, archives=limits.archives, settle_s=limits.settle_s
    )
    # A row of the folder walk that is not what it was: rejected, the scans behind it would be lost without a word.
    if content.reason is Reason.EMPTY_FILE and scan.size_bytes:
        content.end(Reason.STILL_CHANGING, "the file is empty, and was not when it was listed")
    elif content.reason is Reason.NOT_A_FILE and Path(path).is_dir():
        content.end(
            Reason.STORAGE_ERROR,
            "a folder, which could not be listed, or took the place of a file; run it again, with --only-new",
        )
        content.is_lasting = True
    return content


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
