"""Worker liveness, judged by committed work rather than by pings.

Each process of a worker writes to a small file when it last claimed a job, renewed a lease or stored results, after the
database has confirmed it. `nightread worker --health` reads these files on the same host, and asks the database for
waiting jobs. A worker is at fault if jobs wait and it makes no progress.
"""

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from db.due_jobs import Waiting, count_jobs_ahead, count_waiting_jobs
from db.engine import reading
from db.types import Priority
from nightread.errors import SettingsError
from nightread.machine import read_start
from nightread.settings import Settings

_log = logging.getLogger(__name__)

_WORKER, _PROGRESS = ".worker", ".progress"


class Progress:
    """Times of the last steps of one worker process, kept in a file."""

    def __init__(self, file: Path | None) -> None:
        """Write nothing yet.

        Args:
            file: of this process; None outside a worker, as in an embedded run.
        """
        self._file = file
        self._steps: dict[str, float] = {}

    def note(self, step: str) -> None:
        """Record the time of a step that the database has confirmed: `claimed`, `renewed` or `committed`."""
        if self._file is None:
            return
        self._steps[step] = time.monotonic()
        _write(self._file, self._steps)


def register_worker(priorities: Sequence[Priority] = ()) -> None:
    """Register this process as the main process of a worker.

    Args:
        priorities: classes of runs that it is kept free for; empty: it takes all.
    """
    pid = os.getpid()
    with _not_noted():
        _write(
            _folder() / f"{pid}{_WORKER}",
            {"process_started": read_start(pid), "started": time.monotonic(), "priorities": list(priorities)},
        )


def find_progress() -> Progress:
    """Return the progress of this process, which is a worker's main process or a child of one."""
    pid, folder = os.getpid(), _name_folder()
    for main in (os.getppid(), pid):
        if (folder / f"{main}{_WORKER}").exists():
            with _not_noted():
                return Progress(_folder() / f"{main}.{pid}{_PROGRESS}")
    return Progress(None)


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """One worker of this host.

    Attributes:
        pid: of its main process.
        still_s: seconds since its last step.
        last: its last step: `started`, `claimed`, `renewed` or `committed`.
        priorities: classes of runs that it is kept free for; empty: it takes all.
    """

    pid: int
    still_s: float
    last: str
    priorities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """Health of the workers of this host.

    Attributes:
        workers: living ones.
        due_jobs: number of jobs that a worker could take.
        waiting_s: seconds that the oldest of them has waited.
        limit_s: seconds for which jobs may wait while a worker makes no progress.
        faults: one line each; empty if healthy.
    """

    workers: list[WorkerHealth]
    due_jobs: int
    waiting_s: float
    limit_s: float
    faults: list[str] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Return the fields of the JSON output."""
        return {"healthy": not self.faults, **asdict(self)}


def check_workers(engine: Engine, settings: Settings) -> Health:
    """Return the health of the workers of this host.

    Raises:
        DatabaseUnavailable: the database does not answer.
        SettingsError: the folder for temporary files cannot be used.
    """
    workers = find_workers()
    kept_free = {Priority(each) for worker in workers for each in worker.priorities}
    with reading(engine) as connection:
        waiting = count_waiting_jobs(connection)
        of_classes = {each.value: count_waiting_jobs(connection, priority=each) for each in kept_free}
    return judge(workers, waiting, find_limit(settings), of_classes)


def check_sweeping(engine: Engine, settings: Settings) -> Health:
    """Return whether due jobs are published, by a beat or by workers of any host.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    limit_s = find_limit(settings)
    with reading(engine) as connection:
        waiting = count_waiting_jobs(connection, unpublished_s=limit_s)
        ahead = count_jobs_ahead(connection)
    faults = []
    if ahead:
        faults.append(
            f"{ahead:,} jobs have times in the future: the clock of the database has stepped back; correct it. Their "
            "messages are sent again, and leases end when the clock has caught up"
        )
    if waiting.jobs and waiting.longest_s > limit_s:
        faults.append(
            f"{waiting.jobs:,} jobs are due and no message was sent for them in {limit_s:.0f} s: no process sweeps, or "
            "the queue stays full; start `nightread beat` or a worker"
        )
    return Health([], waiting.jobs, waiting.longest_s, limit_s, faults)


def find_limit(settings: Settings) -> float:
    """Return the seconds for which jobs may wait while a worker makes no progress: twice a lease and a sweep."""
    return 2 * (settings.lease_s + settings.sweep_s)


def judge(
    workers: list[WorkerHealth], waiting: Waiting, limit_s: float, of_classes: Mapping[str, Waiting] | None = None
) -> Health:
    """Return the health of `workers`: a fault if there are none, or if one makes no progress while jobs wait.

    Args:
        workers: of this host.
        waiting: due jobs.
        limit_s: seconds for which jobs may wait while a worker makes no progress.
        of_classes: due jobs by class, for workers that are kept free for some.
    """
    faults = []
    if not workers:
        faults.append("no worker of this user runs on this host: start `nightread worker`")
    for worker in workers:
        kept = [(of_classes or {})[each] for each in worker.priorities]
        jobs = sum(each.jobs for each in kept) if kept else waiting.jobs
        longest_s = max(each.longest_s for each in kept) if kept else waiting.longest_s
        if jobs and longest_s > limit_s and worker.still_s > limit_s:
            faults.append(
                f"worker {worker.pid} makes no progress: {worker.last} {worker.still_s:.0f} s ago and nothing since, "
                f"while {jobs:,} jobs wait, the oldest for {longest_s:.0f} s; restart it"
            )
    return Health(workers, waiting.jobs, waiting.longest_s, limit_s, faults)


def find_workers() -> list[WorkerHealth]:
    """Return the workers of this user on this host, and remove the files of dead ones."""
    now, workers = time.monotonic(), []
    try:
        folder = _folder()
    except OSError as error:
        raise SettingsError(f"the workers' progress cannot be read: {error.strerror or error}") from None
    for file in sorted(folder.glob(f"*{_WORKER}")):
        pid, registered = int(file.stem), _read(file)
        files = list(folder.glob(f"{pid}.*{_PROGRESS}"))
        if read_start(pid) is None or read_start(pid) != registered.get("process_started"):
            for left in (file, *files):
                left.unlink(missing_ok=True)
            continue
        steps = {"started": float(registered["started"])}
        for progress in files:
            for step, at in _read(progress).items():
                steps[step] = max(at, steps.get(step, 0.0))
        last = max(steps, key=lambda step: steps[step])
        workers.append(WorkerHealth(pid, now - steps[last], last, tuple(registered.get("priorities", ()))))
    return workers


def _name_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"nightread-{os.getuid()}"


def _folder() -> Path:
    """Return a folder that only this user can write to, since its files are trusted."""
    folder = _name_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to another user: remove it")
    return folder


def _read(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text())
        if isinstance(found, dict):
            return found
    return {}


@contextlib.contextmanager
def _not_noted() -> Iterator[None]:
    """Log an error of writing progress, which stops no worker."""
    try:
        yield
    except OSError as error:
        _log.warning("progress was not noted: %s", error.strerror or error)


def _write(file: Path, content: dict[str, Any]) -> None:
    """Replace a file atomically."""
    new = file.with_suffix(".new")
    with _not_noted():
        new.write_text(json.dumps(content))
        new.replace(file)
