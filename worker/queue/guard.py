"""A filter before Celery: it passes messages that ask to score one job, and drops, logs and counts all others.

Celery trusts its broker. A message may name any registered task, set time limits, delay itself or call other tasks at
its end, and a message that is no JSON object ends the worker's main process. Everyone who can write to the queue can
send such messages. So the filter reads the job's id from each message, and hands Celery a new message that it made of
that id. The messages that Celery keeps in Redis until they are acknowledged are filtered when they are restored, and a
key of another type than Celery's is deleted: the database knows which jobs are unfinished.
"""

import base64
import binascii
import contextlib
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, QoS, SentinelChannel, SentinelTransport, Transport
from redis.exceptions import RedisError, ResponseError

from worker.queue.publisher import QUEUE, SCORE_TASK, WRONG_TYPE, increment_refused
from worker.queue.turns import QUEUES

_log = logging.getLogger(__name__)

_QUEUES: Final = tuple(QUEUES.values())
_LONGEST_BODY: Final = 1_000
_ID = re.compile(r"[0-9a-f-]{36}")
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_NO_JSON: Final = "no JSON"
_REFUSED_PAUSE_S: Final = 2.0


class Refused(Exception):
    """A message that Nightread did not send; the text names the fault, never the content."""


class GuardedQoS(QoS):
    """A record of unacknowledged messages that survives any content of its keys, and a failed acknowledgement.

    Celery logs a failed acknowledgement and continues. Kombu's record would keep the message as being worked on for
    ever, and a worker that takes one message at a time would take no other. It would not notice the lost connection,
    since only asking for the next message shows it. Redis redelivers the message, and its job is found done.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        """Record a message as delivered."""
        try:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            _raise_unless_wrong_type(error)
            self.channel.drop_wrong_types()
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message, and forget it even if that fails."""
        with self._forgetting(delivery_tag):
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  # kombu's signature
        """Reject a message, and forget it even if that fails."""
        with self._forgetting(delivery_tag):
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _forgetting(self, delivery_tag: str) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            self._quick_ack(delivery_tag)
            _raise_unless_wrong_type(error)
            self.channel.drop_wrong_types()

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:
        """Return the messages of dead workers to the queue."""
        self.channel.drop_wrong_types()
        super().restore_visible(start, num, interval)  # type: ignore[no-untyped-call]

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
        """Return one message to the queue; an entry that is no message of Nightread is dropped and counted."""
        faults: list[str] = []

        def restore(pipe: Any) -> None:
            stored = pipe.hget(self.unacked_key, tag)
            pipe.multi()
            self._remove_from_indices(tag, pipe)  # type: ignore[no-untyped-call]
            faults.clear()  # Redis repeats a transaction whose key has changed meanwhile
            if stored is None:
                return
            try:
                message, queue = _read_stored(stored)
            except Refused as refused:
                faults.append(str(refused))
            else:
                self.channel._do_restore_message(message, "", queue, pipe, leftmost)  # noqa: SLF001

        with self.channel.conn_or_acquire(client) as connected:
            connected.transaction(restore, self.unacked_key)
        for fault in faults:
            self.channel.count_refused(f"{fault}, among those not acknowledged")


class GuardedChannel(Channel):
    """A channel that survives any content of the queue."""

    QoS = GuardedQoS

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002  # kombu's signature
        # With protocol version 3 redis-py requests notifications that only Redis' cloud has, and that users.acl denies.
        return {**super()._connparams(asynchronous), "protocol": 2}  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> Any:
        self.connection.is_decoded = False
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except Refused as refused:
            fault = str(refused)
        except (ValueError, RecursionError):
            if self.connection.is_decoded:  # raised by the receiver of the message
                raise
            fault = _NO_JSON
        except ResponseError as error:
            _raise_unless_wrong_type(error)
            self.drop_wrong_types()
            return True
        self.count_refused(fault)
        return True

    def _size(self, queue: str) -> int:
        try:
            return int(super()._size(queue))  # type: ignore[no-untyped-call]
        except ResponseError as error:
            _raise_unless_wrong_type(error)
            self.drop_wrong_types()  # as a publisher may not: workers do it in their next ten seconds
            return int(super()._size(queue))  # type: ignore[no-untyped-call]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Store no binding: messages are sent to the queue by its name, and stored bindings could be forged."""

    def drop_wrong_types(self) -> None:
        """Delete each key of the queue that has another type than Celery's.

        Redis answers every command on such a key with an error, which would end each worker that starts.
        """
        keys = [
            self._q_for_pri(queue, priority)  # type: ignore[no-untyped-call]
            for queue in _QUEUES
            for priority in self.priority_steps
        ]
        others = [self.unacked_key, self.unacked_index_key, self.unacked_mutex_key]
        with self.conn_or_acquire() as client:
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.llen(key)
                pipe.hget(others[0], "").zrange(others[1], 0, 0)
                pipe.get(self.global_keyprefix + others[2])  # kombu adds its prefix to other commands only
                answers = pipe.execute(raise_on_error=False)
            for key, answer in zip(keys + others, answers, strict=True):
                if isinstance(answer, Exception):
                    _raise_unless_wrong_type(answer)
                    client.delete(key)
                    self.count_refused(f"the key {key} has the wrong type")

    def count_refused(self, fault: str) -> None:
        """Count and log something in Redis that Nightread did not write."""
        GuardedTransport.refused += 1
        count = GuardedTransport.refused
        if count & (count - 1) == 0:  # at 1, 2, 4, 8: many refused messages must not write as many lines
            _log.warning("a message in the queue was refused: %s; %d so far by this worker", fault, count)
        try:
            with self.conn_or_acquire() as client:
                increment_refused(client)
        except RedisError as error:
            _log.warning("a refused message was not counted: %s", type(error).__name__)


