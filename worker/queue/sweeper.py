"""Sweeps at intervals: on a thread of each worker process, and as the loop of `nightread beat`."""

import logging
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from sqlalchemy import Engine

from db.partitions import keep_months
from nightread.errors import NightreadError
from nightread.settings import Settings
from worker.queue.publisher import Publisher
from worker.runs.schedules import NightFetcher, Scheduler, start_due_nights

_log = logging.getLogger(__name__)

#: Seconds between two looks whether a month lacks its partition.
_UPKEEP_S: Final = 3600.0


def start_scheduler(
    engine: Engine,
    settings: Settings,
    fetch: NightFetcher | None = None,
    send: Callable[[Engine, Settings], object] | None = None,
) -> None:
    """Start the nights of schedules from now on, beside the sweeps.

    Args:
        engine: the database.
        settings: of this process.
        fetch: brings nights from archives; None: schedules that fetch are left to others.
        send: sends the nights that have ended; None: that is left to others.
    """
    Scheduler(partial(start_due_nights, engine, settings, fetch), settings).start()
    if send is not None:
        Scheduler(partial(send, engine, settings), settings, "nightread-sender").start()


class Sweeper:
    """Closes ended runs and republishes lost jobs, at most `sweep_s` seconds apart.

    Each hour it makes the partitions of the coming months, where there are any and its role may.
    """

    def __init__(self, publisher: Publisher, engine: Engine, sweep_s: float) -> None:
        """Start nothing yet."""
        self._publisher = publisher
        self._engine = engine
        self._sweep_s = sweep_s
        self._stop = threading.Event()

    def start(self) -> threading.Thread:
        """Return a thread that sweeps until stopped."""
        thread = threading.Thread(target=self.run, name="nightread-sweeper", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """End `run` after the sweep under way."""
        self._stop.set()

    def run(self) -> None:
        """Sweep until stopped; never raises."""
        upkeep_at = time.monotonic()
        # Random intervals: processes that started together would sweep at the same moment for ever.
        while not self._stop.wait(self._sweep_s * random.uniform(0.5, 1.0)):  # noqa: S311  # jitter, no secret
            try:
                self._publisher.sweep(self._engine)
                if time.monotonic() >= upkeep_at:
                    upkeep_at = time.monotonic() + _UPKEEP_S
                    keep_months(self._engine)
            except NightreadError as error:
                _log.warning("sweep: %s", error)
            except Exception:  # noqa: BLE001  # the boundary of a thread: the next sweep may succeed
                _log.exception("sweep failed")
