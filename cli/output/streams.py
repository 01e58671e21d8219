"""The standard streams of the program, as it can rely on them: open, and with known errors.

A stream may be closed at the start (`>&-`), on a full disk, behind a reader that has gone, or non-blocking.
"""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Final, TextIO

from nightread.errors import NightreadError

_NUMBERS: Final = (0, 1, 2)


def prepare_streams() -> None:
    """Replace stdout and stderr of the process, and open to nowhere what is closed.

    The number of a closed stream would else be that of the next file, perhaps the database, and what a library writes
    to stderr would land there. What cannot be written to stdout ends the program with one line. A message that cannot
    be written to stderr ends nothing: a full disk of logs must not cost a night. Nor does a reader that has gone: what
    is left is dropped, and the exit code tells of the command.
    """
    for number in _NUMBERS:
        try:
            os.fstat(number)
        except OSError:
            _open_nowhere(number)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = _wrap(_Stdout(1, "w", closefd=False), sys.stdout)
    sys.stderr = _wrap(_Stream(2, "w", closefd=False), sys.stderr)


def silence_stdout() -> None:
    """Redirect stdout to nowhere, so that the last flush does not fail."""
    _open_nowhere(sys.stdout.fileno())


@contextmanager
def stdout_of_rows() -> Iterator[IO[bytes]]:
    """Give stdout for many rows, which end once their reader has gone: `nightread results | head` has read enough."""
    raw = getattr(sys.stdout.buffer, "raw", None)
    if not isinstance(raw, _Stdout):  # as in tests
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    raw.needs_reader = True
    try:
        with suppress(BrokenPipeError):
            yield sys.stdout.buffer
            sys.stdout.flush()
    finally:
        raw.needs_reader = False


def _open_nowhere(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    os.dup2(opened, number)  # child processes get it, too
    if opened != number:
        os.close(opened)


class _Stream(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            while (count := super().write(data)) is None:  # non-blocking, and its reader is slow
                select.select([], [self], [])
        except OSError as error:
            self._fail(error)
            return memoryview(data).nbytes
        return count

    def _fail(self, error: OSError) -> None:
        """Drop what was written."""


class _Stdout(_Stream):
    needs_reader = False

    def _fail(self, error: OSError) -> None:
        silence_stdout()
        if not isinstance(error, BrokenPipeError):
            raise NightreadError(f"stdout cannot be written: {error.strerror}") from None
        if self.needs_reader:
            raise error


def _wrap(raw: _Stream, before: TextIO | None) -> io.TextIOWrapper:
    """Return a text stream; a file or pipe gets UTF-8 in every locale, a terminal what it can show."""
    is_terminal = raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before and is_terminal else "utf-8",
        errors="backslashreplace",
        line_buffering=is_terminal or not isinstance(raw, _Stdout),
    )
