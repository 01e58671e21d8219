"""A message in a worker's main process: the job of a child that was killed is given back at once."""

import logging
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker.request import Request

from db.engine import make_engine, write
from db.jobs import reclaim_job
from nightread.errors import DatabaseError
from nightread.settings import Settings, read_settings
from worker.errors import BrokerUnavailable
from worker.process import WorkerProcess
from worker.queue.publisher import Publisher

_log = logging.getLogger(__name__)


class Delivery(Request):
    """Celery's record of a message, from its arrival to its acknowledgement."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:  # noqa: FBT001, FBT002  # Celery's signature
        """Handle the end of a task that failed; a lost child is one that was killed or has ended itself."""
        answer = super().on_failure(exc_info, send_failed_event, return_ok)
        error = exc_info.exception
        if isinstance(getattr(error, "exc", error), WorkerLostError):  # billiard wraps it with its traceback
            self._give_back()
        return answer

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001  # Celery's signature
        """Handle a job beyond its time limit, whose child is killed."""
        super().on_timeout(soft, timeout)
        if not soft:
            self._give_back()

    def _give_back(self) -> None:
        """Queue the job that the dead child held, without waiting for its lease; counts as a crash.

        The connection is closed again at once: the next child is forked from this process. If the database does not
        answer, the lease expires.
        """
        if self.worker_pid is None or len(self.args) != 1:
            return
        settings: Settings = getattr(self.app, "nightread", None) or read_settings()
        holder, job_id = WorkerProcess.name_of(self.worker_pid), self.args[0]
        engine = make_engine(settings.database_url.get_secret_value())
        try:
            if write(engine, lambda connection: reclaim_job(connection, job_id, holder, 0.0)):
                _log.warning("job %s is queued again: its process %s was killed", job_id, holder)
                Publisher(self.app, settings).publish_due(engine)
        except (DatabaseError, BrokerUnavailable) as error:
            _log.warning("job %s waits for its lease: %s", job_id, error)
        finally:
            engine.dispose()
