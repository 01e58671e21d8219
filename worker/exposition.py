"""Exposition of the ledger's metrics in Prometheus' text format, over HTTP or as text."""

import logging
import sys
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from db.engine import reading
from db.metrics import read_metrics
from db.schema import check_schema
from nightread.errors import DatabaseError, SettingsError

_log = logging.getLogger(__name__)

#: Seconds for which a connection may send nothing; each has a thread of a process that may have other work.
READ_S = 10.0


class LedgerCollector(Collector):
    """Reads all metrics from the database, once for each scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics; without a database only `nightread_database_up`, with the value 0."""
        is_up = GaugeMetricFamily("nightread_database_up", "1 if the database answers and its schema fits, else 0.")
        try:
            check_schema(self._engine)
            with reading(self._engine) as connection:
                found = read_metrics(connection)
        except DatabaseError as error:
            _log.error("%s", error)
            is_up.add_metric((), 0)
            yield is_up
            return
        is_up.add_metric((), 1)
        yield is_up
        for metric in found:
            family = GaugeMetricFamily(f"nightread_{metric.name}", metric.help, labels=metric.labels)
            for labels, value in metric.samples:
                family.add_metric(labels, value)
            yield family


def _make_registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def write_metrics(engine: Engine) -> str:
    """Return all metrics as text."""
    return generate_latest(_make_registry(LedgerCollector(engine))).decode()


def serve_metrics(collector: Collector, host: str, port: int, option: str = "--listen") -> int:
    """Serve the metrics at /metrics on a thread of this process; returns the port.

    Args:
        collector: is asked at each scrape.
        host: address to listen on.
        port: port; 0 for a free one.
        option: names the address, for the error.

    Raises:
        SettingsError: the address cannot be used.
    """
    try:
        server, _ = start_http_server(port, host, _make_registry(collector))
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be served at {host}:{port}: {error.strerror or error}; name a free address of this host "
            f"with {option}"
        ) from None
    server.RequestHandlerClass.timeout = READ_S  # type: ignore[attr-defined]  # of every handler of a connection
    server.handle_error = _note_error  # type: ignore[assignment]  # the base class prints a traceback
    return int(server.server_port)


def _note_error(*_: object) -> None:
    _log.debug("a request for metrics ended by %s", type(sys.exception()).__name__)
