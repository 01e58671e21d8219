"""A filter before Celery: it passes messages that ask to score one job, and drops, logs and counts all others.

Celery trusts its broker. A message may name any registered task, set time limits, delay itself or call other tasks at
its end, and a message that is no JSON object ends the worker's main process. Everyone who can write to the queue can
send such messages. So the filter reads the job's id from each message, and hands Celery a new message that it made of
that id.
"""

import base64
import binascii
import json
import logging
import re
from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, QoS, Transport
from redis.exceptions import RedisError

from worker.queue.publisher import QUEUE, REFUSED_KEY, SCORE_TASK

_log = logging.getLogger(__name__)

_LONGEST_BODY: Final = 1_000
_ID = re.compile(r"[0-9a-f-]{36}")
_JOB_ID = re.compile(r"[0-9a-f]{32}")


class Refused(Exception):
    """A message that Nightread did not send; the text names the fault, never the content."""


class GuardedQoS(QoS):
    """A record of unacknowledged messages that stays right after a failed acknowledgement.

    Celery logs a failed acknowledgement and continues. Kombu's record would keep the message as being worked on for
    ever, and a worker that takes one message at a time would take no other. It would not notice the lost connection,
    since only asking for the next message shows it. Redis redelivers the message, and its job is found done.
    """

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message, and forget it even if that fails."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except (RedisError, OSError):
            self._quick_ack(delivery_tag)
            raise

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  # kombu's signature
        """Reject a message, and forget it even if that fails."""
        try:
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]
        except (RedisError, OSError):
            self._quick_ack(delivery_tag)
            raise


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
            fault = "no JSON"
        self._count_refused(fault)
        return True

    def _count_refused(self, fault: str) -> None:
        GuardedTransport.refused += 1
        count = GuardedTransport.refused
        if count & (count - 1) == 0:  # at 1, 2, 4, 8: many refused messages must not write as many lines
            _log.warning("a message in the queue was refused: %s; %d so far by this worker", fault, count)
        try:
            with self.conn_or_acquire() as client:
                client.incr(REFUSED_KEY)
        except RedisError as error:
            _log.warning("a refused message was not counted: %s", type(error).__name__)


class GuardedTransport(Transport):
    """The Redis transport, with every message filtered before its delivery."""

    Channel = GuardedChannel

    is_decoded = False
    refused = 0

    def _deliver(self, message: Any, queue: str) -> None:
        self.is_decoded = True
        cleaned = clean_message(message) if queue == QUEUE else message
        super()._deliver(cleaned, queue)  # type: ignore[no-untyped-call]


def guard_redis() -> None:
    """Filter every connection to Redis that this process opens from now on."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{GuardedTransport.__name__}"


def clean_message(message: Any) -> dict[str, Any]:
    """Return a new message for the job of `message`; everything else in it is left out.

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
            "delivery_info": {"exchange": "", "routing_key": QUEUE}, "delivery_tag": tag,
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
