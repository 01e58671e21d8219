"""Played workers: threads that do a worker's transactions, without files or a model, and what these cost a server."""

import contextlib
import heapq
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psutil
from sqlalchemy import Engine, text

from db.contents import find_stored
from db.due_jobs import take_due_jobs
from db.engine import make_engine, reading, write
from db.job_results import JobStages, store_results
from db.jobs import Claim, OpenScan, claim_job, load_open_scans
from tests.db_factories import MODEL_DIGEST, new_measurement, new_prediction, scored, sha256_of

#: Scans of a job.
JOB: Final = 64
_LEASE_S: Final = 120.0
TABLES: Final = ("scans", "predictions", "measurements", "worklist_rows", "jobs")


@dataclass(slots=True)
class Played:
    """What a process that plays workers has done.

    Attributes:
        jobs: jobs that were committed within the measured time.
        cpu_s: processor time in it.
        late_s: delay of each of their commits, behind the time at which it was due.
    """

    jobs: int = 0
    cpu_s: float = 0.0
    late_s: list[float] = field(default_factory=list)


def read_server_cpu_s(engine: Engine) -> float:
    """Return the processor time of all processes of a PostgreSQL server on this machine, ended ones included."""
    with reading(engine) as connection:
        backend = psutil.Process(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    server = backend.parent()
    assert server is not None  # noqa: S101  # the postmaster
    spent = 0.0
    for process in (server, *server.children()):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def play(  # noqa: PLR0917  # a process takes its arguments by place
    url: str, run_id: str, workers: int, think_s: float, begin: float, seconds: float, seed: int, answers: Any
) -> None:
    """Play workers on a few threads: each step is done when it is due, or as soon as a thread is free."""
    engine = make_engine(url)
    stage = _Stage(engine, run_id, think_s, begin, seconds)
    choose = random.Random(seed)  # noqa: S311  # no secret
    for number in range(workers):
        stage.put(begin + think_s * choose.random(), f"player-{seed}-{number}", None)
    threads = [threading.Thread(target=stage.run) for _ in range(min(8, workers))]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, begin + think_s - time.time()))
    before = time.process_time()
    for thread in threads:
        thread.join()
    stage.played.cpu_s = time.process_time() - before
    engine.dispose()
    answers.put(stage.played)


class _Stage:
    """The steps of simulated workers, by the time at which they are due."""

    def __init__(self, engine: Engine, run_id: str, think_s: float, begin: float, seconds: float) -> None:
        self._engine, self._run_id, self._think_s = engine, run_id, think_s
        # Workers begin one after the other within a think time; what is counted begins when all have.
        self._from = begin + (think_s or 0.0)
        self._until = self._from + seconds
        self._due: list[tuple[float, str, Any]] = []
        self._jobs: list[str] = []
        self._lock = threading.Lock()
        self.played = Played()

    def put(self, due: float, worker: str, held: tuple[Claim, list[OpenScan]] | None) -> None:
        with self._lock:
            heapq.heappush(self._due, (due, worker, held))

    def run(self) -> None:
        while time.time() < self._until:
            with self._lock:
                step = heapq.heappop(self._due) if self._due and self._due[0][0] <= time.time() else None
            if step is None:
                time.sleep(0.002)
                continue
            due, worker, held = step
            if held is None:
                held = self._claim(worker)
                if held is None:
                    return  # no job is left
                self.put(time.time() + self._think_s, worker, held)
            else:
                commit_job(self._engine, worker, *held)
                if self._from <= time.time() < self._until:
                    self.played.jobs += 1
                    self.played.late_s.append(time.time() - due)
                self.put(time.time(), worker, None)

    def _next_job(self) -> str | None:
        with self._lock:
            if not self._jobs:  # as a publisher takes them, up to the high-water mark
                self._jobs = write(
                    self._engine, lambda connection: take_due_jobs(connection, JOB, _LEASE_S, run_id=self._run_id)
                )
            return self._jobs.pop(0) if self._jobs else None

    def _claim(self, worker: str) -> tuple[Claim, list[OpenScan]] | None:
        while (job_id := self._next_job()) is not None:
            claim = write(
                self._engine,
                lambda connection, job_id=job_id: claim_job(connection, job_id, worker, _LEASE_S, embedded=False),
            )
            if claim is not None:
                with reading(self._engine) as connection:
                    return claim, load_open_scans(connection, claim.job_id)
        return None


def commit_job(
    engine: Engine, worker: str, claim: Claim, scans: Sequence[OpenScan], digests: Sequence[str] | None = None
) -> None:
    """Look up what is stored of a job's scans, and store their results, as a worker does.

    Args:
        engine: the database.
        worker: its name.
        claim: the job's claim.
        scans: its open scans.
        digests: of their contents; None: made of their ids.
    """
    digests = digests or [sha256_of(scan.id) for scan in scans]
    outcomes = [scored(scan, sha256=digest) for scan, digest in zip(scans, digests, strict=True)]
    with reading(engine) as connection:
        find_stored(connection, digests, MODEL_DIGEST, "1", 1)
    predictions = [new_prediction(sha256=digest, worker=worker) for digest in digests]
    measured = [new_measurement(sha256=digest) for digest in digests]
    stages = JobStages({"read": 0.1, "decode": 0.2}, 2, len(digests))
    write(
        engine,
        lambda connection: store_results(connection, claim, outcomes, predictions, measured, stages=stages),
    )


def measure_size(engine: Engine) -> dict[str, Any]:
    """Return the bytes of a scan in each table, indexes included; a scan that is not scored has no row in some."""
    with reading(engine) as connection:
        scans, scored_ones = connection.execute(
            text("SELECT count(*), count(*) FILTER (WHERE status = 'scored') FROM scans")
        ).one()
        sizes = {
            table: connection.execute(text(f"SELECT pg_total_relation_size('{table}')")).scalar_one()
            / (scans if table in {"scans", "jobs"} else scored_ones)
            for table in TABLES
        }
    return {"scans": scans, "scored": scored_ones, "bytes": sizes}
