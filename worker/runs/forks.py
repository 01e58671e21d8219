"""Forks of this process that run the jobs of an embedded run, one per core.

Threads wait for the GIL each time a decoder returns; forks do not. If a scan kills a fork, only its job is retried, in
a sandbox. Forks share the model's memory with this process.

A fork inherits the memory of the process, but only the thread that forks. So forks are made before other threads exist,
without open database connections, and only for models on a CPU, whose sessions have no threads of their own.
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

#: Smallest number of scans per core for which a fork saves more time than its start takes.
WORTH_A_FORK: Final = 64
_END_S: Final = 10.0
#: Seconds to wait until the kernel has removed ended threads.
_THREADS_GONE_S: Final = 0.2
_PR_SET_PDEATHSIG: Final = 1


class Fork:
    """A fork of this process that runs one job after another.

    Attributes:
        pipe: this process's end of the pipe to the fork.
    """

    def __init__(self, process: WorkerProcess, others: Sequence["Fork"]) -> None:
        """Fork this process.

        Args:
            process: state of this process, without an open connection.
            others: earlier forks, whose pipes this one must close.

        Raises:
            OSError: the system allows no more processes.
        """
        from multiprocessing import get_context  # imported only if a run is forked

        context = get_context("fork")
        self._process = process
        self.pipe, theirs = context.Pipe()
        closed = [self.pipe, *(other.pipe for other in others)]
        self._child: ForkProcess = context.Process(
            target=_attend_jobs, args=(process, theirs, closed, os.getpid()), name="nightread-fork", daemon=True
        )
        # Ctrl-C reaches every process of a terminal: a fork ignores it and finishes its job.
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
        """Run one job in the fork; if the fork has died, in this process."""
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
            "a scoring process has died (%s); its job is retried in a sandbox",
            "no exit yet" if self._child.exitcode is None else name_end(self._child.exitcode),
        )

    def _take_back(self, job_id: str) -> None:
        """Queue the job of a dead fork again, without waiting for its lease to expire."""
        holder = self._process.name_of(self._child.pid or 0)
        retry_in_s = backoff_s(1)
        try:
            write(self._process.engine, lambda connection: reclaim_job(connection, job_id, holder, retry_in_s))
        except DatabaseError as error:
            _log.error("job %s: %s", job_id, error)

    def hurry(self) -> None:
        """Let the running job end before its last scan; what it has scored is stored."""
        self._child.terminate()  # a fork takes SIGTERM for this

    def tell_to_end(self) -> None:
        """Let the fork end after its running job."""
        self.pipe.close()

    def end(self) -> None:
        """Wait for the fork to end, and kill it after a while."""
        self._child.join(_END_S)
        if self._child.is_alive():
            self._child.kill()
            self._child.join()


def fork_workers(process: WorkerProcess, scans: int) -> list[Fork]:
    """Return one fork per core for a large run; none if threads are as good or forking is not possible.

    Args:
        process: state of this process, with the run's model opened and no running job. Its connections are closed.
        scans: number of scans to score.
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
        _log.warning("no scoring process could be started (%s): scoring on threads", error.strerror)
        end_forks(forks)
        return []
    for fork in forks:
        fork.wait()
    return forks


def end_forks(forks: Sequence[Fork]) -> None:
    """End forks after their running jobs."""
    for fork in forks:
        fork.tell_to_end()
    for fork in forks:
        fork.end()


def count_forks(device: str, cores: int, scans: int) -> int:
    """Return how many forks a run is worth: one per core on a CPU, none for a small run, one core or a GPU."""
    return cores if device == "cpu" and cores > 1 and scans >= WORTH_A_FORK * cores else 0


def _is_alone() -> bool:
    """Return whether this process has one thread: a fork would inherit locks that other threads hold."""
    deadline = time.monotonic() + _THREADS_GONE_S
    while len(list(Path("/proc/self/task").iterdir())) > 1:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _attend_jobs(process: WorkerProcess, pipe: "Connection", closed: Sequence["Connection"], parent: int) -> None:
    """Run the jobs that arrive on the pipe until it is closed; the main function of a fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: setattr(process, "is_stopping", True))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _end_with(parent)
    for end in closed:
        end.close()
    process.begin_as_fork()
    with reading(process.engine):  # connects before the first job arrives
        pass
    pipe.send_bytes(b"")
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            attend_job(process, pipe.recv_bytes().decode())
            pipe.send_bytes(b"")
    process.close()


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, since no one waits for its results."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has died already
        os._exit(1)
