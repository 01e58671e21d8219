"""Reading of a file that a person names: a FIFO would be waited for, for ever, and a device may have no end."""

import errno
import os
import stat
from pathlib import Path


def read_regular_file(file: Path, most_bytes: int) -> bytes:
    """Return the content of a file; a FIFO does not block, and a device is not read.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `most_bytes`.
    """
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", file)
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes; allowed are {most_bytes:,}", file)
        return opened.read(most_bytes)
