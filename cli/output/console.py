"""How the program talks: data on stdout, talk on stderr, plain where no person looks on.

What is drawn (bars, tables) is in `cli.output.tables`, which is imported only where something is: Rich takes its time.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any


class Bar:
    """A bar that is set to absolute numbers; this one shows nothing."""

    def set(self, completed: int, total: int, description: str | None = None) -> None:
        """Show `completed` of `total`."""


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Bar]:
    """Show a bar with count, rate and remaining time on stderr; without a terminal, show nothing."""
    if not sys.stderr.isatty():
        yield Bar()
        return
    from cli.output.tables import draw_bar

    with draw_bar(description, total) as bar:
        yield bar


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner on stderr while something of unknown length goes on."""
    if not sys.stderr.isatty():
        yield
        return
    from cli.output.tables import err

    with err.status(what):
        yield


def say(message: str, *, style: str | None = None) -> None:
    """Talk to the person at the terminal."""
    if not sys.stderr.isatty():
        sys.stderr.write(f"{message}\n")
        return
    from cli.output.tables import err

    err.print(message, markup=False, style=style)


def print_json(value: Any) -> None:
    """Print one JSON value on one line of stdout."""
    sys.stdout.write(json.dumps(value, default=_to_json, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")


def show_time(time: datetime | None) -> str:
    """Write a time for people, in their own zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else ""


def silence_stdout() -> None:
    """Point stdout nowhere after its reader has gone, so that the interpreter's last flush does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
