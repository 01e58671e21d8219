"""Tables and progress bars, drawn with Rich."""

import os
import re
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from cli.output.bar import Bar, show_count, show_rate
from nightread.text import show_text

_Drawing = TypeVar("_Drawing", Progress, Status)
#: Cells of a table by the title of their column.
_Columns: TypeAlias = dict[str, tuple[Text, ...]]
#: Characters between two columns.
_GAP: Final = 2
#: Scans and sentences get at least so many characters before a spare column is left out.
_NARROW: Final = 28

_LAST_LINES_S: Final = 2.0
#: Held while a line is printed and while a drawing ends: Rich would draw it once more below a line of that moment.
_lines_lock: Final = threading.Lock()
#: Of TensorFlow's log, before and after it is configured.
_TENSORFLOW_LINE: Final = re.compile(
    r"WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:\d|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
)


class _TextConsole(Console):
    """A console that prints what it is given as it is: no text colors, links, draws or moves anything."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text with its control characters escaped; only lines break."""
        return super().render_str("\n".join(map(show_text, text.split("\n"))), **options)


_make_console = partial(_TextConsole, highlight=False, markup=False, emoji=False)
#: Data. Without a terminal it is as wide as it needs to be: nothing is cut or wrapped.
out = _make_console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 10_000)
#: Messages and progress, on a terminal.
err = _make_console(stderr=True)


class _CountColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else show_count(task.total, self._unit)
        return Text(f"{show_count(task.completed, self._unit)}/{total}", style="progress.download")


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(show_rate(speed, self._unit) if speed else "", style="progress.data.speed")


@contextmanager
def draw_bar(description: str, total: int | None, unit: str) -> Iterator[Bar]:
    """Show a bar with count, rate and remaining time on stderr; for the arguments see `progress_bar`."""
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), _CountColumn(unit),
        _RateColumn(unit), TimeElapsedColumn(), TimeRemainingColumn(), console=err, transient=True,
    )  # fmt: skip
    with _drawn(progress):
        yield _DrawnBar(progress, progress.add_task(description, total=total))


@contextmanager
def draw_spinner(what: str) -> Iterator[Status]:
    """Show a spinner on stderr."""
    with _drawn(err.status(what)) as status:
        yield status


@contextmanager
def _drawn(drawing: _Drawing) -> Iterator[_Drawing]:
    """Show a drawing that stays below all lines, and take it away."""
    drawing.start()
    try:
        yield drawing
    finally:
        with _lines_lock:
            drawing.stop()


class _DrawnBar(Bar):
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def set(self, completed: int, total: int, description: str | None = None) -> None:
        changes: dict[str, Any] = {"description": description} if description else {}
        self._progress.update(self._task, completed=completed, total=total or None, **changes)


@contextmanager
def lines_above_bars(*, with_tensorflow: bool = False) -> Iterator[None]:
    """Take what libraries write to file descriptor 2, past Python, and write it line by line above the bars.

    Args:
        with_tensorflow: also lines of TensorFlow's log below fatal, of its build and of GPUs that the machine
            does not have.
    """
    reading_end, writing_end = os.pipe()
    with os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding, errors="backslashreplace") as terminal:
        before, sys.stderr = sys.stderr, terminal
        os.dup2(writing_end, 2)
        os.close(writing_end)
        thread = threading.Thread(target=_print_lines, args=(reading_end, with_tensorflow), daemon=True)
        thread.start()
        try:
            yield
        finally:
            os.dup2(terminal.fileno(), 2)  # the end of the pipe, unless a child has it still
            thread.join(_LAST_LINES_S)
            sys.stderr = before


def _print_lines(reading_end: int, with_tensorflow: bool) -> None:
    with os.fdopen(reading_end, encoding="utf-8", errors="backslashreplace") as lines:
        for line in lines:
            if with_tensorflow or not _TENSORFLOW_LINE.match(line):
                with _lines_lock:
                    err.print(line.rstrip("\n"), soft_wrap=True)


