"""Keeping a job while it is worked on."""

import logging
import threading
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Self

from sqlalchemy import Engine

from db.engine import write
from db.jobs import Claim, renew_lease
from nightread.errors import DatabaseUnavailable
from nightread.failpoints import Point, failpoint
from worker.errors import LeaseLost

_log = logging.getLogger(__name__)

#: Renewals in one lease: three may fail before another worker takes the job.
_RENEWALS = 4


class Heartbeat:
    """Renews a lease on a thread of its own for as long as the `with` block runs."""

    def __init__(
        self, engine: Engine, claim: Claim, lease_s: float, on_renewed: Callable[[], None] = lambda: None
    ) -> None:
        """Start nothing yet.

        Args:
            engine: the database.
            claim: what is renewed.
            lease_s: how long each renewal holds, in seconds.
            on_renewed: is called after each renewal.
        """
        self._engine = engine
        self._claim = claim
        self._lease_s = lease_s
        self._on_renewed = on_renewed
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._renew,), name="nightread-heartbeat", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise LeaseLost where another worker has the job."""
        if self._lost.is_set():
            raise LeaseLost(f"job {self._claim.job_id}: another worker has taken it over or its run was cancelled")

    def _renew(self) -> None:
        while not self._stop.wait(self._lease_s / _RENEWALS):
            try:
                failpoint(Point.WORKER_HEARTBEAT, DatabaseUnavailable)
                ours = write(self._engine, lambda connection: renew_lease(connection, self._claim, self._lease_s))
            except DatabaseUnavailable as error:
                _log.warning("lease of job %s not renewed: %s", self._claim.job_id, error)
                continue
            except Exception:  # noqa: BLE001  # the boundary of a thread, without which the job would be given up for dead
                _log.exception("lease of job %s not renewed", self._claim.job_id)
                continue
            if not ours:
                self._lost.set()
                return
            self._on_renewed()
