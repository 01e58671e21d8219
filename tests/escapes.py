"""What a process that was taken over would try; `find_escapes` runs in a limited child process."""

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import subprocess
from pathlib import Path


def find_escapes(target: str) -> list[str]:
    """Return the names of the attempts that succeed.

    Args:
        target: a file outside the program's folders.
    """
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getppid()
    word = ctypes.create_string_buffer(256)

    class Span(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    def check(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), "")
        return result

    def copy_parent_memory() -> None:
        spans = Span(ctypes.addressof(word), 8), Span(id(Span), 8)
        check(libc.process_vm_readv(parent, ctypes.byref(spans[0]), 1, ctypes.byref(spans[1]), 1, 0))

    attempts = {
        "read": lambda: Path(target).read_bytes(),
        "write": lambda: os.open(target, os.O_RDWR),
        "truncate": lambda: os.truncate(target, 0),
        "create": lambda: Path(f"{target}.new").touch(),
        "unlink": lambda: Path(target).unlink(),
        "rename": lambda: Path(target).rename(f"{target}.moved"),
        "chmod": lambda: Path(target).chmod(0o777),
        "link": lambda: Path(f"{target}.link").symlink_to("/etc/passwd"),
        "list": lambda: os.listdir("/etc"),  # noqa: PTH208
        "passwd": lambda: Path("/etc/passwd").read_bytes(),
        "terminal": lambda: os.open("/dev/tty", os.O_RDONLY),
        "internet": lambda: socket.socket(socket.AF_INET),
        "unix": lambda: socket.socket(socket.AF_UNIX),
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": os.fork,
        "memory-file": lambda: os.memfd_create("x"),
        "parent-environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "parent-memory": lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY),
        "parent-copied": copy_parent_memory,
        "parent-traced": lambda: check(libc.ptrace(16, parent, 0, 0)),
        "parent-signalled": lambda: os.kill(parent, signal.SIGCONT),
        "parent-group": lambda: os.killpg(os.getpgid(parent), signal.SIGCONT),
        "parent-limited": lambda: resource.prlimit(parent, resource.RLIMIT_CORE, (0, 0)),
        "parent-slowed": lambda: os.setpriority(os.PRIO_PROCESS, parent, 19),
        "parent-pinned": lambda: os.sched_setaffinity(parent, {0}),
        "parent-handle": lambda: os.pidfd_open(parent),
        "namespace": lambda: check(libc.unshare(0x10000000)),
        "queue": lambda: check(libc.msgget(0, 0o600)),
        "keys": lambda: check(libc.syscall(ctypes.c_long(250), 0, -3, 0, 0, 0)),
        "ring": lambda: check(libc.syscall(ctypes.c_long(425), 1, word)),
        "more-files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)),
        "more-memory": lambda: mmap.mmap(-1, 2**42),
        "descriptors": lambda: [os.fstat(number) for number in range(5, 100)],
    }
    escaped = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError as error:
            if error.errno != errno.EFAULT:  # it was allowed, and the address was wrong
                continue
        except (ValueError, MemoryError, OverflowError, subprocess.SubprocessError):
            continue
        escaped.append(name)
    return escaped
