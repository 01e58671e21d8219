"""Failpoints: named places in the code where a process can be made to fail, for tests of what follows.

Here are the names alone. What makes a process fail is `nightread.fault_injection`, which the wheel leaves out: an
installed Nightread passes each point with one look at a variable that is None.

`NIGHTREAD_FAILPOINT=POINT:ACTION[:N][,...]` makes a process fail when it passes a point for the N-th time, by default
the first. `any` stands for every point, so that N = 1, 2, 3, ... crashes a command at each point in turn. The variable
is read once, at the start of a process. Each failpoint strikes once in a process. With `NIGHTREAD_FAILPOINT_DIR` it
strikes once among all processes that share that folder, restarted ones included, and leaves a file there that names the
point.
"""

import contextlib
import os
from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from typing import Any, Final, Self

VARIABLE: Final = "NIGHTREAD_FAILPOINT"
FOLDER_VARIABLE: Final = "NIGHTREAD_FAILPOINT_DIR"


class Point(StrEnum):
    """All points, with their places."""

    where: str

    def __new__(cls, value: str, where: str) -> Self:
        """Create a point from its name and a sentence about its place."""
        point = str.__new__(cls, value)
        point._value_ = value
        point.where = where
        return point

    WRITE_BEFORE_COMMIT = "write-before-commit", "any transaction that writes has done its work and not committed it"
    WRITE_AFTER_COMMIT = "write-after-commit", "any transaction that writes is committed, its caller does not know yet"

    WORKER_BEFORE_CLAIM = "worker-before-claim", "a worker has a message and has not claimed the job"
    WORKER_AFTER_CLAIM = "worker-after-claim", "the claim is committed, no file is open yet"
    WORKER_READING = "worker-reading", "a thread is about to read one file"
    WORKER_AFTER_READ = "worker-after-read", "a window of files is in memory, nothing of it is decoded"
    WORKER_BEFORE_SCORING = "worker-before-scoring", "a batch is prepared, the model has not seen it"
    WORKER_AFTER_SCORING = "worker-after-scoring", "a batch is scored, its scores are in memory alone"
    WORKER_HEARTBEAT = "worker-heartbeat", "the heartbeat is about to renew a lease"
    WORKER_BEFORE_COMMIT = "worker-before-commit", "a job's results are complete and nothing of them is stored"
    WORKER_IN_COMMIT = (
        "worker-in-commit",
        "predictions and the job's end are written, its scans are not, nothing is committed",
    )
    WORKER_PUT_OFF = "worker-put-off", "a job with transient faults is queued again, not committed"
    WORKER_GIVE_BACK = "worker-give-back", "a job that ended in an error is queued again, not committed"
    WORKER_IN_SPLIT = "worker-in-split", "a job has ended and its halves are written, its scans belong to it still"
    WORKER_AFTER_COMMIT = "worker-after-commit", "a job's results are committed, its run is not closed"
    WORKER_BEFORE_TOP_UP = (
        "worker-before-top-up",
        "a job has ended, the queue is not refilled, the message not acknowledged",
    )
    WORKER_BEFORE_ACK = "worker-before-ack", "everything is done except to acknowledge the message"

    ENQUEUE_IN_TRANSACTION = (
        "enqueue-in-transaction",
        "run and jobs are written, the scans are not, nothing is committed",
    )
    ENQUEUE_BEFORE_COMMIT = "enqueue-before-commit", "run, jobs and scans are written, nothing is committed"
    ENQUEUE_AFTER_COMMIT = "enqueue-after-commit", "the run is committed, no job of it is published"

    PUBLISH_AFTER_MARK = "publish-after-mark", "jobs are marked as published, no message is sent"
    PUBLISH_BETWEEN = "publish-between", "some messages are sent, the next one is not"
    PUBLISH_AFTER_SENDING = "publish-after-sending", "every message is sent"
    PUBLISH_BEFORE_UNMARK = "publish-before-unmark", "sending has failed, the jobs are still marked as published"

    SWEEP_BEFORE = "sweep-before", "a sweep begins, and has looked at nothing"
    SWEEP_IN_CLOSING = "sweep-in-closing", "ended runs are found and locked, not closed"
    SWEEP_AFTER_CLOSING = "sweep-after-closing", "ended runs are closed, nothing is republished"

    RECEIVE_BEFORE_RENAME = "receive-before-rename", "a received instance is on disk under a temporary name"
    RECEIVE_AFTER_RENAME = "receive-after-rename", "a received instance is in the spool, its sender does not know yet"
    RECEIVE_AFTER_BATCH = "receive-after-batch", "a batch of quiet studies is written down, its run is not"
    RECEIVE_BEFORE_DONE = "receive-before-done", "the run of a batch is committed, the batch is not marked"

    SEND_BEFORE = "send-before", "a delivery is claimed, its object is not made"
    SEND_AFTER = "send-after", "the destination has an object, nothing of that is stored"

    NOTIFY_BEFORE = "notify-before", "a notice is claimed, nobody is told yet"
    NOTIFY_AFTER = "notify-after", "an address was told, nothing of that is stored"

    RETRY_IN_TRANSACTION = (
        "retry-in-transaction",
        "some failed scans are queued again, the run is not, nothing is committed",
    )
    RETRY_AFTER_COMMIT = "retry-after-commit", "failed scans are queued again and committed, nothing is published"
    CANCEL_IN_TRANSACTION = (
        "cancel-in-transaction",
        "some of a run's jobs have ended, their scans and the run have not, nothing is committed",
    )
    PRUNE_IN_TRANSACTION = "prune-in-transaction", "some scans of an old run are deleted, nothing is committed"
    PROMOTE_IN_TRANSACTION = (
        "promote-in-transaction",
        "the old model is out of production, its successor is not in it yet",
    )
    MIGRATE_AFTER_REVISION = "migrate-after-revision", "one migration has run, the next has not, nothing is committed"


