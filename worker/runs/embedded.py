"""Scoring a run here and now: the same jobs, leases and tables as in a cluster, with a queue in memory.

So what is tried on a laptop is what runs at night; nothing but the broker is missing, since nobody has to be told.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from db.due_jobs import take_due_jobs
from db.engine import reading, write
from db.jobs import suspect_jobs
from db.runs import (
    RunInfo,
    cancel_run,
    close_finished_runs,
    find_open_embedded_runs,
    find_run,
)
from db.schema import ensure_schema
from db.tallies import RunCounts, read_tallies
from db.types import RunStatus
from nightread.machine import read_start
from nightread.reasons import Reason
from nightread.settings import Settings
from worker.jobs.job import attend_job
from worker.process import WorkerProcess
from worker.runs.enqueue import requeue_failed, write_run
from worker.runs.forks import end_forks, fork_workers
from worker.runs.job_pool import Crew

_log = logging.getLogger(__name__)

#: On threads: while the results of one job are committed, they have the scans of the next. Three gained nothing.
_JOBS_AT_ONCE: Final = 2
_POLL_S = 0.25
#: Counting a large run takes its time, of which the scoring must not lose much.
_POLL_SHARE = 20
#: A job that was taken from the table and not claimed in this time is taken again, should its thread have failed.
_RETAKE_S = 10.0


def score_paths(
    settings: Settings,
    paths: Sequence[Path],
    *,
    name: str | None = None,
    on_progress: Callable[[RunCounts], None] = lambda _: None,
) -> RunInfo:
    """Score everything below `paths` in this process, as `nightread score` does; returns the run as it ended.

    Args:
        settings: database, model, device, roots and the rest; the broker is not used.
        paths: files and folders.
        name: for people; the first path's own name where None.
        on_progress: called several times a second with the run's counts.

    Raises:
        WrongPaths: a path is missing, or outside the roots.
        NothingToScore: there is no scan below the paths.
        ModelError: the model's bundle is missing, damaged or not reproduced here.
        DeviceError: the device that was asked for is not active.
        DatabaseError: the database went away; the run can be retried.
        KeyboardInterrupt: after the jobs under way were committed and the rest of the run cancelled.
    """
    process = WorkerProcess(settings)
    try:
        return run_embedded(process, begin_run(process, paths, name=name), on_progress)
    finally:
        process.close()


def begin_run(process: WorkerProcess, paths: Sequence[Path], *, name: str | None = None) -> str:
    """Write a run over everything below `paths` for this process to score; returns its id.

    Runs of processes of this host that were killed are closed first: what they have scored is reused, and scans that
    they were at are decoded in isolation.

    Args:
        process: settings and database; the run's model is opened.
        paths: files and folders.
        name: for people; the first path's own name where None.

    Raises:
        NightreadError: see `score_paths`.
    """
    ensure_schema(process.engine)
    close_orphans(process.engine)
    bundle = process.open_default()
    run_id = write_run(process.engine, process.settings, bundle, paths, name=name, embedded=True).run_id
    write(process.engine, lambda connection: suspect_jobs(connection, run_id))
    return run_id


def retry_here(process: WorkerProcess, run: RunInfo) -> int:
    """Queue a run's failed scans again for this process to score; returns how many. `run_embedded` is next.

    Raises:
        ModelError: this machine cannot serve the run's model; nothing is queued then.
        DeviceError: the device that was asked for is not active.
    """
    process.find_scorer(run)
    return requeue_failed(process.engine, process.settings, run, embedded=True)


def gather_crew(process: WorkerProcess, run_id: str) -> Crew:
    """Return who is to work on a run: forks of this process where it is large enough for them, else its threads.

    Args:
        process: settings, database, threads and the run's model, opened already. It works on nothing but such runs
            from now on.
        run_id: a run that was made with `embedded`.
    """
    process.embedded = True
    counts, _ = _look(process.engine, run_id)
    if forks := fork_workers(process, counts.queued):
        return Crew([fork.attend for fork in forks], partial(end_forks, forks))
    return Crew([partial(attend_job, process)] * _JOBS_AT_ONCE)


def run_embedded(
    process: WorkerProcess, run_id: str, on_progress: Callable[[RunCounts], None], crew: Crew | None = None
) -> RunInfo:
    """Work on one run until it has ended; returns it as it is then.

    Args:
        process: see `gather_crew`.
        run_id: the same.
        on_progress: is called several times a second with the run's counts.
        crew: of `gather_crew`, which must be called before there are other threads; gathered here where None.

    Raises:
        KeyboardInterrupt: after the jobs under way were committed and the rest of the run cancelled.
        DatabaseError: the database went away; the run can be retried.
    """
    crew = crew or gather_crew(process, run_id)
    try:
        _follow(process, crew, run_id, on_progress)
    except KeyboardInterrupt:
        _log.info("interrupted: the jobs under way are finished first")
        raise
    finally:
        crew.stop()
        _cancel_rest(process.engine, run_id)
    with reading(process.engine) as connection:
        return find_run(connection, run_id)


def _follow(process: WorkerProcess, crew: Crew, run_id: str, on_progress: Callable[[RunCounts], None]) -> None:
    engine, settings = process.engine, process.settings
    retake_s = min(_RETAKE_S, settings.lease_s)
    room = settings.queue_high_water
    while True:
        crew.runs_low.clear()  # before the look: what is set from now on brings the next one
        if crew.is_short:
            crew.put(write(engine, lambda connection: take_due_jobs(connection, room, retake_s, run_id=run_id)))
        started = time.monotonic()
        counts, status = _look(engine, run_id)
        looked_s = time.monotonic() - started
        if not counts.queued and status in {RunStatus.QUEUED, RunStatus.RUNNING}:
            write(engine, close_finished_runs)  # nobody sweeps here, should a job have failed to close its run
        on_progress(counts)
        if status in {RunStatus.FINISHED, RunStatus.CANCELLED}:
            return
        crew.check()
        crew.runs_low.wait(max(_POLL_S, _POLL_SHARE * looked_s))


def _look(engine: Engine, run_id: str) -> tuple[RunCounts, RunStatus]:
    with reading(engine) as connection:
        return read_tallies(connection, [run_id])[run_id].counts, find_run(connection, run_id).status


def _cancel_rest(engine: Engine, run_id: str, *, crashed: bool = False) -> int:
    """Account for the scans of a run that was interrupted; changes nothing where the run has ended."""
    code, text = Reason.CANCELLED.value, "the run was interrupted before this scan"
    return write(engine, lambda connection: cancel_run(connection, run_id, code, text, crashed=crashed))


def close_orphans(engine: Engine) -> int:
    """Account for runs of `nightread score` whose process was killed on this host; returns how many.

    Their predictions stay, so that the same folder again goes on where they stopped; what they were at when they died
    is decoded with care from then on.
    """
    with reading(engine) as connection:
        orphans = [run for run in find_open_embedded_runs(connection) if _is_orphan(run)]
    for run in orphans:
        ended = _cancel_rest(engine, run.id, crashed=True)
        _log.info("run %s was killed before its end: %d scans marked `%s`", run.id[:8], ended, Reason.CANCELLED)
    return len(orphans)


def _is_orphan(run: RunInfo) -> bool:
    owner = run.owner
    if owner is None or owner.host != os.uname().nodename:
        return False
    started = read_start(owner.pid)
    if owner.started is not None and started is not None:
        return started != owner.started
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
