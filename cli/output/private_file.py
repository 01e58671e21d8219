"""A file that only its owner reads, and that appears under its name once it is whole."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nightread.errors import NightreadError


@contextmanager
def open_private(file: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written for its owner alone; it appears at the end, or not at all.

    What a link names is written. What is no regular file, such as /dev/null or a FIFO, is written as it is: it must not
    be replaced by one.

    Raises:
        NightreadError: it cannot be written.
    """
    try:
        if not _is_replaceable(file):
            with file.open("wb") as special:
                yield special
            return
        target = Path(os.path.realpath(file))
        part = target.with_name(f".nightread.{os.getpid()}.part")  # `target` may be as long as a name can be
        try:
            with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as whole:
                yield whole
            part.replace(target)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
    except OSError as error:
        raise NightreadError(
            f"{file} cannot be written: {error.strerror}; name a file in a folder that exists and is writable"
        ) from None


def _is_replaceable(file: Path) -> bool:
    """Return whether a path names a regular file, or nothing yet."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        return True


def write_private(file: Path, text: str) -> None:
    """Write a file at once and for its owner alone; see `open_private`.

    Raises:
        NightreadError: it cannot be written.
    """
    with open_private(file) as written:
        written.write(text.encode())
