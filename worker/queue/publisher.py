"""Publisher of due jobs: one small message per job, up to the queue's high-water mark."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import NoPermissionError, ResponseError
from sqlalchemy import Connection, Engine

from db.dialects import try_advisory_lock, wait_for_advisory_lock
from db.due_jobs import count_just_published, mark_unpublished, take_due_jobs
from db.engine import write
from db.types import Priority
from nightread.errors import DatabaseUnavailable
from nightread.failpoints import Point, failpoint
from nightread.settings import Settings
from worker.errors import BrokerUnavailable
from worker.queue.broker import explain_broker
from worker.queue.turns import QUEUES
from worker.report.notice import notify_ended
from worker.runs.guards import end_runs

_log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

#: The queue of runs without another priority.
QUEUE = QUEUES[Priority.NORMAL]
SCORE_TASK = "nightread.score_job"
#: Of all keys in Redis.
PREFIX = "nightread:"
#: Redis key: refused messages since Redis started empty. Kombu does not add its prefix to it.
REFUSED_KEY = f"{PREFIX}refused"

#: In Redis' answer about a key that holds another type than the command's.
WRONG_TYPE = "WRONGTYPE"
_NO_COUNT = (WRONG_TYPE, "value is not an integer", "increment or decrement would overflow")

_LEADER_LOCK = 7_201_121
#: With an empty queue, a message that was not claimed in this time counts as lost.
_EMPTY_QUEUE_S = 10.0
#: Jobs that were marked less than this ago count as in-flight messages; sending takes less.
_SENDING_S = 1.0


class Publisher:
    """Sends job ids to the broker."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        connection = app.connection_for_read()  # does not connect; it names its transport's errors
        self._errors = (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)

    def publish(self, job_ids: Sequence[str], priority: Priority = Priority.NORMAL) -> None:
        """Send one message per job, to the queue of a class.

        Raises:
            BrokerUnavailable: some may not have been sent; a second message for a job is harmless.
        """
        queue = QUEUES[priority]
        try:
            with self._app.producer_pool.acquire(block=True, timeout=10) as producer:
                for job_id in job_ids:
                    self._app.send_task(SCORE_TASK, args=[job_id], queue=queue, producer=producer, ignore_result=True)
                    failpoint(Point.PUBLISH_BETWEEN, ConnectionError)
        except self._errors as error:
            raise explain_broker(error, self._settings) from None

    def count_waiting(self, priority: Priority = Priority.NORMAL) -> int:
        """Return the number of waiting messages of a class.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        count = partial(_count_waiting, QUEUES[priority])
        with contextlib.suppress(*self._errors), self._app.pool.acquire(block=True, timeout=10) as connection:
            return count(connection)  # called after each job: a new connection would take 3 ms of a core
        return self._ask(count)  # the pooled connection may have been lost since its last use

    def count_refused(self) -> int:
        """Return the number of messages that workers have refused.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        return self._ask(lambda connection: _read_refused(connection.default_channel.client))

    def find_eviction(self) -> str:
        """Return the policy by which a full Redis drops messages in silence; "" if it drops none, or does not say.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        return self._ask(lambda connection: _find_eviction(connection.default_channel.client))

    def check_rights(self) -> None:
        """Check that messages can be sent: Redis checks rights and memory of a command before its transaction ends.

        Raises:
            BrokerUnavailable: it takes no message; the message says why.
        """

        def try_to_send(connection: Any) -> int:
            client = connection.default_channel.client.client()  # one connection for the whole transaction
            try:
                client.execute_command("MULTI")
                client.execute_command("LPUSH", f"nightread:{QUEUE}", "")
            finally:
                client.execute_command("DISCARD")
                client.close()
            return 0

        self._ask(try_to_send)

    def note_refused(self) -> None:
        """Count one more refused message.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        self._ask(lambda connection: increment_refused(connection.default_channel.client))

    def _ask(self, question: Callable[[Any], _Answer]) -> _Answer:
        """Return the answer of the broker over a new connection."""
        try:
            with self._app.connection_for_read() as connection:
                return question(connection)
        except self._errors as error:
            raise explain_broker(error, self._settings) from None

    def publish_due(
        self,
        engine: Engine,
        priority: Priority | None = None,
        *,
        only_leader: bool = False,
        below: float | None = None,
    ) -> int:
        """Publish due jobs up to the high-water mark of each queue; returns how many.

        The runs of a class share the room in its queue. A class has a queue of its own, so that its first message
        waits for no job of another.

        Jobs are marked in the database before they are sent, so that two publishers do not send the same ones. If
        sending fails, the mark is removed; if this process dies before, the jobs are due again after the lease time.

        One process marks at a time, and counts jobs that were marked a moment ago as in-flight messages: two processes
        that count at once would fill the queue twice. Only a command that has just created a run waits for its turn.

        Args:
            engine: the database.
            priority: of this class alone; None: of all, highest first.
            only_leader: do nothing if another process is publishing.
            below: do nothing unless fewer messages than this are waiting.

        Raises:
            BrokerUnavailable: nothing is lost; the jobs stay due.
        """
        if priority is None:
            published = sum(self.publish_due(engine, each, only_leader=only_leader, below=below) for each in QUEUES)
            if not published and not only_leader and below is None:
                self.check_rights()  # a sweep has just taken the command's jobs, and may be unable to send them
            return published
        waiting = self.count_waiting(priority)
        room = self._settings.queue_high_water - waiting
        if room <= 0 or (below is not None and waiting >= below):
            return 0
        republish_s = self._settings.lease_s if waiting else min(_EMPTY_QUEUE_S, self._settings.lease_s)

        def take(connection: Connection) -> list[str]:
            if only_leader or below is not None:
                if not try_advisory_lock(connection, _LEADER_LOCK):
                    return []  # the other process fills the queue
            else:
                wait_for_advisory_lock(connection, _LEADER_LOCK)
            in_flight = count_just_published(connection, _SENDING_S, priority)
            return take_due_jobs(connection, room - in_flight, republish_s, priority=priority)

        job_ids = write(engine, take)
        if not job_ids:
            return 0
        failpoint(Point.PUBLISH_AFTER_MARK)
        try:
            self.publish(job_ids, priority)
            failpoint(Point.PUBLISH_AFTER_SENDING)
        except BrokerUnavailable:
            failpoint(Point.PUBLISH_BEFORE_UNMARK, DatabaseUnavailable)
            write(engine, lambda connection: mark_unpublished(connection, job_ids))
            raise
        return len(job_ids)

    def sweep(self, engine: Engine) -> int:
        """Close and judge ended runs, and republish lost jobs; one process at a time does the work.

        Returns:
            The number of published jobs.

        Raises:
            BrokerUnavailable: nothing is lost; the jobs stay due.
        """
        failpoint(Point.SWEEP_BEFORE, DatabaseUnavailable)
        end_runs(engine)
        failpoint(Point.SWEEP_AFTER_CLOSING)
        published = self.publish_due(engine, only_leader=True)
        if published:
            _log.info("swept: %d jobs published", published)
        notify_ended(engine, self._settings)
        return published


