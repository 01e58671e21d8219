"""The Celery task. It takes the id of a job and returns nothing; the work is in plain functions that need no Celery."""

import logging
from typing import Any

from celery import current_app, shared_task
from celery.signals import worker_process_init

from nightread.errors import DatabaseError
from nightread.failpoints import Point, failpoint
from nightread.logs import configure_logging
from nightread.settings import Settings, read_settings
from worker.errors import BrokerUnavailable
from worker.jobs.job import attend_job
from worker.process import WorkerProcess, current_process, has_process
from worker.queue.publisher import SCORE_TASK, Publisher
from worker.queue.sweeper import Sweeper

_log = logging.getLogger(__name__)

#: Below this share of the high-water mark a worker that has ended a job publishes the next ones.
_LOW_WATER = 0.5


@shared_task(name=SCORE_TASK, bind=True)
def score_job_task(task: Any, job_id: str) -> None:
    """Score one job; the message is acknowledged after its results are committed."""
    process = _find_process(task.app)
    is_known = attend_job(process, job_id)
    _look_after_queue(task, process, is_known=is_known)
    failpoint(Point.WORKER_BEFORE_ACK)
    if process.decoder.is_stuck:
        # A thread cannot be ended, but this process can: its job is committed, and Celery starts another.
        _log.warning("a decoder does not come back: this process ends, and another takes its place")
        raise SystemExit(0)


@worker_process_init.connect
def _start_child(**_: Any) -> None:
    """Configure the log, since a spawned process has inherited nothing, and start sweeping."""
    if has_process():  # Celery calls its solo pool a process too, and that one's log is set up
        return
    configure_logging(read_settings())
    app = current_app._get_current_object()  # noqa: SLF001  # the app itself: what it stands for differs by thread
    process = _find_process(app)
    Sweeper(Publisher(app, process.settings), process.engine, process.settings.sweep_s).start()


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
