"""Limits of a child process that works on hostile bytes: memory, files, system calls, and what it may read.

Such a process may be taken over by what it reads. After `limit_process` it has no network, starts no program, changes
no file, reads the program's own files only, and cannot touch another process. The kernel's interfaces, seccomp and
Landlock, are called through ctypes: the packages for them need libseccomp, which slim images do not have.
"""

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from nightread.system_calls import PROCESSORS, Processor, write_filter

_SET_DUMPABLE: Final = 4
_SET_NO_NEW_PRIVILEGES: Final = 38
#: Highest chance of being killed if the memory of the machine runs out: this process, and never a worker instead of it.
_FIRST_VICTIM: Final = "1000"
_MOST_FILES: Final = 32

#: Variables that such a process inherits; any other may hold a password.
_NEEDED: Final = frozenset({"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"})
_NEEDED_KINDS: Final = ("LC_", "PYTHON")

#: Where interpreter, packages and the C libraries lie, besides the folders that Python names.
_SYSTEM_FOLDERS: Final = (
    "/usr",
    "/lib",
    "/lib64",
    "/dev/null",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
)


#: Of each processor, Landlock's three system calls follow one another.
_LANDLOCK: Final = 444
_EXECUTE, _READ_FILE, _READ_FOLDER = 1, 4, 8
#: Landlock's rights on files, TCP and other processes, by the version from which on the kernel knows them.
_FILE_RIGHTS: Final = {1: 2**13 - 1, 2: 2**13, 3: 2**14, 5: 2**15}
_TCP_RIGHTS: Final = {4: 3}
_SCOPES: Final = {6: 3}


def hide_memory() -> None:
    """Let no other process of this user trace this one or read its memory; nor is its memory dumped to a file."""
    _control(_SET_DUMPABLE, 0)


def make_child_environment() -> dict[str, str]:
    """Return the environment of such a process: what Python and C libraries need, and nothing that may be secret."""
    kept = {name: value for name, value in os.environ.items() if name in _NEEDED or name.startswith(_NEEDED_KINDS)}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def limit_process(memory_bytes: int) -> list[str]:
    """Limit this process for good; call it before other threads start.

    Args:
        memory_bytes: most address space.

    Returns:
        The kernel's measures in force: `no-new-privileges`, `landlock`, `seccomp`. An old kernel, or a system
        other than Linux lacks some.
    """
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text(_FIRST_VICTIM)
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),  # a core dump would hold the scan
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _MOST_FILES),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)  # noqa: PLW2901  # never more than allowed
        resource.setrlimit(kind, (most, most))
    processor = PROCESSORS.get(platform.machine())
    if sys.platform != "linux" or processor is None:
        return []
    hide_memory()
    measures = {
        "no-new-privileges": _control(_SET_NO_NEW_PRIVILEGES, 1),
        "landlock": _restrict_files(_list_readable()),
        "seccomp": _filter_calls(processor),
    }
    return [name for name, in_force in measures.items() if in_force]


def _control(option: int, value: int) -> bool:
    return sys.platform == "linux" and int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0)) == 0


def _call(number: int, *arguments: object) -> int:
    """Return the result of a system call, -1 for an error."""
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), *arguments))


def _list_readable() -> list[str]:
    """Return the folders from which Python, its packages and the C libraries are loaded."""
    folders = [sys.prefix, sys.base_prefix, *_SYSTEM_FOLDERS, *(folder for folder in sys.path if folder)]
    return sorted({folder for folder in folders if Path(folder).exists()})


def _restrict_files(readable: Iterable[str]) -> bool:
    """Deny all files but those below the folders `readable`, TCP, and signals to other processes (Landlock)."""
    version = _call(_LANDLOCK, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < 1:
        return False

    def known(rights: dict[int, int]) -> int:
        return sum(bits for since, bits in rights.items() if since <= version)

    asked = struct.pack("3Q", known(_FILE_RIGHTS), known(_TCP_RIGHTS), known(_SCOPES))
    size = 8 if version < min(_TCP_RIGHTS) else 16 if version < min(_SCOPES) else 24
    ruleset = _call(_LANDLOCK, asked, ctypes.c_size_t(size), ctypes.c_uint(0))
    if ruleset < 0:
        return False
    try:
        for name in readable:
            rights = _EXECUTE | _READ_FILE | (_READ_FOLDER if Path(name).is_dir() else 0)
            folder = os.open(name, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = struct.pack("=Qi", rights, folder)
                _call(_LANDLOCK + 1, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
            finally:
                os.close(folder)
        return _call(_LANDLOCK + 2, ctypes.c_int(ruleset), ctypes.c_uint(0)) == 0
    finally:
        os.close(ruleset)


def _filter_calls(processor: Processor) -> bool:
    """Deny system calls that a decoder does not need (seccomp)."""
    steps = [struct.pack("HBBI", *step) for step in write_filter(processor, os.getpid())]
    code = ctypes.create_string_buffer(b"".join(steps))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    return _call(processor.seccomp, ctypes.c_uint(1), ctypes.c_uint(1), program) == 0
