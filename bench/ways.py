"""Whole runs over a folder, as a user starts them: the real program in separate processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, delete, select

from bench.scans import BenchScans
from bench.servers import Servers
from db.engine import make_engine, reading
from db.runs import find_run
from db.schema import upgrade
from db.tables import predictions
from db.tallies import count_scans
from db.types import database_now
from nightread.errors import NightreadError
from nightread.model.bundle import Bundle
from nightread.settings import Settings, read_settings
from worker.queue.celery_app import make_app
from worker.queue.publisher import Publisher
from worker.runs.enqueue import write_run
from worker.runs.request import Request

_PROGRAM: Final = (sys.executable, "-P", "-c", "from cli.main import run; run()")
#: Polling takes time from the workers; the database records the end of a run to the millisecond.
_POLL_S: Final = 0.1
_LONGEST_S: Final = 3600.0
_END_S: Final = 60.0
_READY_S: Final = 180.0


@dataclass(frozen=True, slots=True)
class Scored:
    """Durations of one `score`: from the first job to the last row, and from the start of the process to its exit."""

    scans: int
    reused: int
    seconds: float
    wall_s: float


def score_folder(scans: BenchScans, settings: Settings, model: str, folder: Path) -> tuple[Scored, Scored]:
    """Score the scans twice with `nightread score` on a new SQLite file; the second time all are reused.

    Raises:
        NightreadError: the program failed.
    """
    database_url = f"sqlite:///{folder / 'embedded.db'}"
    engine = make_engine(database_url)
    upgrade(engine)  # once for each database, so it does not count
    engine.dispose()
    environment = _make_environment(settings, scans.folder, model, database_url)
    first, second = (_score(scans.folder, environment) for _ in range(2))
    for file in folder.glob("embedded.db*"):
        file.unlink()
    return first, second


def _score(folder: Path, environment: dict[str, str]) -> Scored:
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603  # this very program
        [*_PROGRAM, "score", str(folder), "--json"], env=environment, capture_output=True, text=True, check=False
    )
    wall_s = time.perf_counter() - started
    if not done.stdout.strip():
        raise NightreadError(f"`nightread score` failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
    summary = json.loads(done.stdout.splitlines()[-1])
    return Scored(summary["found"], summary["reused"], summary["seconds"], wall_s)


def score_with_workers(
    scans: BenchScans, warm_up: BenchScans, settings: Settings, bundle: Bundle, servers: Servers, workers: int
) -> float:
    """Return scans per second of `workers` worker processes of one core each, from the first message to the last row.

    Args:
        scans: to measure with.
        warm_up: other scans, scored before: workers open the model at their first job.
        settings: device, limits and sizes.
        bundle: the model.
        servers: queue and database.
        workers: number of processes.
    """
    with servers.make_database() as database_url:
        environment = _make_environment(
            settings, scans.folder, bundle.card.reference, database_url, broker_url=servers.broker_url, threads=1
        )
        environment["NIGHTREAD_SCAN_ROOTS"] = f"{scans.folder}:{warm_up.folder}"
        own = read_settings(
            database_url=database_url, broker_url=servers.broker_url, job_size=settings.job_size,
            scan_roots=f"{scans.folder}:{warm_up.folder}",
        )  # fmt: skip
        engine = make_engine(database_url)
        upgrade(engine)
        publisher = Publisher(make_app(own), own)
        try:
            with _start_workers(environment, workers, scans.folder):
                _warm_up(engine, own, publisher, bundle, warm_up, workers)
                seconds = _run(engine, own, publisher, bundle, scans.folder)
        finally:
            engine.dispose()
    return len(scans.paths) / seconds


def _warm_up(
    engine: Engine, settings: Settings, publisher: Publisher, bundle: Bundle, scans: BenchScans, workers: int
) -> None:
    """Score a few scans repeatedly, until each worker has opened the model."""
    # Without the input gate, which rejects drawn scans: a rejected scan has no prediction and names no worker.
    one_each = settings.model_copy(update={"job_size": 1, "gate": False})
    deadline = time.perf_counter() + _READY_S
    seen: set[str] = set()
    while len(seen) < workers:
        if time.perf_counter() > deadline:
            raise NightreadError(f"only {len(seen)} of {workers} workers have taken a job within {_READY_S:.0f} s")
        _run(engine, one_each, publisher, bundle, scans.folder)
        with engine.begin() as connection:
            seen.update(connection.execute(select(predictions.c.worker)).scalars())
            connection.execute(delete(predictions))  # so that they are not reused


def _run(engine: Engine, settings: Settings, publisher: Publisher, bundle: Bundle, folder: Path) -> float:
    """Return the seconds from the publishing of a run's jobs to its end, by the clock of the database."""
    run_id = write_run(engine, settings, bundle, [folder], Request(name="bench"), embedded=False).run_id
    with reading(engine) as connection:
        started: datetime = connection.execute(select(database_now())).scalar_one()
    publisher.publish_due(engine)
    deadline = time.monotonic() + _LONGEST_S
    while (ended := _find_end(engine, run_id)) is None:
        if time.monotonic() > deadline:
            raise NightreadError("the workers did not end the run of the measurement within an hour")
        time.sleep(_POLL_S)
    with reading(engine) as connection:
        counts = count_scans(connection, [run_id])[run_id]
    if counts.failed or counts.reused:
        raise NightreadError(
            f"{counts.failed} of {counts.found} scans of the measurement failed and {counts.reused} were reused"
        )
    return (ended - started).total_seconds()


def _find_end(engine: Engine, run_id: str) -> datetime | None:
    with reading(engine) as connection:
        return find_run(connection, run_id).finished_at


@contextlib.contextmanager
def _start_workers(environment: dict[str, str], workers: int, folder: Path) -> Iterator[None]:
    """Start worker processes, each on a core of its own if there are enough cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    log = folder.parent / "workers.log"
    processes = []
    with log.open("ab") as output:
        try:
            for number in range(workers):
                process = subprocess.Popen(  # noqa: S603  # this very program
                    [*_PROGRAM, "worker"],
                    env=environment, stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
                processes.append(process)
                if workers <= len(cores):
                    os.sched_setaffinity(process.pid, {cores[number]})  # before it starts threads and child processes
            yield
        finally:
            _stop(processes)


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _make_environment(
    settings: Settings, folder: Path, model: str, database_url: str, *, broker_url: str = "", threads: int = 0
) -> dict[str, str]:
    """Return the environment of the measured program: that of the user, with its own database and queue."""
    given: dict[str, Any] = {
        "database_url": database_url, "model": model, "scan_roots": folder, "models_dir": settings.models_dir,
        "device": settings.device.value, "batch_size": settings.batch_size, "job_size": settings.job_size,
        "broker_url": broker_url or "memory://localhost//", "threads": threads or settings.threads,
        "log_level": "WARNING",
    }  # fmt: skip
    return {**os.environ, **{f"NIGHTREAD_{name.upper()}": str(value) for name, value in given.items()}}
