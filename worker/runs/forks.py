"""Working on the jobs of an embedded run in forks of this process, one for each core.

Threads wait for each other: for Python's lock, each time one of them comes back from a decoder. Forks do not, and a
fork that dies of a scan takes nothing along: its job is tried again, with care. They share the memory of the model with
this process, as long as nobody writes to it.

A fork inherits what the process has in memory, but of its threads only the one that forks. So it is made before there
are others, and inherits nothing that is tied to them: no connection to the database, and of models only those whose
session has no threads of its own, that is, on a CPU.
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from db.engine import reading, write
from db.jobs import reclaim_job
from nightread.errors import DatabaseError
from worker.decoder.sandbox import name_end
from worker.jobs.job import attend_job, backoff_s
from worker.process import WorkerProcess

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

_log = logging.getLogger(__name__)

#: Scans of a run for each core, from which on starting a fork takes less time than it saves.
WORTH_A_FORK: Final = 64
_END_S: Final = 10.0
#: How long threads that have ended are waited for until the kernel knows it, too.
_THREADS_GONE_S: Final = 0.2
_PR_SET_PDEATHSIG: Final = 1


class Fork:
    """A fork of this process that sees one job after the other through.

    Attributes:
        pipe: this process's end of the pipe to it.
    """

    def __init__(self, process: WorkerProcess, others: Sequence["Fork"]) -> None:
        """Fork.

        Args:
            process: of which it is a fork; with no connection open.
            others: forks made before, whose pipes this one is not to hold open.

        Raises:
            OSError: there can be no more processes.
        """
        from multiprocessing import get_context  # where no fork is made, nobody waits for it

        context = get_context("fork")
        self._process = process
        self.pipe, theirs = context.Pipe()
        closed = [self.pipe, *(other.pipe for other in others)]
        self._child: ForkProcess = context.Process(
            target=_attend_jobs, args=(process, theirs, closed, os.getpid()), name="nightread-fork", daemon=True
        )
        # Ctrl-C reaches every process of a terminal: a fork ends the job it is at, as this process tells it to.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._child.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._is_dead = False

    def wait(self) -> None:
        """Wait until the fork is ready for its first job."""
        try:
            self.pipe.recv_bytes()
        except (EOFError, OSError):
            self._bury()

    def attend(self, job_id: str) -> None:
        """Have the fork see one job through; once it has died, this process does so in its place."""
        if self._is_dead:
            attend_job(self._process, job_id)
            return
        try:
            self.pipe.send_bytes(job_id.encode())
            self.pipe.recv_bytes()
        except (EOFError, OSError):
            self._bury()
            self._take_back(job_id)

    def _bury(self) -> None:
        self._is_dead = True
        self._child.join(_END_S)
        _log.error(
            "a process that scores has died (%s); what it was at is tried again, with care",
            "no exit yet" if self._child.exitcode is None else name_end(self._child.exitcode),
        )

    def _take_back(self, job_id: str) -> None:
        """Queue the job again at which the fork has died; nobody else would before its lease has run out."""
        holder = self._process.name_of(self._child.pid or 0)
        retry_in_s = backoff_s(1)
        try:
            write(self._process.engine, lambda connection: reclaim_job(connection, job_id, holder, retry_in_s))
        except DatabaseError as error:
            _log.error("job %s: %s", job_id, error)

    def tell_to_end(self) -> None:
        """Have the fork end after the job it is at."""
        self.pipe.close()

    def end(self) -> None:
        """Wait for the fork's end, or bring it about."""
        self._child.join(_END_S)
        if self._child.is_alive():
            self._child.kill()
            self._child.join()


def fork_workers(process: WorkerProcess, scans: int) -> list[Fork]:
    """Return a fork for each core that `process` is to use; none where its own threads do as well, or must do.

    Args:
        process: with the run's model opened, and with nothing under way. Its connections are closed.
        scans: how many there are to score.
    """
    count = count_forks(process.device, process.threads, scans)
    if not count or sys.platform != "linux" or not _is_alone():
        return []
    process.engine.dispose()
    forks: list[Fork] = []
    try:
        for _ in range(count):
            forks.append(Fork(process, forks))
    except OSError as error:
        _log.warning("no process to score in could be started (%s): scoring on threads", error.strerror)
        end_forks(forks)
        return []
    for fork in forks:
        fork.wait()
    return forks


def end_forks(forks: Sequence[Fork]) -> None:
    """End forks whose jobs have ended."""
    for fork in forks:
        fork.tell_to_end()
    for fork in forks:
        fork.end()


def count_forks(device: str, cores: int, scans: int) -> int:
    """Return how many forks a run is worth: one per core on a CPU, none for a small run, one core or a GPU."""
    return cores if device == "cpu" and cores > 1 and scans >= WORTH_A_FORK * cores else 0


def _is_alone() -> bool:
    """Whether this process has one thread only: of others, a fork inherits the locks they hold and never frees them."""
    deadline = time.monotonic() + _THREADS_GONE_S
    while len(list(Path("/proc/self/task").iterdir())) > 1:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _attend_jobs(process: WorkerProcess, pipe: "Connection", closed: Sequence["Connection"], parent: int) -> None:
    """See jobs through that are named over the pipe, until it is closed: a fork's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _end_with(parent)
    for end in closed:
        end.close()
    process.begin_as_fork()
    with reading(process.engine):  # connected before the first job is there
        pass
    pipe.send_bytes(b"")
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            attend_job(process, pipe.recv_bytes().decode())
            pipe.send_bytes(b"")
    process.close()


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies: nobody would wait for its results."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has died already
        os._exit(1)
