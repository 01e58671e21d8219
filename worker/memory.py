"""How this process keeps memory that it will want again."""

import ctypes
import sys
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