class Struck(RuntimeError):
    """Error of a failpoint without an error of its own: stands for an unexpected error."""


#: What an armed point does with its error; None: nothing is armed.
Strike = Callable[[Point, Callable[[str], BaseException]], None]
_INJECTION: Final = "nightread.fault_injection"
_strike: Strike | None = None


def failpoint(point: Point, fault: Callable[[str], BaseException] = Struck) -> None:
    """Fail here if the failpoint is armed.

    Args:
        point: this place.
        fault: makes the error to raise from a message.
    """
    if _strike is not None:
        _strike(point, fault)


def set_strike(strike: Strike | None) -> None:
    """Call `strike` at each point from now on; None: at none."""
    global _strike  # noqa: PLW0603  # of this process and of its future forks
    _strike = strike


def arm(text: str) -> None:
    """Replace the armed failpoints of this process and of its future forks.

    Args:
        text: value of `NIGHTREAD_FAILPOINT`; "" disarms.

    Raises:
        ValueError: one line with the fault and the allowed values, or that this installation injects no faults.
    """
    if text or _strike is not None:
        _load_injection().arm(text)


def check(text: str) -> None:
    """Check a value of `NIGHTREAD_FAILPOINT`.

    Raises:
        ValueError: one line with the fault and the allowed values, or that this installation injects no faults.
    """
    if text:
        _load_injection().parse(text)


def describe_armed() -> str:
    """Return the armed failpoints of this process as text; "" if there are none."""
    return "" if _strike is None else str(_load_injection().describe_armed())


def _load_injection() -> Any:
    try:
        return import_module(_INJECTION)
    except ImportError:
        raise ValueError("it is for tests; an installed Nightread injects no faults, a clone of it does") from None


with contextlib.suppress(ValueError):  # `read_settings` reports it together with other faults
    arm(os.environ.get(VARIABLE, ""))
