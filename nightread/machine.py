"""How this process keeps memory that it will want again."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: Files and pictures up to this size come out of memory that was used before, not from the kernel.
_KEPT_ALLOCATION: Final = 8 * 2**20
#: Free memory beyond this goes back to the kernel.
_KEPT_FREE: Final = 128 * 2**20


def keep_freed_memory() -> None:
    """Have the C library keep what scans have used, for the next ones, instead of giving it back.

    A window of files is read, decoded and freed again and again. What goes back to the kernel comes anew page by page,
    each cleared first, which takes as long as hashing it. Changes nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, such as musl
        return
    set_option(_M_MMAP_THRESHOLD, _KEPT_ALLOCATION)
    set_option(_M_TRIM_THRESHOLD, _KEPT_FREE)


def read_start(pid: int) -> str | None:
    """Return when a process was started, in the kernel's ticks since boot; None where it is gone or cannot be asked.

    A process id is given out again, and the first one in a container is always 1: together with this it tells one
    process from every other (proc(5), field 22 of /proc/PID/stat).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19]


def count_cores() -> int:
    """Return the cores that this process may use; a container may be given fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
