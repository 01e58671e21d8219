"""Scoring a run in this process: the same app, task and tables as in a cluster, with a broker in memory.

So what is tried on a laptop is what runs at night; nothing but settings differs.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from celery.platforms import EX_OK
from celery.worker import WorkController, state
from pydantic import SecretStr
from sqlalchemy import Engine

from db.engine import reading, write
from db.runs import (
    RunInfo,
    cancel_run,
    close_finished_runs,
    find_open_embedded_runs,
    find_run,
)
from db.tallies import RunCounts, read_tallies
from db.types import RunStatus
from nightread.reasons import Reason
from nightread.settings import IN_PROCESS_BROKER
from worker.enqueueing import read_start
from worker.process import WorkerProcess, use_process
from worker.publisher import QUEUE, Publisher
from worker.queue import make_app

_log = logging.getLogger(__name__)

_POLL_S = 0.1
#: Counting a large run takes its time, of which the scoring must not lose much.
_POLL_SHARE = 20
#: How long a stopping worker is waited for; its jobs are leased, so that nothing is lost where it does not come back.
_STOP_S = 60.0
#: A message that no job answers to.
_NO_JOB = "0" * 32


def run_embedded(process: WorkerProcess, run_id: str, on_progress: Callable[[RunCounts], None]) -> RunInfo:
    """Work on one run until it has ended; returns it as it is then.

    Args:
        process: settings, database, threads and the model, opened already.
        run_id: a run that was made with `embedded`.
        on_progress: is called several times a second with the run's counts.

    Raises:
        KeyboardInterrupt: after the job under way was committed and the rest of the run cancelled.
        DatabaseError: the database went away; the run can be retried.
    """
    settings = process.settings.model_copy(update={"broker_url": SecretStr(IN_PROCESS_BROKER)})
    process.settings = settings
    use_process(process)
    app = make_app(settings)
    app.set_current()
    publisher = Publisher(app, settings)
    with app.connection_for_write() as connection:  # what an interrupted run of this process has left
        connection.default_channel.queue_declare(queue=QUEUE)
        connection.default_channel.queue_purge(QUEUE)
    controller = WorkController(
        app=app, pool="solo", hostname=f"nightread@{process.name}", loglevel="WARNING",
        without_gossip=True, without_mingle=True, without_heartbeat=True,
    )  # fmt: skip
    thread = threading.Thread(target=controller.start, name="nightread-worker", daemon=True)
    thread.start()
    try:
        _follow(process.engine, publisher, run_id, on_progress, thread)
    except KeyboardInterrupt:
        _log.info("interrupted: the job under way is finished first")
        raise
    finally:
        _stop(publisher, thread)
        _cancel_rest(process.engine, run_id)
    with reading(process.engine) as connection:
        return find_run(connection, run_id)


def _stop(publisher: Publisher, thread: threading.Thread) -> None:
    """End the embedded worker after the job under way."""
    state.should_stop = EX_OK
    # The consumer looks at `should_stop` after a message, then waits for one more; without any, two seconds each.
    publisher.publish([_NO_JOB, _NO_JOB])
    thread.join(_STOP_S)
    state.should_stop = None


def _follow(
    engine: Engine,
    publisher: Publisher,
    run_id: str,
    on_progress: Callable[[RunCounts], None],
    thread: threading.Thread,
) -> None:
    while True:
        publisher.publish_due(engine, run_id=run_id, below=1)
        started = time.monotonic()
        counts, status = _look(engine, run_id)
        looked_s = time.monotonic() - started
        if not counts.queued and status in {RunStatus.QUEUED, RunStatus.RUNNING}:
            write(engine, close_finished_runs)  # nobody sweeps here, should the worker have failed to close its run
        on_progress(counts)
        if status in {RunStatus.FINISHED, RunStatus.CANCELLED}:
            return
        if not thread.is_alive():
            raise RuntimeError("the embedded worker has ended before its run")
        time.sleep(max(_POLL_S, _POLL_SHARE * looked_s))


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
    pid = run.settings.get("pid")
    if run.settings.get("host") != os.uname().nodename or not isinstance(pid, int):
        return False
    recorded, started = run.settings.get("process_started"), read_start(pid)
    if recorded is not None and started is not None:
        return bool(started != recorded)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
