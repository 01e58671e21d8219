"""Makes a process fail at failpoints, for tests. The wheel leaves this file out."""

import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nightread.failpoints import FOLDER_VARIABLE, Point, set_strike

_ANY = "any"
_FAILPOINT = re.compile(
    r"(?P<point>[a-z-]+):(?P<action>kill|stop|exit|raise|sleep-(?P<sleep_s>\d+(\.\d+)?))(:(?P<nth>[1-9]\d*))?"
)


@dataclass(frozen=True, slots=True)
class _Failpoint:
    """One armed failpoint; `passed` counts without a lock, which a fork could inherit while it is held."""

    point: str
    action: str
    nth: int
    sleep_s: float
    passed: Iterator[int] = field(default_factory=lambda: itertools.count(1))


_armed: list[_Failpoint] = []


def arm(text: str) -> None:
    """Replace the armed failpoints of this process and of its future forks.

    Args:
        text: value of the variable; "" disarms.

    Raises:
        ValueError: one line with the fault and the allowed values.
    """
    _armed[:] = parse(text)
    set_strike(_pass if _armed else None)


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
