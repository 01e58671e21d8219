"""Data on stdout, messages and progress on stderr.

`cli.output.tables` draws bars and tables; it is imported when something is drawn, since Rich takes its time.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any, Final

from cli.output.bar import Bar, LineBar
from nightread.text import show_text

#: A terminal shows that the program has started after this time, in seconds; half a second is felt as none.
FIRST_SIGN_S: Final = 0.25

_quiet = False
_with_hints = True
_verbose = False


def be_quiet() -> None:
    """Write no message and no progress from now on; errors and data stay."""
    global _quiet  # noqa: PLW0603  # of this process, set once from its command line
    _quiet = True


def be_verbose() -> None:
    """Print all numbers from now on."""
    global _verbose  # noqa: PLW0603  # of this process, set once from its command line
    _verbose = True


def is_verbose() -> bool:
    """Return whether all numbers were asked for."""
    return _verbose


@contextmanager
def progress_bar(description: str, total: int | None, unit: str = "scans") -> Iterator[Bar]:
    """Show a bar with count, rate and remaining time on stderr; without a terminal, write a line now and then.

    Args:
        description: what goes on.
        total: the count at the end; None: not known yet.
        unit: what is counted; `bytes` are shown as sizes.
    """
    if (tables := _import_tables()) is None:
        yield Bar() if _quiet else LineBar(description, _write_line, unit=unit)
        return
    with tables.draw_bar(description, total, unit) as bar:
        yield bar


def lines_above_bars() -> AbstractContextManager[None]:
    """Keep what libraries write to stderr by themselves off the bars of a terminal: it goes above them.

    TensorFlow's own lines are dropped there, unless all was asked for.
    """
    if (tables := _import_tables()) is None:
        return nullcontext()
    above: AbstractContextManager[None] = tables.lines_above_bars(with_tensorflow=_verbose)
    return above


def _write_line(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


@contextmanager
def first_sign() -> Iterator[None]:
    """Show a word on a terminal during imports that take longer than `FIRST_SIGN_S`, and erase it at their end.

    It needs neither Rich nor anything else that would first have to be imported.
    """
    if _quiet or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty():
        yield
        return
    shown: list[str] = []

    def show() -> None:
        shown.append("starting")
        _write_line("\rstarting ")

    timer = threading.Timer(FIRST_SIGN_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # a process with a thread cannot be forked
        if shown:
            _write_line("\r\x1b[K")


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner on stderr during work of unknown length; yield the function that changes its text."""
    if (tables := _import_tables()) is None:
        yield lambda _: None
        return
    with tables.draw_spinner(what) as status:
        yield status.update


def say(message: str, *, style: str | None = None) -> None:
    """Write a message to stderr."""
    if _quiet:
        return
    if (tables := _import_tables()) is None:
        sys.stderr.write("".join(f"{show_text(line)}\n" for line in message.split("\n")))
    else:
        tables.err.print(message, style=style)


def hint(message: str) -> None:
    """Write the next command to stderr, on one line that can be copied."""
    if _with_hints and not _quiet:
        sys.stderr.write(f"{show_text(message)}\n")


def leave_out_hints() -> None:
    """Write no hints from now on: the next command would look into another database."""
    global _with_hints  # noqa: PLW0603  # of this process, set once by its command
    _with_hints = False


def _import_tables() -> Any:
    """Return the module `cli.output.tables` where stderr is a terminal, else None: importing Rich takes its time."""
    if _quiet or not sys.stderr.isatty():
        return None
    from cli.output import tables

    return tables


def encode_json(value: Any, *, is_ascii: bool = False) -> str:
    """Return a value as JSON on one line; times are ISO 8601."""
    return json.dumps(value, default=_to_json, ensure_ascii=is_ascii)


def print_json(value: Any) -> None:
    """Print one JSON value on one line of stdout; in ASCII where the locale has no other letters."""
    is_ascii = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    sys.stdout.write(encode_json(value, is_ascii=is_ascii) + "\n")
    sys.stdout.flush()


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def show_time(time: datetime | None) -> str:
    """Return a time as local text."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else ""
