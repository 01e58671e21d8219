"""Telling workers that there are jobs: one small message a job, never more than the queue should hold."""

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy import Connection, Engine

from db.dialects import try_advisory_lock, wait_for_advisory_lock
from db.due_jobs import count_just_published, mark_unpublished, take_due_jobs
from db.engine import write
from db.runs import close_finished_runs
from nightread.errors import DatabaseUnavailable
from nightread.failpoints import Point, failpoint
from nightread.settings import Settings
from worker.errors import BrokerUnavailable

_log = logging.getLogger(__name__)

QUEUE = "nightread"
SCORE_TASK = "nightread.score_job"
#: What was refused in the queue since Redis was started empty; kombu does not put its prefix before it.
REFUSED_KEY = "nightread:refused"

_LEADER_LOCK = 7_201_121
#: A message that lies in no queue and was not claimed in this time is taken for lost.
_EMPTY_QUEUE_S = 10.0
#: Longer than it takes to send what was marked.
_SENDING_S = 1.0


class Publisher:
    """Sends job ids to the broker."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        connection = app.connection_for_read()  # connects to nothing: it is asked for its transport's errors
        self._errors = (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)

    def publish(self, job_ids: Sequence[str]) -> None:
        """Send one message a job.

        Raises:
            BrokerUnavailable: some were perhaps not sent; sending one twice is harmless.
        """
        try:
            with self._app.producer_pool.acquire(block=True, timeout=10) as producer:
                for job_id in job_ids:
                    self._app.send_task(SCORE_TASK, args=[job_id], queue=QUEUE, producer=producer, ignore_result=True)
                    failpoint(Point.PUBLISH_BETWEEN, ConnectionError)
        except self._errors as error:
            raise explain_broker(error, self._settings) from None

    def count_waiting(self) -> int:
        """Return how many messages lie in the queue.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        with contextlib.suppress(*self._errors), self._app.pool.acquire(block=True, timeout=10) as connection:
            return _count_waiting(connection)  # at each end of a job: a connection of its own would take 3 ms of a core
        try:  # that one may have been lost since it was used last
            with self._app.connection_for_read() as connection:
                return _count_waiting(connection)
        except self._errors as error:
            raise explain_broker(error, self._settings) from None

    def count_refused(self) -> int:
        """Return how many messages workers have refused, since they were none of ours.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        try:
            with self._app.connection_for_read() as connection:
                return int(connection.default_channel.client.get(REFUSED_KEY) or 0)
        except self._errors as error:
            raise explain_broker(error, self._settings) from None

    def note_refused(self) -> None:
        """Count a message that is none of ours.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        try:
            with self._app.connection_for_write() as connection:
                connection.default_channel.client.incr(REFUSED_KEY)
        except self._errors as error:
            raise explain_broker(error, self._settings) from None

    def publish_due(self, engine: Engine, *, only_leader: bool = False, below: float | None = None) -> int:
        """Publish what is due, oldest first, until the queue is at its high-water mark; returns how many.

        The mark in the database comes first, so that two publishers do not send the same jobs; where sending fails the
        mark is taken back, and where this process dies in between, the jobs are due again after the lease time.

        One process marks at a time, and takes what was marked a moment ago for messages on their way: else two that
        count at once would fill the queue up twice. Nobody waits for another to do it but who has made a run.

        Args:
            engine: the database.
            only_leader: do nothing where another process is publishing.
            below: do nothing unless fewer messages than this wait.

        Raises:
            BrokerUnavailable: nothing is lost; they stay due.
        """
        waiting = self.count_waiting()
        room = self._settings.queue_high_water - waiting
        if room <= 0 or (below is not None and waiting >= below):
            return 0
        republish_s = self._settings.lease_s if waiting else min(_EMPTY_QUEUE_S, self._settings.lease_s)

        def take(connection: Connection) -> list[str]:
            if only_leader or below is not None:
                if not try_advisory_lock(connection, _LEADER_LOCK):
                    return []  # the other one fills the queue
            else:
                wait_for_advisory_lock(connection, _LEADER_LOCK)
            on_their_way = count_just_published(connection, _SENDING_S)
            return take_due_jobs(connection, room - on_their_way, republish_s)

        job_ids = write(engine, take)
        if not job_ids:
            return 0
        failpoint(Point.PUBLISH_AFTER_MARK)
        try:
            self.publish(job_ids)
            failpoint(Point.PUBLISH_AFTER_SENDING)
        except BrokerUnavailable:
            failpoint(Point.PUBLISH_BEFORE_UNMARK, DatabaseUnavailable)
            write(engine, lambda connection: mark_unpublished(connection, job_ids))
            raise
        return len(job_ids)

    def sweep(self, engine: Engine) -> int:
        """Close runs that have ended and publish what was lost; one process at a time does the work.

        Returns:
            How many jobs were published.

        Raises:
            BrokerUnavailable: nothing is lost; they stay due.
        """
        failpoint(Point.SWEEP_BEFORE, DatabaseUnavailable)
        write(engine, close_finished_runs)
        failpoint(Point.SWEEP_AFTER_CLOSING)
        published = self.publish_due(engine, only_leader=True)
        if published:
            _log.info("swept: %d jobs published", published)
        return published


def _count_waiting(connection: Any) -> int:
    connection.ensure_connection(max_retries=1, timeout=5, interval_start=0.2)
    channel = connection.default_channel
    channel.queue_declare(queue=QUEUE, durable=True)
    return int(channel._size(QUEUE))  # noqa: SLF001  # LLEN; kombu has no public name for it


def explain_broker(error: BaseException, settings: Settings) -> BrokerUnavailable:
    """Tell a broker's error in one line, without its password."""
    host = settings.broker_url.get_secret_value().rpartition("@")[2].partition("?")[0].removeprefix("redis://")
    said = "its certificate is not accepted" if "CERTIFICATE_VERIFY_FAILED" in str(error) else type(error).__name__
    return BrokerUnavailable(
        f"the broker {host} does not answer: {said}; start it or set NIGHTREAD_BROKER_URL. "
        "What is in the database stays there, and is published when the broker is back"
    )