def name_queues(priorities: Sequence[Priority]) -> list[str]:
    """Return the queues of some classes of runs."""
    return [QUEUES[priority] for priority in priorities]


def increment_refused(client: Any) -> None:
    """Count one refused message in Redis; a count that is no number begins anew.

    Raises:
        RedisError: Redis does not answer, or refuses.
    """
    try:
        client.incr(REFUSED_KEY)
    except ResponseError as error:
        if not str(error).startswith(_NO_COUNT):
            raise
        client.set(REFUSED_KEY.removeprefix(PREFIX), 1)  # kombu adds the prefix; replaces a key of any type


def _read_refused(client: Any) -> int:
    """Return the count of refused messages, 0 if the key holds no number."""
    try:
        return int(client.get(REFUSED_KEY) or 0)
    except ValueError:
        return 0
    except ResponseError as error:
        if WRONG_TYPE not in str(error):
            raise
        return 0


def _find_eviction(client: Any) -> str:
    try:
        policy = str(client.info("memory").get("maxmemory_policy", ""))
    except NoPermissionError:  # such as one of an older docker/users.acl
        return ""
    return policy if policy.startswith("allkeys") else ""  # no key of a queue expires, so `volatile` spares them


def _count_waiting(queue: str, connection: Any) -> int:
    connection.ensure_connection(max_retries=1, timeout=5, interval_start=0.2)
    channel = connection.default_channel
    channel.queue_declare(queue=queue, durable=True)
    return int(channel._size(queue))  # noqa: SLF001  # LLEN; kombu has no public name for it
