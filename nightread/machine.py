"""This machine, user and process: cores, start time, memory that is kept."""

import atexit
import contextlib
import ctypes
import getpass
import math
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from nightread.cgroup import read_core_quota, read_memory

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: In bytes: allocations up to this size reuse freed memory instead of asking the kernel.
_KEPT_ALLOCATION: Final = 8 * 2**20
#: In bytes: freed memory beyond this goes back to the kernel.
_KEPT_FREE: Final = 128 * 2**20


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next scans; does nothing if it is not glibc.

    Windows of files are read, decoded and freed all the time. Memory that went back to the kernel returns page by page,
    each cleared first, which takes as long as hashing the file.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, such as musl
        return
    set_option(_M_MMAP_THRESHOLD, _KEPT_ALLOCATION)
    set_option(_M_TRIM_THRESHOLD, _KEPT_FREE)


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does: what was started is ended, what was done is kept.

    A signal that is ignored, as under `nohup`, stays so. Only the main thread may call it.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def stop_at_signals(stop: Callable[[], None]) -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP stop a service; in a container it is process 1, which no signal ends by itself.

    A signal that is ignored, as under `nohup`, stays so. Only the main thread may call it.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: stop())


def end_at_once() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP end the process at once, where it ends anyway: no traceback of its last steps."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.default_int_handler:
            signal.signal(number, signal.SIG_DFL)


def end_without_threads(code: int) -> NoReturn:
    """End the process while threads are at work: the interpreter would wait for one, or abort inside a C++ library."""
    atexit._run_exitfuncs()  # noqa: SLF001  # what was left for the end is done: files of databases are closed
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # nobody is left to tell
            stream.flush()
    os._exit(code)


def name_machine() -> str:
    """Return HOST/BOOT.NAMESPACE: the scope in which a process id and its start time name one process.

    Machines may share a host's name, and so may containers, whose process ids all begin at 1.
    """
    parts = []
    with contextlib.suppress(OSError):  # no Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:12])
        parts.append(re.sub(r"\D", "", os.readlink("/proc/self/ns/pid")))  # noqa: PTH115  # a link to no path
    return "/".join([os.uname().nodename, ".".join(parts)]).rstrip("/")


def name_user() -> str:
    """Return USER@HOST: the person, or the service, who runs this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"


def read_start(pid: int) -> str | None:
    """Return the start time of a process in ticks since boot; None if it is gone or there is no /proc.

    Process ids are reused, and the first one in a container is always 1. Together with the start time an id is unique
    (proc(5), field 22 of /proc/PID/stat).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19]


def count_cores() -> int:
    """Return the number of cores that this process may keep busy.

    That are the machine's, less those that its affinity or the cpuset of its container leaves out, and no more than the
    whole cores of its container's quota: more threads than that are stopped by the kernel most of the time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_core_quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def read_memory_limit() -> int | None:
    """Return the bytes that this process and the others of its container may use; None without a limit."""
    memory = read_memory()
    return None if memory is None else memory.limit
