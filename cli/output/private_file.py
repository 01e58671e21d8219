"""A file that only its owner reads, and that appears under its name once it is whole."""

import os
from pathlib import Path

from nightread.errors import NightreadError


def write_private(file: Path, text: str) -> None:
    """Write a file at once and for its owner alone.

    Raises:
        NightreadError: it cannot be written.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as written:
            written.write(text)
        part.replace(file)
    except OSError as error:
        raise NightreadError(
            f"{file} cannot be written: {error.strerror}; name a file in a folder that exists and is writable"
        ) from None
    finally:
        part.unlink(missing_ok=True)
