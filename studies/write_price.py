"""Measure what the ledger costs a night in processor time and bytes, and which share of it its indexes have.

    uv run --group test python -m studies.write_price --folder /tmp --scans 100000

A run is created and scored by a worker's transactions, without files and model. Three schemas take turns, each on a new
database: this release's, that of revision 0016, and one without the indexes that the views' questions need. Only
processor time is measured, since it hardly depends on other load: of this process, and of a server's.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, text

from db.due_jobs import take_due_jobs
from db.engine import reading, write
from db.jobs import claim_job, load_open_scans
from db.runs import close_finished_runs, create_run
from studies.played_workers import commit_job, measure_size, read_server_cpu_s
from studies.questions import make_database
from tests.db_factories import new_run, new_scans

_WORKER: Final = "worker-1"
_LEASE_S: Final = 600.0

#: What makes this release's schema that of another, for each database.
_VARIANTS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "this release": {"sqlite": (), "postgresql": ()},
    "0016": {
        "sqlite": ("CREATE UNIQUE INDEX uq_scans_run_id_path ON scans (run_id, path)",),
        "postgresql": (
            "CREATE INDEX ix_worklist_rows_scan_id_label ON worklist_rows (scan_id, label)",
            "DROP INDEX ix_worklist_rows_scan_id_run_id",
        ),
    },
    "without the views' indexes": {
        "sqlite": (
            "CREATE UNIQUE INDEX uq_scans_run_id_path ON scans (run_id, path)",
            "CREATE INDEX ix_scans_path ON scans (path)",
            "DROP INDEX uq_scans_path_run_id",
            "DROP INDEX ix_scans_path_nocase",
            "DROP INDEX ix_scans_finished_at_status",
            "DROP INDEX ix_scans_study_uid",
            "DROP INDEX ix_worklist_rows_scan_id_label",
        ),
        "postgresql": (
            "ALTER TABLE scans ADD CONSTRAINT uq_scans_run_id_path UNIQUE (run_id, path)",
            "CREATE INDEX ix_scans_path ON scans USING hash (path)",
            "DROP INDEX uq_scans_path_run_id",
            "DROP INDEX ix_scans_finished_at_status",
            "DROP INDEX ix_scans_study_uid",
            "DROP INDEX ix_worklist_rows_scan_id_run_id",
        ),
    },
}


def main() -> None:
    """Measure each schema on each database, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for the SQLite file")
    parser.add_argument("--scans", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    for _ in range(arguments.rounds):
        for dialect in arguments.databases:
            for name, changes in _VARIANTS.items():
                with make_database(dialect, arguments.folder) as engine:
                    for change in changes[dialect]:
                        write(engine, lambda connection, change=change: connection.exec_driver_sql(change))
                    line = {"database": dialect, "schema": name, **measure_writing(engine, arguments.scans)}
                    print(json.dumps(line), flush=True)


def measure_writing(engine: Engine, scans: int) -> dict[str, Any]:
    """Return the processor time of creating and of scoring a run, in ms a scan, and its bytes a scan."""
    made: list[str] = []
    created_s = _measure_cpu_s(
        engine,
        lambda: made.append(write(engine, lambda connection: create_run(connection, new_run(), new_scans(scans)))),
    )
    scored_s = _measure_cpu_s(engine, lambda: _score(engine, made[0]))
    return {
        "scans": scans, "created_ms": 1e3 * created_s / scans, "scored_ms": 1e3 * scored_s / scans,
        "bytes": _measure_bytes(engine) / scans,
    }  # fmt: skip


def _measure_cpu_s(engine: Engine, work: Callable[[], object]) -> float:
    before = time.process_time() + _read_server_cpu_s(engine)
    work()
    return time.process_time() + _read_server_cpu_s(engine) - before


def _read_server_cpu_s(engine: Engine) -> float:
    return read_server_cpu_s(engine) if engine.dialect.name == "postgresql" else 0.0


def _score(engine: Engine, run_id: str) -> None:
    while job_ids := write(engine, lambda connection: take_due_jobs(connection, 64, _LEASE_S, run_id=run_id)):
        for job_id in job_ids:
            claim = write(
                engine,
                lambda connection, job_id=job_id: claim_job(connection, job_id, _WORKER, _LEASE_S, embedded=False),
            )
            assert claim is not None  # noqa: S101  # nobody else works here
            with reading(engine) as connection:
                scans = load_open_scans(connection, job_id)
            commit_job(
                engine, _WORKER, claim, scans, [hashlib.sha256(scan.path.encode()).hexdigest() for scan in scans]
            )
    write(engine, close_finished_runs)


def _measure_bytes(engine: Engine) -> float:
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("CHECKPOINT")
        size = measure_size(engine)
        return sum(size["bytes"].values()) * size["scans"]
    with reading(engine) as connection:
        return float(_read_pragma(connection, "page_size") * (
            _read_pragma(connection, "page_count") - _read_pragma(connection, "freelist_count")
        ))  # fmt: skip


def _read_pragma(connection: Connection, name: str) -> int:
    return int(connection.execute(text(f"PRAGMA {name}")).scalar_one())


if __name__ == "__main__":
    main()
