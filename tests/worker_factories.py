"""Worker processes, and runs over real files, for tests that call worker functions without Celery."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from db.engine import reading
from db.runs import RunInfo, find_run
from nightread.settings import read_settings
from tests.db_factories import job_ids
from tests.factories import encode_dicom, encode_jpeg, encode_png16, small_chest
from worker.process import WorkerProcess
from worker.runs.enqueue import write_run
from worker.runs.request import Request


@contextlib.contextmanager
def run_process(engine: Engine, *, embedded: bool = True, **settings: Any) -> Iterator[WorkerProcess]:
    """Yield the state of a process that scores its own run or a cluster's jobs on the database of `engine`."""
    url = engine.url.render_as_string(hide_password=False)
    process = WorkerProcess(read_settings(**{"database_url": url, "threads": 2, "device": "cpu", **settings}))
    process.embedded = embedded
    try:
        yield process
    finally:
        process.close()


def write_scans(folder: Path, count: int) -> Path:
    """Write drawn chests as JPEG, 16-bit PNG and DICOM in turn; they sort in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    encoders = (encode_jpeg, encode_png16, encode_dicom)
    for number in range(count):
        (folder / f"scan-{number:03}").write_bytes(encoders[number % 3](small_chest(number)))
    return folder


def add_run_of(process: WorkerProcess, folder: Path, *, embedded: bool = False) -> str:
    """Insert a run over a folder with the default model; returns its id."""
    bundle = process.open_default()
    return write_run(process.engine, process.settings, bundle, [folder], Request(), embedded=embedded).run_id


def add_job_of(process: WorkerProcess, folder: Path) -> str:
    """Insert a run of one job over a folder; returns the job's id."""
    (job_id,) = job_ids(process.engine, add_run_of(process, folder))
    return job_id


def fetch_info(process: WorkerProcess, run_id: str) -> RunInfo:
    with reading(process.engine) as connection:
        return find_run(connection, run_id)
