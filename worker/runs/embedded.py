"""Embedded runs: scored by the process that creates them, with the jobs, leases and tables of a cluster.

So a laptop tries the very code that runs at night. Only the broker is missing, since no other process needs a message.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine

from db.cancellation import cancel_run
from db.due_jobs import find_idle_time, take_due_jobs
from db.engine import reading, write
from db.jobs import suspect_jobs
from db.runs import NewRun, RunInfo, find_open_embedded_runs, find_run
from db.schema import ensure_schema
from db.tallies import RunCounts, read_tallies
from db.types import RunStatus
from nightread.machine import name_machine, read_start
from nightread.reasons import Reason
from nightread.settings import Settings
from worker.jobs.job import attend_job
from worker.process import WorkerProcess
from worker.runs.enqueue import Enqueued, requeue_failed, write_run
from worker.runs.forks import Fork, end_forks, fork_workers
from worker.runs.guards import end_runs
from worker.runs.intake import Intake
from worker.runs.interruption import find_interrupted
from worker.runs.job_pool import Crew
from worker.runs.request import Request

_log = logging.getLogger(__name__)

#: A run of a process that cannot be seen is abandoned if it has done nothing for this long, in seconds.
_ABANDONED_S: Final = 600.0

#: Jobs at once on threads: one is decoded and scored while the other is committed. Three are not faster.
_JOBS_AT_ONCE: Final = 2
_POLL_S = 0.25
#: The pause between two looks at the counts is at least this many times the duration of a look.
_POLL_SHARE = 20
#: A job that no thread has claimed in this time is taken from the table again: its thread may have failed.
_RETAKE_S = 10.0


def score_paths(
    settings: Settings,
    paths: Sequence[Path],
    *,
    name: str | None = None,
    on_progress: Callable[[RunCounts], None] = lambda _: None,
) -> RunInfo:
    """Score everything below `paths` in this process, as `nightread score` does; returns the ended run.

    Args:
        settings: database, model, device, roots and the rest; the broker is not used.
        paths: files and folders.
        name: for people; None: name of the first path.
        on_progress: called several times a second with the run's counts.

    Raises:
        WrongPaths: a path is missing, or outside the roots.
        NothingToScore: there is no scan below the paths.
        ModelError: the model's bundle is missing or damaged, or its scores are not reproduced here.
        DeviceError: the requested device is not active.
        DatabaseError: the database failed; the run can be retried.
        KeyboardInterrupt: after what was scored was committed and the rest of the run was cancelled.
    """
    process = WorkerProcess(settings)
    try:
        return run_embedded(process, begin_run(process, paths, name=name), on_progress)
    finally:
        process.close()


def begin_run(
    process: WorkerProcess,
    paths: Sequence[Path],
    *,
    name: str | None = None,
    request: Request | None = None,
    listed: Sequence[Path] | None = None,
    on_resume: Callable[[RunInfo], object] = lambda _: None,
) -> str:
    """Write a run over everything below `paths` for this process to score; returns its id.

    Where the same request was interrupted and the files are the same, its run goes on instead.

    Orphaned runs of this host are closed first: their predictions are reused, and scans of the jobs that were running
    when their process died are decoded in a sandbox.

    Args:
        process: settings and database; the run's model is opened.
        paths: files and folders.
        name: for people; None: name of the first path.
        request: intake and guards; None: the defaults.
        listed: files and folders below `paths` to look at, instead of the paths themselves.
        on_resume: called with the interrupted run that goes on.

    Raises:
        NightreadError: see `score_paths`.
    """
    ensure_schema(process.engine)
    close_orphans(process.engine)
    bundle = process.open_default()
    request = request or Request(name=name)

    def resume(wanted: NewRun, intake: Intake) -> Enqueued | None:
        run = find_interrupted(process.engine, wanted, intake)
        if run is None or not requeue_failed(process.engine, process.settings, run, embedded=True):
            return None
        on_resume(run)
        return Enqueued(run.id, run.found, run.skipped, existed=True)

    run_id = write_run(
        process.engine, process.settings, bundle, paths, request, embedded=True, listed=listed, resume=resume
    ).run_id
    write(process.engine, lambda connection: suspect_jobs(connection, run_id))
    return run_id


def retry_here(process: WorkerProcess, run: RunInfo) -> int:
    """Queue a run's failed scans again for this process to score; returns how many. `run_embedded` is next.

    Raises:
        ModelError: this machine cannot serve the run's model; nothing is queued then.
        DeviceError: the requested device is not active.
    """
    process.find_scorer(run)
    return requeue_failed(process.engine, process.settings, run, embedded=True)


def gather_crew(process: WorkerProcess, run_id: str) -> Crew:
    """Start the threads or forks that score an embedded run: forks for a large run, else threads.

    Args:
        process: of this run, with its model opened; from now on it takes jobs of embedded runs.
        run_id: of an embedded run.
    """
    process.embedded = True
    counts, _ = _look(process.engine, run_id)
    if forks := fork_workers(process, counts.queued):
        return Crew([fork.attend for fork in forks], partial(end_forks, forks), partial(_hurry_forks, forks))
    return Crew([partial(attend_job, process)] * _JOBS_AT_ONCE, hurry=partial(setattr, process, "is_stopping", True))


def _hurry_forks(forks: Sequence[Fork]) -> None:
    for fork in forks:
        fork.hurry()


def run_embedded(
    process: WorkerProcess,
    run_id: str,
    on_progress: Callable[[RunCounts], None],
    crew: Crew | None = None,
    on_interrupt: Callable[[], None] = lambda: None,
) -> RunInfo:
    """Score one run to its end; returns the ended run.

    Args:
        process: of this run, with its model opened.
        run_id: of an embedded run.
        on_progress: called several times a second with the run's counts.
        crew: from `gather_crew`, which must run before this process starts other threads; None: gathered here.
        on_interrupt: called at once on a KeyboardInterrupt, before the scans at hand are stored.

    Raises:
        KeyboardInterrupt: after what was scored was committed and the rest of the run was cancelled.
        DatabaseError: the database failed; the run can be retried.
    """
    crew = crew or gather_crew(process, run_id)
    has_ended = False
    try:
        _follow(process, crew, run_id, on_progress)
        has_ended = True
    except KeyboardInterrupt:
        on_interrupt()
        crew.hurry()
        raise
    finally:
        crew.stop()
        process.is_stopping = False
        if not has_ended:
            _cancel_rest(process.engine, run_id)
    with reading(process.engine) as connection:
        return find_run(connection, run_id)


def _follow(process: WorkerProcess, crew: Crew, run_id: str, on_progress: Callable[[RunCounts], None]) -> None:
    engine, settings = process.engine, process.settings
    retake_s = min(_RETAKE_S, settings.lease_s)
    room = settings.queue_high_water
    while True:
        crew.runs_low.clear()  # before the look, so that a later end of a job causes another look
        if crew.is_short:
            crew.put(write(engine, lambda connection: take_due_jobs(connection, room, retake_s, run_id=run_id)))
        started = time.monotonic()
        counts, status = _look(engine, run_id)
        looked_s = time.monotonic() - started
        if not counts.queued and status in {RunStatus.QUEUED, RunStatus.RUNNING}:
            end_runs(engine)  # no sweeper does it here if the last job has failed to
        on_progress(counts)
        if status in {RunStatus.FINISHED, RunStatus.CANCELLED}:
            return
        crew.check()
        crew.runs_low.wait(max(_POLL_S, _POLL_SHARE * looked_s))


def _look(engine: Engine, run_id: str) -> tuple[RunCounts, RunStatus]:
    with reading(engine) as connection:
        return read_tallies(connection, [run_id])[run_id].counts, find_run(connection, run_id).status


def _cancel_rest(engine: Engine, run_id: str, *, crashed: bool = False) -> int:
    """Cancel the open scans of an interrupted run and return how many; an ended run does not change."""
    code, text = Reason.CANCELLED.value, "the run was interrupted before this scan"
    return cancel_run(engine, run_id, code, text, crashed=crashed)


def close_orphans(engine: Engine) -> int:
    """Cancel the open embedded runs whose process was killed; returns how many.

    On this host that is seen at once; elsewhere, once nothing has been done for ten minutes.

    Their predictions stay, so a new run over the same folder continues there. Scans of the jobs that were running are
    decoded in a sandbox from then on.
    """
    with reading(engine) as connection:
        orphans = [run for run in find_open_embedded_runs(connection) if _is_orphan(connection, run)]
    for run in orphans:
        ended = _cancel_rest(engine, run.id, crashed=True)
        _log.info("run %s was killed before its end: %d scans marked `%s`", run.id[:8], ended, Reason.CANCELLED)
    return len(orphans)


def _is_orphan(connection: Connection, run: RunInfo) -> bool:
    owner = run.owner
    if owner is None:
        return False
    if "/" in owner.host and owner.host != name_machine():
        # Before a reboot of this host or a change of its name, in another container, or on another host: only leases
        # tell. The host's name is no criterion: each container has a new one.
        return find_idle_time(connection, run.id) > _ABANDONED_S
    if owner.host.partition("/")[0] != os.uname().nodename:
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
