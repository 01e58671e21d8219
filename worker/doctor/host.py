"""Checks of the machine itself: versions, cores, memory, disk, encoding, decoders and files."""

import importlib.metadata
import locale
import os
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

import nightread
from nightread.cgroup import read_core_quota, read_memory
from nightread.machine import count_cores
from nightread.text import show_size
from worker.doctor.finding import Finding, Level, warn_if
from worker.doctor.machine import Machine

_PACKAGES: Final = ("onnxruntime-gpu", "onnxruntime", "numpy", "pydicom", "sqlalchemy", "celery")
#: In bytes: two windows of large scans, a model and ONNX Runtime.
_LEAST_MEMORY: Final = 2**30
#: In bytes.
_LEAST_DISK: Final = 2**30
#: In seconds: a disk that takes longer to store a job slows a night down.
_SLOW_COMMIT_S: Final = 0.05
_WRITTEN_BYTES: Final = 8 * 2**20


def check_versions(machine: Machine) -> Finding:
    """Name the versions that a report of a bug needs."""
    installed = []
    for package in _PACKAGES:
        try:
            installed.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding(
        f"nightread {nightread.__version__}, {python}, {', '.join(installed)}, SQLite {sqlite3.sqlite_version}"
    )


def check_cores(machine: Machine) -> Finding:
    """Compare threads with the cores that this process may use."""
    cores, threads = count_cores(), machine.settings.threads or count_cores()
    quota = read_core_quota()
    said = f"{cores} of {os.cpu_count()} cores" + (f", limited to {quota:g} by the container" if quota else "")
    said += f"; {threads} threads"
    return warn_if(threads > cores, said, f"they wait for each other; set NIGHTREAD_THREADS={cores}")


def check_memory(machine: Machine) -> Finding:
    """Check that a worker's memory is there."""
    free, total = _read_memory()
    if not total:
        return Finding("unknown: this system does not tell it")
    return warn_if(
        free < _LEAST_MEMORY,
        f"{show_size(free)} of {show_size(total)} free",
        f"a worker needs about {show_size(_LEAST_MEMORY)}; large scans may end `out-of-memory`",
    )


def _read_memory() -> tuple[int, int]:
    """Return the free and the total bytes of this machine or container; zeros if unknown."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, ValueError, KeyError):
        return 0, 0
    group = read_memory()
    if group is None:
        return free, total
    return min(free, max(0, group.limit - group.used)), min(total, group.limit)


def check_disk(machine: Machine) -> Finding:
    """Measure the disk of the database, or of temporary files if the database is a server's."""
    file = _find_file(machine)
    folder = Path(tempfile.gettempdir()) if file is None else file.parent
    try:
        free = shutil.disk_usage(folder).free
        rate, commit_s = _measure_disk(folder)
    except OSError as error:
        return Finding(f"{folder} cannot be written: {error.strerror}", Level.FAIL)
    said = f"{show_size(free)} free in {folder}; writes {show_size(rate)}/s, a commit takes {1000 * commit_s:.1f} ms"
    if free < _LEAST_DISK:
        return Finding(f"{said}: make room; a full disk stops a night", Level.WARN)
    return warn_if(commit_s > _SLOW_COMMIT_S, said, "this disk slows a night down; put the database on a local one")


def _measure_disk(folder: Path) -> tuple[float, float]:
    """Return the bytes written in a second, and the seconds of a small write that reaches the disk."""
    with tempfile.TemporaryFile(dir=folder, prefix=".nightread-doctor-") as file:
        started = time.perf_counter()
        file.write(os.urandom(_WRITTEN_BYTES))
        file.flush()
        os.fsync(file.fileno())
        rate = _WRITTEN_BYTES / (time.perf_counter() - started)
        commits = []
        for _ in range(5):
            started = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            commits.append(time.perf_counter() - started)
    return rate, statistics.median(commits)


def check_encoding(machine: Machine) -> Finding:
    """Check that names with any letters can be shown and opened."""
    output = sys.__stdout__ or sys.stdout  # in place of sys.stdout Rich's spinner has an object without an encoding
    encodings = {
        "file names": sys.getfilesystemencoding(),
        "output": output.encoding,
        "locale": locale.getencoding(),
    }
    said = ", ".join(f"{what} {encoding}" for what, encoding in encodings.items())
    other = [encoding for encoding in encodings.values() if encoding.lower().replace("-", "") != "utf8"]
    return warn_if(other, said, "letters beyond ASCII are shown as escapes; set LC_ALL=C.UTF-8")


def check_files(machine: Machine) -> Finding:
    """Check that only this user may read the database's file."""
    file = _find_file(machine)
    if file is None or not file.exists():
        return Finding("the database is a server's" if file is None else f"{file} is not there yet")
    mode = file.stat().st_mode & 0o777
    return warn_if(mode & 0o077, f"{file} has mode {mode:04o}", f"others may read its paths; chmod 600 {file}")


def _find_file(machine: Machine) -> Path | None:
    url = make_url(machine.settings.database_url.get_secret_value())
    return Path(url.database or "").expanduser().absolute() if url.get_backend_name() == "sqlite" else None
