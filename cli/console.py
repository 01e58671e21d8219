"""How the program talks: data on stdout, talk on stderr, plain where no person looks on."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

#: Data. Without a terminal it is as wide as it needs to be: nothing is cut or wrapped.
out = Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 10_000)
#: Talk.
err = Console(stderr=True, highlight=False)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} scans/s" if speed else "", style="progress.data.speed")


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator["Bar"]:
    """Show a bar with count, rate and remaining time on stderr; without a terminal, show nothing."""
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(), console=err, disable=not err.is_terminal, transient=True,
    )  # fmt: skip
    with progress:
        yield Bar(progress, progress.add_task(description, total=total))


class Bar:
    """A bar that is set to absolute numbers."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress = progress
        self._task = task

    def set(self, completed: int, total: int, description: str | None = None) -> None:
        """Show `completed` of `total`."""
        changes: dict[str, Any] = {"description": description} if description else {}
        self._progress.update(self._task, completed=completed, total=total, **changes)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner on stderr while something of unknown length goes on."""
    if not err.is_terminal:
        yield
        return
    with err.status(what):
        yield


def say(message: str, **style: Any) -> None:
    """Talk to the person at the terminal."""
    err.print(message, markup=False, **style)


def print_json(value: Any) -> None:
    """Print one JSON value on one line of stdout."""
    sys.stdout.write(json.dumps(value, default=_to_json, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")


def make_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table; columns in `right` hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def show_time(time: datetime | None) -> str:
    """Write a time for people, in their own zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else ""


def show_text(text: str | None) -> str:
    """Write text of unknown origin, such as a file name, so that it cannot move the cursor or color the screen."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text or "")


def show_duration(seconds: float) -> str:
    """Write a duration for people."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def silence_stdout() -> None:
    """Point stdout nowhere after its reader has gone, so that the interpreter's last flush does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
