"""How a receiver does: its health from another process, and its metrics for Prometheus."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nightread.errors import SettingsError
from pacs.batches import list_batches
from pacs.intake import Intake
from pacs.listener import Listener
from pacs.spool import LOCK, Spool, list_instances

#: For which instances of a quiet study may wait for their run.
LIMIT_S: Final = 360.0
_CONNECT_S: Final = 5.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # compared, not listened on


@dataclass(frozen=True, slots=True)
class ReceiverHealth:
    """Health of the receiver of a spool.

    Attributes:
        waiting: instances without a run.
        waiting_s: seconds since the oldest of them came.
        faults: one line each; empty if healthy.
    """

    waiting: int
    waiting_s: float
    faults: list[str]

    def describe(self) -> dict[str, Any]:
        """Return the fields of the JSON output."""
        return {"healthy": not self.faults, **asdict(self)}


def check_receiver(folder: Path, host: str, port: int, quiet_s: float) -> ReceiverHealth:
    """Return the health of the receiver of a spool on this host; changes nothing.

    Args:
        folder: the spool.
        host: address that it listens on.
        port: its port.
        quiet_s: seconds after which a study is complete.

    Raises:
        SettingsError: the spool cannot be read.
    """
    faults = []
    try:
        if not _is_open(folder):
            faults.append("no process has the spool open: start `nightread receive`")
        known = {name for batch in list_batches(folder) if batch.is_done for name in batch.names}
        came = [(folder / name).stat().st_mtime for name in list_instances(folder) if name not in known]
    except OSError as error:
        raise SettingsError(f"the spool {folder} cannot be read: {error.strerror}") from None
    try:
        socket.create_connection((_ANY.get(host, host), port), timeout=_CONNECT_S).close()
    except OSError as error:
        faults.append(f"nothing listens on {host}:{port}: {error.strerror or error}")
    waiting_s = time.time() - min(came) if came else 0.0
    if waiting_s > quiet_s + LIMIT_S:
        faults.append(f"{len(came):,} instances have no run, the oldest for {waiting_s:.0f} s: its log has the cause")
    return ReceiverHealth(len(came), waiting_s, faults)


def _is_open(folder: Path) -> bool:
    handle = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


class ReceiverCollector(Collector):
    """Metrics of the receiver in this process; they hold no title and no identifier."""

    def __init__(self, spool: Spool, intake: Intake, listener: Listener) -> None:
        self._spool, self._intake, self._listener = spool, intake, listener

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        counts = self._listener.counts
        received = CounterMetricFamily(
            "nightread_received_instances", "Instances since the start by what became of them.", labels=["answer"]
        )
        for answer in ("stored", "known", "refused", "no-room"):
            received.add_metric([answer], counts[answer])
        yield received
        yield CounterMetricFamily(
            "nightread_refused_associations", "Associations that were refused since the start.", counts["rejected"]
        )
        yield GaugeMetricFamily("nightread_associations", "Open associations.", self._listener.open_associations)
        yield GaugeMetricFamily("nightread_spool_bytes", "Size of all instances in the spool.", self._spool.size_bytes)
        yield GaugeMetricFamily(
            "nightread_spool_full", "1 while associations are refused for want of room.", int(self._spool.is_full)
        )
        yield GaugeMetricFamily("nightread_spool_waiting_instances", "Instances without a run.", self._intake.waiting)
