"""The two Celery tasks. They take ids and return nothing; the work is in plain functions that need no Celery."""

import logging
from typing import Any

from celery import current_app, shared_task
from celery.signals import worker_process_init

from nightread.errors import DatabaseError, NightreadError
from nightread.failpoints import Point, failpoint
from nightread.logs import configure_logging
from nightread.settings import Settings, read_settings
from worker.errors import BrokerUnavailable
from worker.jobs.job import attend_job
from worker.process import WorkerProcess, current_process, has_process
from worker.queue.idle_sweeper import IdleSweeper
from worker.queue.publisher import SCORE_TASK, SWEEP_TASK, Publisher

_log = logging.getLogger(__name__)

#: Below this share of the high-water mark a worker that has ended a job publishes the next ones.
_LOW_WATER = 0.5


@shared_task(name=SCORE_TASK, bind=True)
def score_job_task(task: Any, job_id: str) -> None:
    """Score one job; the message is acknowledged after its results are committed."""
    process = _find_process(task.app)
    with process.working():
        is_known = attend_job(process, job_id)
        _look_after_queue(task, process, is_known=is_known)
    failpoint(Point.WORKER_BEFORE_ACK)
    if process.decoder.is_stuck:
        # A thread cannot be ended, but this process can: its job is committed, and Celery starts another.
        _log.warning("a decoder does not come back: this process ends, and another takes its place")
        raise SystemExit(0)


@shared_task(name=SWEEP_TASK, bind=True)
def sweep_task(task: Any) -> None:
    """Publish again what was lost; beat sends this every `sweep_s`."""
    process = _find_process(task.app)
    with process.working():
        try:
            Publisher(task.app, process.settings).sweep(process.engine)
        except NightreadError as error:
            _log.error("sweep: %s", error)
        except Exception:  # noqa: BLE001  # the boundary of a delivery; a MemoryError out of a task ends the whole worker
            _log.exception("sweep failed")


@worker_process_init.connect
def _start_child(**_: Any) -> None:
    """Write the log as the main process does, since a spawned process has inherited nothing; and sweep when idle."""
    if has_process():  # Celery calls its solo pool a process too, and that one's log is set up
        return
    configure_logging(read_settings())
    app = current_app._get_current_object()  # noqa: SLF001  # the app itself: what it stands for differs by thread
    IdleSweeper(app, _find_process(app)).start()


def _find_process(app: Any) -> WorkerProcess:
    settings: Settings | None = getattr(app, "nightread", None)
    return current_process(settings or read_settings())


def _look_after_queue(task: Any, process: WorkerProcess, *, is_known: bool) -> None:
    """Refill the queue where it runs low, so that no worker idles until the next sweep; count a forged message."""
    publisher = Publisher(task.app, process.settings)
    try:
        failpoint(Point.WORKER_BEFORE_TOP_UP, MemoryError)
        if not is_known:
            publisher.note_refused()
        publisher.publish_due(process.engine, below=process.settings.queue_high_water * _LOW_WATER)
    except (BrokerUnavailable, DatabaseError) as error:
        _log.warning("the queue was not refilled: %s", error)
    except Exception:  # noqa: BLE001  # the boundary of a delivery; a MemoryError out of a task ends the whole worker
        _log.exception("the queue was not refilled")