class FittedTable:
    """A table that fits the terminal: a cell stands on one line, and columns share the width.

    If it is too wide, what all rows share is told once above it: the folder of the scans, and columns with one value.
    Then scans are cut in the middle, so that the end of a name stays. Then the columns in `spare` are left out, the
    last one first, and the line above names them. Columns in `text` are wrapped between words. Without a terminal
    nothing is cut, wrapped or left out.
    """

    def __init__(
        self,
        *columns: str,
        right: tuple[str, ...] = (),
        paths: tuple[str, ...] = ("scan",),
        text: tuple[str, ...] = (),
        spare: tuple[str, ...] = (),
    ) -> None:
        self._columns = columns
        self._right = right
        self._paths = paths
        self._text = text
        self._spare = spare
        self._rows: list[tuple[Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row with a cell for each column; control characters are escaped, lines may break in `text` alone."""
        self._rows.append(
            tuple(
                cell if isinstance(cell, Text) else Text(_show(cell) if name in self._text else show_text(cell))
                for name, cell in zip(self._columns, cells, strict=True)
            )
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the table into the width of `options`."""
        columns = dict(zip(self._columns, zip(*self._rows, strict=True), strict=True)) if self._rows else {}
        columns = columns or dict.fromkeys(self._columns, ())
        width = options.max_width
        shared = self._take_out_shared(columns, width)
        hidden = self._take_out_spare(columns, width)
        if shared:
            yield Text(f"all {'; '.join(shared)}", style="dim", overflow="fold")
        if hidden:
            yield Text(f"not shown at this width: {', '.join(hidden)}", style="dim", overflow="fold")
        yield self._draw(columns, _share_width({name: _measure(name, columns[name]) for name in columns}, width))

    def _take_out_shared(self, columns: _Columns, width: int) -> list[str]:
        """Take out what all rows share as long as `columns` are too wide; returns it in words."""
        shared: list[str] = []
        for name in self._paths:
            if name in columns and _needs(columns) > width and (folder := _find_shared_folder(columns[name])):
                columns[name] = tuple(cell[len(folder) :] for cell in columns[name])
                shared.append(f"in {folder}")
        for name in reversed(self._spare):
            if _needs(columns) > width and len(columns[name]) > 1 and len({cell.plain for cell in columns[name]}) == 1:
                value = columns.pop(name)[0].plain
                shared += [f"{name} {value}"] if value else []
        return shared

    def _take_out_spare(self, columns: _Columns, width: int) -> list[str]:
        """Take out spare columns as long as scans and texts would become too narrow; returns their names."""
        hidden = []
        for name in reversed(self._spare):
            if name in columns and _needs(columns, {*self._paths, *self._text}) > width:
                del columns[name]
                hidden.append(name)
        return hidden

    def _draw(self, columns: _Columns, widths: dict[str, int]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for name in columns:
            table.add_column(
                name, justify="right" if name in self._right else "left", width=widths[name], overflow="fold",
                no_wrap=name not in self._text,
            )  # fmt: skip
        drawn = [
            cells if name in self._text else tuple(cut_middle(cell, widths[name]) for cell in cells)
            for name, cells in columns.items()
        ]
        for row in zip(*drawn, strict=True):
            table.add_row(*row)
        return table


def _show(text: str) -> str:
    return "\n".join(map(show_text, text.split("\n")))


def _measure(name: str, cells: tuple[Text, ...]) -> int:
    return max(cell_len(name), 1, *(cell_len(line) for cell in cells for line in cell.plain.split("\n")))


def _needs(columns: _Columns, flexible: Collection[str] = ()) -> int:
    """Return the width of columns in characters; those in `flexible` need at most `_NARROW`."""
    widths = [_measure(name, cells) for name, cells in columns.items()]
    least = [min(width, _NARROW) if name in flexible else width for name, width in zip(columns, widths, strict=True)]
    return sum(least) + _GAP * (len(columns) - 1)


def _share_width(widths: dict[str, int], total: int) -> dict[str, int]:
    """Return widths with a sum of at most `total`: the widest columns become narrower, the others stay."""
    room = total - _GAP * (len(widths) - 1)
    shared: dict[str, int] = {}
    for left, name in zip(range(len(widths), 0, -1), sorted(widths, key=lambda name: widths[name]), strict=True):
        shared[name] = max(1, min(widths[name], room // left))
        room -= shared[name]
    return shared


def _find_shared_folder(cells: tuple[Text, ...]) -> str:
    """Return the folder of all cells with its slash, or "" if there is none or only one cell."""
    paths = {cell.plain for cell in cells}
    shared = os.path.commonprefix(list(paths)) if len(paths) > 1 else ""  # noqa: RUF071  # cut at a slash below
    return shared[: shared.rfind("/") + 1]


def cut_middle(cell: Text, width: int) -> Text:
    """Return text that is at most `width` wide, cut in the middle; the name of a file stays whole if it fits."""
    text = cell.plain
    if cell.cell_len <= width:
        return cell
    name = text[text.rfind("/") + 1 :] if "/" in text else ""
    end = cell_len(name) + 1 if name and cell_len(name) + 2 <= width else width // 2
    begin = set_cell_size(text, width - end - 1).rstrip()
    return Text(f"{begin}…{set_cell_size(text[::-1], end)[::-1].lstrip()}", style=cell.style)


def make_table(
    *columns: str,
    right: tuple[str, ...] = (),
    text: tuple[str, ...] = (),
    spare: tuple[str, ...] = (),
) -> FittedTable:
    """Return an empty table that fits the terminal.

    Args:
        columns: titles; a column `scan` holds paths.
        right: columns of numbers.
        text: columns of sentences, wrapped between words.
        spare: columns that a narrow terminal does without, the most important one first.
    """
    return FittedTable(*columns, right=right, text=text, spare=spare)


#: Colors of words; each word says the same without its color. ANSI yellow would be unreadable on white.
_AMBER: Final = "color(166)"
_STYLES: Final = {
    "failed": "red", "fail": "red", "rejected": _AMBER, "uncertain": _AMBER, "warn": _AMBER, "cancelled": _AMBER,
    "ok": "green",
}  # fmt: skip


def paint(text: str, *, of: str = "", is_finding: bool = False) -> Text:
    """Return text in its color: red for `failed` and for a finding, amber for what needs a look.

    Args:
        text: a status, a decision, or what stands for one, such as a count.
        of: the word that gives the color; default: the text up to a colon.
        is_finding: whether it is a finding.
    """
    word = of or text.partition(":")[0]
    return Text(show_text(text), style="red" if is_finding else _STYLES.get(word, ""))
