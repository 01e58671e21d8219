"""Tables and progress bars, drawn with Rich."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from cli.output.bar import Bar

#: Names of files and runs are printed as they are: none of them colors, links or draws anything.
_make_console = partial(Console, highlight=False, markup=False, emoji=False)
#: Data. Without a terminal it is as wide as it needs to be: nothing is cut or wrapped.
out = _make_console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 10_000)
#: Messages and progress, on a terminal.
err = _make_console(stderr=True)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} scans/s" if speed else "", style="progress.data.speed")


@contextmanager
def draw_bar(description: str, total: int | None) -> Iterator[Bar]:
    """Show a bar with count, rate and remaining time on stderr."""
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(), console=err, transient=True,
    )  # fmt: skip
    with progress:
        yield _DrawnBar(progress, progress.add_task(description, total=total))


class _DrawnBar(Bar):
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def set(self, completed: int, total: int, description: str | None = None) -> None:
        changes: dict[str, Any] = {"description": description} if description else {}
        self._progress.update(self._task, completed=completed, total=total, **changes)


def make_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table; columns in `right` hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table
