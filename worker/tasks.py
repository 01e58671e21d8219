"""The Celery task. It takes the id of a job and returns nothing; the work is in plain functions that need no Celery."""

import logging
import signal
from typing import Any

from celery import current_app, shared_task
from celery.signals import worker_process_init

from db.types import Priority
from nightread.errors import DatabaseError
from nightread.failpoints import Point, failpoint
from nightread.logs import configure_logging
from nightread.settings import Settings, read_settings
from worker.errors import BrokerUnavailable
from worker.jobs.job import attend_job
from worker.process import WorkerProcess, current_process
from worker.queue.publisher import SCORE_TASK, Publisher
from worker.queue.sweeper import Sweeper, start_scheduler
from worker.queue.turns import QUEUES

_log = logging.getLogger(__name__)

#: A worker publishes due jobs after a job if fewer messages are waiting than this share of the high-water mark.
_LOW_WATER = 0.5


@shared_task(name=SCORE_TASK, bind=True, Request="worker.queue.delivery:Delivery")
def score_job_task(task: Any, job_id: str) -> None:
    """Score one job; Celery acknowledges the message afterwards."""
    process = _find_process(task.app)
    # From the main process, or from the system, which stops all processes of a unit. Celery sets its own handlers after
    # `worker_process_init`, so this one is set here.
    process.is_stopping = False

    def stop(*_: Any) -> None:
        process.is_stopping = True  # an Event takes a lock, which a second signal would wait for

    signal.signal(signal.SIGTERM, stop)
    is_known = attend_job(process, job_id)
    _look_after_queue(task, process, _find_priority(task), is_known=is_known)
    failpoint(Point.WORKER_BEFORE_ACK)
    if process.decoder.is_stuck:
        # A thread cannot be ended, but this process can: its job is committed, and Celery starts another process.
        _log.warning("a decoder does not return: this process ends, and Celery starts another")
        raise SystemExit(0)


@worker_process_init.connect
def _start_child(**_: Any) -> None:
    """Configure the log, since a spawned process has inherited nothing, and start sweeping."""
    configure_logging(read_settings())
    app = current_app._get_current_object()  # noqa: SLF001  # the app itself: `current_app` differs by thread
    process = _find_process(app)
    Sweeper(Publisher(app, process.settings), process.engine, process.settings.sweep_s).start()
    start_scheduler(process.engine, process.settings)


def _find_process(app: Any) -> WorkerProcess:
    settings: Settings | None = getattr(app, "nightread", None)
    return current_process(settings or read_settings())


def _find_priority(task: Any) -> Priority:
    """Return the class from whose queue a message came; a queue that runs low is refilled by those who take from it."""
    queue = (task.request.delivery_info or {}).get("routing_key")
    return next((priority for priority, name in QUEUES.items() if name == queue), Priority.NORMAL)


def _look_after_queue(task: Any, process: WorkerProcess, priority: Priority, *, is_known: bool) -> None:
    """Refill a queue that runs low, so that no worker is idle until the next sweep, and count an unknown job."""
    publisher = Publisher(task.app, process.settings)
    try:
        failpoint(Point.WORKER_BEFORE_TOP_UP, MemoryError)
        if not is_known:
            publisher.note_refused()
        publisher.publish_due(process.engine, priority, below=process.settings.queue_high_water * _LOW_WATER)
    except (BrokerUnavailable, DatabaseError) as error:
        _log.warning("the queue was not refilled: %s", error)
    except Exception:  # noqa: BLE001  # boundary of a delivery: a MemoryError from a task would end the worker
        _log.exception("the queue was not refilled")
