"""Builders of runs, jobs and predictions in a database, with defaults for all fields."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sqlalchemy import Engine, select, text, update

from db.engine import reading, write
from db.job_results import NewPrediction
from db.jobs import Claim, OpenScan, claim_job, load_open_scans
from db.measurements import NewMeasurement
from db.results import count_decisions, count_reasons, find_providers
from db.runs import NewModel, NewRun, NewScan, create_run
from db.tables import jobs, runs, scans
from db.tallies import RunCounts, ScanOutcome, count_scans, read_tallies
from db.types import ScanStatus, database_now

MODEL_DIGEST = "d" * 64
LEASE_S = 60.0


def sha256_of(number: int) -> str:
    return f"{number:064x}"


def new_model(**fields: Any) -> NewModel:
    return NewModel(**{
        "digest": MODEL_DIGEST, "name": "cnn", "version": "1", "preprocessing": "1", "card": {"labels": ["pneumonia"]},
        **fields,
    })  # fmt: skip


def new_run(**fields: Any) -> NewRun:
    return NewRun(**{
        "name": "night", "model": new_model(), "sources": ["/scans"], "settings": {}, "embedded": False, "skipped": {},
        "job_size": 64, **fields,
    })  # fmt: skip


def new_scans(count: int) -> list[NewScan]:
    return [NewScan(f"/scans/{number:05}.png", 1000 + number) for number in range(count)]


def add_run(engine: Engine, found: int | Sequence[NewScan] = 1, **fields: Any) -> str:
    """Insert a run; returns its id."""
    listed = new_scans(found) if isinstance(found, int) else found
    run = new_run(**fields)
    return write(engine, lambda connection: create_run(connection, run, listed))


def job_ids(engine: Engine, run_id: str) -> list[str]:
    """Return the job ids of a run in the order of their first scans, jobs without scans last."""
    with reading(engine) as connection:
        held = connection.execute(
            select(scans.c.job_id).where(scans.c.run_id == run_id, scans.c.job_id.is_not(None)).order_by(scans.c.id)
        ).scalars()
        every = connection.execute(select(jobs.c.id).where(jobs.c.run_id == run_id)).scalars()
        return list(dict.fromkeys([*held, *every]))


def add_job(engine: Engine, found: int = 1, **fields: Any) -> str:
    """Insert a run with one job; returns the job's id."""
    (job_id,) = job_ids(engine, add_run(engine, found, job_size=max(found, 1), **fields))
    return job_id


def claim(engine: Engine, job_id: str, holder: str = "worker-1", lease_s: float = LEASE_S) -> Claim | None:
    return write(engine, lambda connection: claim_job(connection, job_id, holder, lease_s, embedded=False))


def open_scans(engine: Engine, job_id: str) -> list[OpenScan]:
    with reading(engine) as connection:
        return load_open_scans(connection, job_id)


def scored(scan: OpenScan, **fields: Any) -> ScanOutcome:
    return ScanOutcome(**{"scan_id": scan.id, "status": ScanStatus.SCORED, "sha256": sha256_of(scan.id), **fields})


def new_prediction(number: int = 1, **fields: Any) -> NewPrediction:
    return NewPrediction(**{
        "sha256": sha256_of(number), "model_digest": MODEL_DIGEST, "preprocessing": "1", "label": "pneumonia",
        "score": 0.25, "decision": "normal", "runtime": "onnxruntime 0", "provider": "CPUExecutionProvider",
        "device": "cpu", "batch_size": 1, "worker": "worker-1", **fields,
    })  # fmt: skip


def new_measurement(number: int = 1, **fields: Any) -> NewMeasurement:
    return NewMeasurement(**{
        "sha256": sha256_of(number), "model_digest": MODEL_DIGEST, "preprocessing": "1", "gate_verdict": "passed",
        "distance": 12.5, "components": [0.5, -1.25], "brightness": 0.5, "contrast": 0.25, "darkest": 0.0,
        "brightest": 1.0, "detail": 0.03, "symmetry": 0.75, **fields,
    })  # fmt: skip


def count(engine: Engine, run_id: str) -> RunCounts:
    """Count the scans of a run, and check that its tally agrees."""
    with reading(engine) as connection:
        counted = count_scans(connection, [run_id])[run_id]
        tally = read_tallies(connection, [run_id])[run_id]
        assert tally.counts == counted
        assert tally.decisions == count_decisions(connection, run_id)
        assert tally.reasons == count_reasons(connection, run_id)
        assert tally.providers == find_providers(connection, run_id)
        return counted


def fetch_job(engine: Engine, job_id: str) -> Any:
    with reading(engine) as connection:
        return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()


def fetch_run(engine: Engine, run_id: str) -> Any:
    with reading(engine) as connection:
        return connection.execute(select(runs).where(runs.c.id == run_id)).one()


def fetch_scans(engine: Engine, run_id: str) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(select(scans).where(scans.c.run_id == run_id).order_by(scans.c.id)))


def shift_time(engine: Engine, job_id: str, column: str, offset_s: float) -> None:
    """Set a time of a job to the database's clock plus `offset_s`, so that tests need not wait."""
    write(engine, lambda connection: connection.execute(
        update(jobs).where(jobs.c.id == job_id).values({column: database_now(offset_s)})
    ))  # fmt: skip


def expire_lease(engine: Engine, job_id: str) -> None:
    shift_time(engine, job_id, "lease_expires_at", -1)


def at_once(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Run all calls at once on threads of their own; returns their results in order."""
    calls = list(calls)
    barrier = threading.Barrier(len(calls))

    def go(call: Callable[[], Any]) -> Any:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result(60) for future in [threads.submit(go, call) for call in calls]]


def in_background(call: Callable[[], Any]) -> Future[Any]:
    """Start a call on a thread of its own; returns its future."""
    threads = ThreadPoolExecutor(1)
    future = threads.submit(call)
    threads.shutdown(wait=False)
    return future


def wait_until_blocked(engine: Engine) -> None:
    """Wait until a session of this PostgreSQL database waits for a lock."""
    query = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    for _ in range(1000):
        with engine.connect() as connection:
            if connection.execute(query).first():
                return
        time.sleep(0.01)
    raise AssertionError("no session waits for a lock")