class GuardedTransport(Transport):
    """The Redis transport, with every message filtered before its delivery."""

    Channel = GuardedChannel
    # A server that refuses a command may accept it later or elsewhere: it is a replica since a failover, its disk or
    # memory is full, its users change. Celery ends the worker for an error that is none of the connection.
    connection_errors = (*Transport.connection_errors, ResponseError)

    is_decoded = False
    refused = 0

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Start to consume; after a refusal, wait before Celery tries again, since it would do so at once."""
        try:
            super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        except ResponseError:
            time.sleep(_REFUSED_PAUSE_S)
            raise

    def _deliver(self, message: Any, queue: str) -> None:
        self.is_decoded = True
        cleaned = clean_message(message, queue) if queue in _QUEUES else message
        super()._deliver(cleaned, queue)  # type: ignore[no-untyped-call]


class GuardedSentinelChannel(GuardedChannel, SentinelChannel):
    """A guarded channel to the Redis that Sentinel names as the primary."""


class GuardedSentinelTransport(GuardedTransport, SentinelTransport):
    """The Redis transport through Sentinel, with every message filtered before its delivery."""

    Channel = GuardedSentinelChannel


def guard_redis() -> None:
    """Filter every connection to Redis that this process opens from now on."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{GuardedTransport.__name__}"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:{GuardedSentinelTransport.__name__}"


def _raise_unless_wrong_type(error: Exception) -> None:
    if WRONG_TYPE not in str(error):  # in a pipeline the command comes first
        raise error


def _read_stored(stored: Any) -> tuple[dict[str, Any], str]:
    """Return the message of an entry [message, exchange, routing key], cleaned, and its queue.

    Raises:
        Refused: Nightread did not send it.
    """
    try:
        entry = json.loads(stored)
    except (ValueError, RecursionError):
        raise Refused(_NO_JSON) from None
    if not isinstance(entry, list) or len(entry) != 3:
        raise Refused("no entry of three parts")
    queue = entry[2] if entry[2] in _QUEUES else QUEUE
    return clean_message(entry[0], queue), queue


def clean_message(message: Any, queue: str = QUEUE) -> dict[str, Any]:
    """Return a new message for the job of `message`, from a queue; everything else in it is left out.

    Raises:
        Refused: Nightread did not send it.
    """
    if not isinstance(message, dict):
        raise Refused("no object")
    headers, properties = (_take_object(message, name) for name in ("headers", "properties"))
    if headers.get("task") != SCORE_TASK:
        raise Refused("an unknown task")
    if (message.get("content-type"), message.get("content-encoding")) != ("application/json", "utf-8"):
        raise Refused("a content type that is not JSON")
    task_id, tag = headers.get("id"), properties.get("delivery_tag")
    if not all(isinstance(value, str) and _ID.fullmatch(value) for value in (task_id, tag)):
        raise Refused("no id")
    arguments = [_read_job_id(message.get("body"))]
    return {
        "body": _encode([arguments, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": SCORE_TASK, "id": task_id, "root_id": task_id, "parent_id": None, "group": None,
            "eta": None, "expires": None, "retries": 0, "timelimit": [None, None],
            "argsrepr": repr(arguments), "kwargsrepr": "{}", "ignore_result": True,
        },
        "properties": {
            "correlation_id": task_id, "reply_to": "", "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": queue}, "delivery_tag": tag,
        },
    }  # fmt: skip


def _take_object(message: dict[str, Any], name: str) -> dict[str, Any]:
    value = message.get(name)
    if not isinstance(value, dict):
        raise Refused(f"no {name}")
    return value


def _read_job_id(body: Any) -> str:
    if not isinstance(body, str) or len(body) > _LONGEST_BODY:
        raise Refused("no body of the right kind")
    try:
        decoded = json.loads(base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise Refused("a body that cannot be read") from None
    match decoded:
        case [[str(job_id)], *_] if _JOB_ID.fullmatch(job_id):
            return job_id
    raise Refused("wrong arguments")


def _encode(body: list[Any]) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()
