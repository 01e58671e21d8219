"""Speed of each stage alone on this machine, and the limit that follows from it.

Each stage is measured on all cores at once, by processes that share nothing: a core is slower beside busy neighbours.
The limit is the rate of decoding, preparing and inference alone: no arrangement of this decoder and runtime is faster.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from sqlalchemy import Engine

from db.due_jobs import take_due_jobs
from db.engine import reading, write
from db.job_results import NewPrediction, store_results
from db.jobs import claim_job, load_open_scans
from db.runs import close_finished_runs
from db.tallies import ScanOutcome
from db.types import ScanStatus
from nightread.errors import ScanError
from nightread.inference.batch_tuner import SIZES
from nightread.inference.scorer import Scorer, Scores
from nightread.model.bundle import Bundle, find_bundle, load_bundle
from nightread.scan.decode import read_scan
from nightread.scan.files import read_file
from nightread.scan.preprocessing import Tensor, decode_size_px, prepare
from nightread.scan.scan import Scan
from nightread.settings import Settings
from worker.runs.enqueue import write_run
from worker.runs.request import Request

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

#: In the order in which a scan passes through them; the limit consists of the stages that every scan needs.
STAGES: Final = ("read", "hash", "decode", "prepare", "infer", "commit")
LIMIT_STAGES: Final = ("decode", "prepare", "infer")
#: Stages that a second run over the same scans needs.
REUSE_STAGES: Final = ("read", "hash")

#: `read` and the stages of the limit scan by scan, as in a program without queue and database.
LOOP: Final = "loop"

#: Scans that pass through the stages together: enough for the largest batch, few enough for memory.
_CHUNK: Final = 32
#: Scans of each process before the measurement: libraries load, memory is mapped.
_WARM_UP: Final = 8
_LONGEST_S: Final = 3600.0
_MOST_JOBS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class StageTime:
    """Scans and seconds of one stage in one process."""

    scans: int
    seconds: float

    @property
    def rate(self) -> float:
        """Scans per second; 0 if nothing was measured."""
        return self.scans / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class StageRates:
    """Scans per second of each stage, all cores together.

    Attributes:
        rates: by stage.
        processes: that measured at once.
        batch_size: fastest batch size of inference.
        rejected: scans that could not be decoded, and were left out from there on.
        overlaps: whether inference runs on a device of its own, so that decoding overlaps with it.
    """

    rates: Mapping[str, float]
    processes: int
    batch_size: int
    rejected: int = 0
    overlaps: bool = False

    @property
    def limit(self) -> float:
        """Limit in scans per second: decoding, preparing and inference, and nothing else."""
        if self.overlaps:
            return min(combine(self.rates[stage] for stage in ("decode", "prepare")), self.rates["infer"])
        return combine(self.rates[stage] for stage in LIMIT_STAGES)

    @property
    def loop(self) -> float:
        """Scans per second of processes that read, decode, prepare and infer scan by scan; 0: not measured."""
        return self.rates.get(LOOP, 0.0)

    @property
    def reuse_limit(self) -> float:
        """Limit in scans per second of a run whose predictions are all stored: reading and hashing."""
        return combine(self.rates[stage] for stage in REUSE_STAGES)


def combine(rates: Iterable[float]) -> float:
    """Return the rate of a sequence of steps from the rate of each; 0 if one of them is 0."""
    rates = list(rates)
    return 1.0 / sum(1.0 / rate for rate in rates) if rates and all(rate > 0 for rate in rates) else 0.0


def take_medians(rounds: Sequence[StageRates]) -> StageRates:
    """Return the median of each stage over several rounds; other fields are those of the first round."""
    names = rounds[0].rates
    medians = {name: statistics.median(one.rates[name] for one in rounds) for name in names}
    return replace(rounds[0], rates=medians)


def measure_stages(paths: Sequence[Path], reference: str, settings: Settings, processes: int) -> StageRates:
    """Measure every stage but `commit`.

    Args:
        paths: files, shared between the processes; at least one for each.
        reference: NAME@VERSION of the bundle.
        settings: device, limits, batch size, folder of bundles.
        processes: to measure at once: one for each core that a run would use.

    Raises:
        ModelError: the bundle cannot be served here.
        ScanError: no scan can be decoded.
    """
    context = get_context("spawn")  # neither ONNX Runtime nor CUDA survives a fork
    meeting = context.Barrier(processes)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_keep_barrier, initargs=(meeting,)) as executor:
        shares = [list(map(str, paths[place::processes])) for place in range(processes)]
        measured = list(executor.map(_measure_share, shares, [reference] * processes, [settings] * processes))
    return add_up(measured, settings.batch_size)


@dataclass(frozen=True, slots=True)
class Measured:
    """Result of one process; `infer` has an entry for each batch size."""

    stages: Mapping[str, StageTime]
    infer: Mapping[int, StageTime]
    rejected: int
    device: str


def add_up(measured: Sequence[Measured], batch_size: int) -> StageRates:
    """Add up the rates of all processes, and choose the fastest batch size.

    All processes share a device other than the CPU, and it is measured with whole batches only.
    """
    rates = {stage: sum(one.stages[stage].rate for one in measured) for stage in measured[0].stages}
    infer = {size: sum(one.infer[size].rate for one in measured) for size in measured[0].infer}
    on_device = measured[0].device != "cpu"
    best = batch_size if on_device else max(infer, key=lambda size: infer[size])
    rates["infer"] = infer[best]
    return StageRates(rates, len(measured), best, sum(one.rejected for one in measured), overlaps=on_device)


_meeting: Barrier | None = None


def _keep_barrier(barrier: Barrier) -> None:
    global _meeting  # noqa: PLW0603  # a barrier can be passed to a process only at its start
    _meeting = barrier


def _measure_share(paths: list[str], reference: str, settings: Settings) -> Measured:
    bundle = load_bundle(find_bundle(reference, settings.models_dir))
    scorer = Scorer(bundle, settings.device, 1)
    stages, clock = _Stages(bundle, scorer, settings), _Clock()
    stages.measure(paths[:_WARM_UP], clock)
    clock.clear()
    if _meeting is not None:
        _meeting.wait(_LONGEST_S)
    rejected = stages.measure(paths, clock)
    stages.measure_loop(paths, clock)
    times = {stage: clock.read(stage) for stage in (*STAGES[:4], LOOP)}
    infer = {size: clock.read(f"infer {size}") for size in stages.batch_sizes}
    return Measured(times, infer, rejected, scorer.device)


class _Clock:
    """Adds up the seconds and scans of each stage."""

    def __init__(self) -> None:
        self._times: dict[str, StageTime] = {}

    def clear(self) -> None:
        self._times.clear()

    def time(
        self, stage: str, work: Callable[[list[_Item]], list[_Result]], items: list[_Item], scans: int | None = None
    ) -> list[_Result]:
        started = time.perf_counter()
        results = work(items)
        took_s = time.perf_counter() - started
        before = self.read(stage)
        self._times[stage] = StageTime(before.scans + (len(items) if scans is None else scans), before.seconds + took_s)
        return results

    def read(self, stage: str) -> StageTime:
        return self._times.get(stage, StageTime(0, 0.0))


class _Stages:
    """The stages in one process, each a function from a list to a list."""

    def __init__(self, bundle: Bundle, scorer: Scorer, settings: Settings) -> None:
        self._spec = bundle.card.input
        self._scorer = scorer
        self._settings = settings
        self.batch_sizes = sorted({*(min(size, settings.batch_size) for size in SIZES), settings.batch_size})

    def measure(self, paths: list[str], clock: _Clock) -> int:
        """Pass scans through all stages; return the number that could not be decoded."""
        rejected = 0
        for chunk in _split(paths, max(_CHUNK, self._settings.batch_size)):
            contents = clock.time("read", self._read, chunk)
            clock.time("hash", self._hash, contents)
            scans = clock.time("decode", self._decode, contents)
            rejected += len(contents) - len(scans)
            tensors = clock.time("prepare", self._prepare, scans)
            for size in self.batch_sizes:
                batches = [np.stack(part) for part in _split(tensors, size)]
                clock.time(f"infer {size}", self._infer, batches, scans=len(tensors))
        return rejected

    def measure_loop(self, paths: list[str], clock: _Clock) -> None:
        """Pass scans through one by one, and score them in batches of the smallest size."""
        for chunk in _split(paths, _CHUNK):
            clock.time(LOOP, self._go_through, chunk)

    def _go_through(self, paths: list[str]) -> list[Scores]:
        tensors = [tensor for path in paths for tensor in self._prepare(self._decode(self._read([path])))]
        return self._infer([np.stack(part) for part in _split(tensors, self.batch_sizes[0])])

    def _read(self, paths: list[str]) -> list[bytes]:
        most = self._settings.max_file_bytes
        return [read_file(path, roots=[Path("/")], max_bytes=most) for path in paths]

    @staticmethod
    def _hash(contents: list[bytes]) -> list[str]:
        return [hashlib.sha256(data).hexdigest() for data in contents]

    def _decode(self, contents: list[bytes]) -> list[Scan]:
        scans = []
        for data in contents:
            try:
                scans.append(
                    read_scan(data, max_pixels=self._settings.max_pixels, at_least_px=decode_size_px(self._spec))
                )
            except ScanError:  # counted by the caller
                continue
        return scans

    def _prepare(self, scans: list[Scan]) -> list[Tensor]:
        return [prepare(scan, self._spec) for scan in scans]

    def _infer(self, batches: list[Tensor]) -> list[Scores]:
        return [self._scorer.score_batch(batch) for batch in batches]


def _split(items: Sequence[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def measure_commit(engine: Engine, settings: Settings, bundle: Bundle, folder: Path) -> float:
    """Return scans per second of claiming jobs and committing their results.

    Args:
        engine: an empty database with tables, to be deleted afterwards: the results are invented.
        settings: job size and lease.
        bundle: model of the invented results.
        folder: scans whose rows are written.
    """
    run_id = write_run(engine, settings, bundle, [folder], Request(name="bench"), embedded=True).run_id
    job_ids = write(engine, lambda connection: take_due_jobs(connection, _MOST_JOBS, _LONGEST_S, run_id=run_id))
    started, committed = time.perf_counter(), 0
    for job_id in job_ids:
        committed += _commit_job(engine, settings, bundle, job_id)
    return StageTime(committed, time.perf_counter() - started).rate


def _commit_job(engine: Engine, settings: Settings, bundle: Bundle, job_id: str) -> int:
    claim = write(engine, lambda connection: claim_job(connection, job_id, "bench", settings.lease_s, embedded=True))
    if claim is None:
        raise AssertionError("no other process uses this database")
    with reading(engine) as connection:
        scans = load_open_scans(connection, job_id)
    digests = [hashlib.sha256(scan.path.encode()).hexdigest() for scan in scans]
    card = bundle.card
    outcomes = [ScanOutcome(scan.id, ScanStatus.SCORED, digest) for scan, digest in zip(scans, digests, strict=True)]
    predictions = [
        NewPrediction(
            sha256=digest, model_digest=bundle.digest, preprocessing=card.preprocessing_version, label=label, score=0.5,
            decision=decision, runtime="bench", provider="bench", device="cpu", batch_size=1, worker="bench",
        )
        for digest in digests
        for label, decision in zip(card.labels, card.decide((0.5,) * len(card.labels)), strict=True)
    ]  # fmt: skip
    write(engine, lambda connection: store_results(connection, claim, outcomes, predictions))
    write(engine, close_finished_runs)
    return len(scans)
