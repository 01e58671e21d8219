"""A worker with nothing to do sweeps, so that nothing stays lost where no beat runs, or its message was lost too."""

import logging
import random
import threading

from celery import Celery

from nightread.errors import NightreadError
from worker.process import WorkerProcess
from worker.queue.publisher import Publisher

_log = logging.getLogger(__name__)


class IdleSweeper:
    """Sweeps on a thread of a pool process's own, whenever that process has not worked for the time between sweeps."""

    def __init__(self, app: Celery, process: WorkerProcess) -> None:
        """Start nothing yet.

        Args:
            app: the queue.
            process: whose idleness it is.
        """
        self._publisher = Publisher(app, process.settings)
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nightread-idle-sweeper", daemon=True)

    def start(self) -> None:
        """Sweep from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Sweep no more; a sweep under way is waited for."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        sweep_s = self._process.settings.sweep_s
        # Not all processes at once: those that were started together would stay in step for ever.
        while not self._stop.wait(sweep_s * random.uniform(1.0, 1.5)):  # noqa: S311  # jitter, no secret
            if self._process.idle_s < sweep_s:
                continue
            try:
                self._publisher.sweep(self._process.engine)
            except NightreadError as error:
                _log.warning("idle sweep: %s", error)
            except Exception:  # noqa: BLE001  # the boundary of a thread: the next one may succeed
                _log.exception("idle sweep failed")
