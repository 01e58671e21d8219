"""Thread pool that runs the jobs of an embedded run."""

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final

#: Runs one job; never raises.
Attend = Callable[[str], object]

#: Seconds to wait for running jobs at the end; a job that does not return is leased, so it is not lost.
STOP_S: Final = 60.0


class Crew:
    """Threads of this process that run jobs from one queue.

    Attributes:
        runs_low: set after a job while fewer jobs wait than there are threads.
        size: number of threads.
        hurry: lets running jobs end before their last scan; what they have scored is stored.
    """

    def __init__(
        self,
        members: Sequence[Attend],
        close: Callable[[], None] = lambda: None,
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the threads.

        Args:
            members: one function for each thread, called with a job's id.
            close: called once, after the last job.
            hurry: lets running jobs end before their last scan.
        """
        self.runs_low = threading.Event()
        self.size = len(members)
        self.hurry = hurry
        self._close = close
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._is_stopping = False
        self._threads = [
            threading.Thread(target=self._work, args=(attend,), name=f"nightread-job-{number}", daemon=True)
            for number, attend in enumerate(members, start=1)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_short(self) -> bool:
        """Whether fewer jobs wait than there are threads."""
        return self._queue.qsize() < self.size

    def put(self, job_ids: Sequence[str]) -> None:
        """Add jobs to the queue, in this order."""
        for job_id in job_ids:
            self._queue.put(job_id)

    def check(self) -> None:
        """Check that a thread is alive.

        Raises:
            RuntimeError: all threads have ended.
        """
        if not any(thread.is_alive() for thread in self._threads):
            raise RuntimeError("the threads of an embedded run have ended before it")

    def stop(self) -> None:
        """Wait for running jobs, and start no other."""
        self._is_stopping = True
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + STOP_S
        try:
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        finally:
            self._close()

    def _work(self, attend: Attend) -> None:
        while (job_id := self._queue.get()) is not None and not self._is_stopping:
            attend(job_id)
            if self.is_short:
                self.runs_low.set()
