"""The two Celery tasks. They take ids and return nothing; the work is in plain functions that need no Celery."""

import logging
from typing import Any

from celery import shared_task
from celery.signals import worker_process_init

from db.errors import DatabaseError
from failpoints.points import Point, failpoint
from nightread.errors import NightreadError
from nightread.logs import configure_logging
from nightread.settings import Settings, read_settings
from worker.errors import BrokerUnavailable
from worker.process import WorkerProcess, current_process, has_process
from worker.publisher import SCORE_TASK, SWEEP_TASK, Publisher
from worker.scoring import attend_job

_log = logging.getLogger(__name__)

#: Below this share of the high-water mark a worker that has ended a job publishes the next ones.
_LOW_WATER = 0.5


@shared_task(name=SCORE_TASK, bind=True)
def score_job_task(task: Any, job_id: str) -> None:
    """Score one job; the message is acknowledged after its results are committed."""
    process = _find_process(task)
    attend_job(process, job_id)
    failpoint(Point.WORKER_BEFORE_TOP_UP)
    _top_up(task, process)
    failpoint(Point.WORKER_BEFORE_ACK)
    if process.settings.has_shared_broker and process.decoder.is_stuck:
        # A thread cannot be ended, but this process can: its job is committed, and Celery starts another.
        _log.warning("a decoder does not come back: this process ends, and another takes its place")
        raise SystemExit(0)


@shared_task(name=SWEEP_TASK, bind=True)
def sweep_task(task: Any) -> None:
    """Publish again what was lost; beat sends this every `sweep_s`."""
    process = _find_process(task)
    try:
        Publisher(task.app, process.settings).sweep(process.engine)
    except (NightreadError, DatabaseError) as error:
        _log.error("sweep: %s", error)


@worker_process_init.connect
def _configure_child(**_: Any) -> None:
    """Write a pool process's log as the main process does; a spawned one has inherited nothing."""
    if not has_process():  # Celery calls its solo pool a process too, and that one's log is set up
        configure_logging(read_settings())


def _find_process(task: Any) -> WorkerProcess:
    settings: Settings | None = getattr(task.app, "nightread", None)
    return current_process(settings or read_settings())


def _top_up(task: Any, process: WorkerProcess) -> None:
    """Refill the queue at once where it runs low, so that no worker idles until the next sweep."""
    if not process.settings.has_shared_broker:
        return  # an embedded run publishes its own jobs, and must not take those of a cluster
    try:
        low_water = process.settings.queue_high_water * _LOW_WATER
        Publisher(task.app, process.settings).publish_due(process.engine, below=low_water)
    except (BrokerUnavailable, DatabaseError) as error:
        _log.warning("the queue was not refilled: %s", error)
