"""What `nightread receive` does: a listener, the intake behind it, and the end of instances that are kept no longer."""

import logging
import threading
import time
from typing import Final

from nightread.errors import DatabaseError
from pacs.intake import Intake, RunMaker, clean
from pacs.listener import Listener, ListenerOptions
from pacs.receiver_health import ReceiverCollector
from worker.exposition import serve_metrics
from worker.runs.enqueue import resolve_source

_log = logging.getLogger(__name__)

_TICK_S: Final = 0.5
#: Between two looks for instances that are kept no longer.
_CLEAN_S: Final = 600.0


def receive(
    make_run: RunMaker,
    listening: ListenerOptions,
    stop: threading.Event,
    *,
    quiet_s: float,
    keep_s: float,
    metrics: tuple[str, int] | None = None,
) -> None:
    """Receive instances and enqueue quiet studies until `stop` is set.

    Args:
        make_run: has the spool, which is open to this process, and the database.
        listening: what is accepted, and where.
        stop: ends it; instances without a run are taken up by the next process.
        quiet_s: seconds without an instance after which a study is complete.
        keep_s: seconds after a run's end for which its instances stay; 0: for ever.
        metrics: host and port at which metrics are served; None: nowhere.

    Raises:
        WrongPaths: the spool lies outside the roots.
        SettingsError: an address cannot be listened on.
    """
    spool = make_run.spool
    resolve_source(spool.folder, make_run.settings.scan_roots)
    intake = Intake(spool, make_run, quiet_s=quiet_s)
    if intake.waiting:
        _log.info("%d instances of an earlier process wait in the spool", intake.waiting)
    listener = Listener(spool, listening, intake.note)
    _log.info("%s listens on %s:%d", listening.title, listening.host, listener.port)
    threading.excepthook = _log_thread  # a traceback might quote what was received
    cleaned = -_CLEAN_S
    try:
        if metrics is not None:
            serve_metrics(ReceiverCollector(spool, intake, listener), *metrics, option="--metrics")
        while not stop.wait(_TICK_S):
            intake.work()
            if keep_s and time.monotonic() - cleaned > _CLEAN_S:
                cleaned = time.monotonic()
                try:
                    clean(make_run.engine, spool, intake.batches, keep_s)
                except DatabaseError as error:
                    _log.warning("instances stay in the spool: %s", error)
    finally:
        listener.close()


def _log_thread(ended: threading.ExceptHookArgs) -> None:
    _log.error("a thread ended by %s", ended.exc_type.__name__)
