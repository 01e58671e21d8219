"""Who works on the jobs of an embedded run, side by side, and the queue from which they are taken."""

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final

#: Sees one job through, whatever comes of it.
Attend = Callable[[str], object]

#: How long jobs under way are waited for; they are leased, so that nothing is lost where one does not come back.
STOP_S: Final = 60.0


class Crew:
    """Threads of this process, each of which sees one job after the other through.

    Attributes:
        runs_low: is set at each end of a job while fewer jobs wait than there are threads.
        size: how many jobs are worked on side by side.
    """

    def __init__(self, members: Sequence[Attend], close: Callable[[], None] = lambda: None) -> None:
        """Start working.

        Args:
            members: what each of the threads does with its jobs.
            close: is called once, when the last job has ended.
        """
        self.runs_low = threading.Event()
        self.size = len(members)
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
        """Whether fewer jobs wait than are worked on side by side."""
        return self._queue.qsize() < self.size

    def put(self, job_ids: Sequence[str]) -> None:
        """Have jobs done, in this order."""
        for job_id in job_ids:
            self._queue.put(job_id)

    def check(self) -> None:
        """Make sure that somebody works.

        Raises:
            RuntimeError: nobody does any more.
        """
        if not any(thread.is_alive() for thread in self._threads):
            raise RuntimeError("the threads of an embedded run have ended before it")

    def stop(self) -> None:
        """Let the jobs under way end, and take no other."""
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
