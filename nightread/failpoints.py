"""Failpoints: named places in the code where a process can be made to fail, for tests of what follows.

`NIGHTREAD_FAILPOINT=POINT:ACTION[:N][,...]` makes a process fail when it passes a point for the N-th time, by default
the first. `any` stands for every point, so that N = 1, 2, 3, ... crashes a command at each point in turn. The variable
is read once, at the start of a process; without it a point costs one look at an empty list. Each failpoint strikes once
in a process. With `NIGHTREAD_FAILPOINT_DIR` it strikes once among all processes that share that folder, restarted ones
included, and leaves a file there that names the point.
"""

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

VARIABLE: Final = "NIGHTREAD_FAILPOINT"
FOLDER_VARIABLE: Final = "NIGHTREAD_FAILPOINT_DIR"

_ANY = "any"
_FAILPOINT = re.compile(
    r"(?P<point>[a-z-]+):(?P<action>kill|stop|exit|raise|sleep-(?P<sleep_s>\d+(\.\d+)?))(:(?P<nth>[1-9]\d*))?"
)


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


@dataclass(frozen=True, slots=True)
class _Failpoint:
    """One armed failpoint; `passed` counts without a lock, which a fork could inherit while it is held."""

    point: str
    action: str
    nth: int
    sleep_s: float
    passed: Iterator[int] = field(default_factory=lambda: itertools.count(1))


_armed: list[_Failpoint] = []


def failpoint(point: Point, fault: Callable[[str], BaseException] = Struck) -> None:
    """Fail here if the failpoint is armed.

    Args:
        point: this place.
        fault: makes the error to raise from a message.
    """
    if _armed:
        _pass(point, fault)


def arm(text: str) -> None:
    """Replace the armed failpoints of this process and of its future forks.

    Args:
        text: value of `NIGHTREAD_FAILPOINT`; "" disarms.

    Raises:
        ValueError: one line with the fault and the allowed values.
    """
    _armed[:] = parse(text)


def describe_armed() -> str:
    """Return the armed failpoints of this process as text; "" if there are none."""
    return ", ".join(f"{failpoint.point}:{failpoint.action}:{failpoint.nth}" for failpoint in _armed)


def parse(text: str) -> list[_Failpoint]:
    """Return the failpoints of a value of `NIGHTREAD_FAILPOINT`.

    Raises:
        ValueError: one line with the fault and the allowed values.
    """
    return [_parse_one(part.strip()) for part in text.split(",") if part.strip()]


def _parse_one(text: str) -> _Failpoint:
    found = _FAILPOINT.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no failpoint; write POINT:ACTION or POINT:ACTION:N, where ACTION is kill, stop, exit, "
            "raise or sleep-SECONDS"
        )
    if found["point"] != _ANY and found["point"] not in set(Point):
        raise ValueError(f"there is no point {found['point']!r}; there are {_ANY}, {', '.join(sorted(Point))}")
    return _Failpoint(found["point"], found["action"], int(found["nth"] or 1), float(found["sleep_s"] or 0))


def _pass(point: Point, fault: Callable[[str], BaseException]) -> None:
    for armed in _armed:
        if armed.point in {_ANY, point} and next(armed.passed) == armed.nth and _is_first(armed, point):
            _strike(armed, point, fault)


def _is_first(armed: _Failpoint, point: Point) -> bool:
    """Return whether no other process has struck here before, and leave a file for the next ones."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return True
    try:
        with (Path(folder) / f"{armed.point}-{armed.action}-{armed.nth}").open("x") as file:
            file.write(f"{point} {os.getpid()}\n")
    except FileExistsError:
        return False
    return True


def _strike(armed: _Failpoint, point: Point, fault: Callable[[str], BaseException]) -> None:
    match armed.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "exit":
            raise SystemExit(1)
        case "raise":
            raise fault(f"made by the failpoint {point}")
        case _:
            time.sleep(armed.sleep_s)


with contextlib.suppress(ValueError):  # `read_settings` reports it together with other faults
    arm(os.environ.get(VARIABLE, ""))
