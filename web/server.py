"""Serves the page over HTTP with Uvicorn: limits of size, time and number, and no log of addresses, which name runs."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from nightread.errors import SettingsError
from nightread.machine import stop_at_signals
from nightread.settings import Settings
from web.access import check_listening
from web.app import make_app

#: Seconds in which the head of a request must have arrived.
HEAD_S = 10.0
#: Seconds for which a reader may take nothing of an answer; the kernel counts them.
TAKE_S = 30.0
#: Largest head of a request, in bytes.
HEAD_BYTES: Final = 16_384
#: Connections at once; beyond them requests are answered with 503.
_MOST_CONNECTIONS: Final = 200
#: Seconds that requests have to end when the server stops.
_STOP_S: Final = 5


class TimedProtocol(H11Protocol):
    """HTTP/1.1 whose connections end if a request does not arrive in time; Uvicorn alone would wait for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_S, self._close_late)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request, if it is not whole."""
        if self._late is None and not self._is_answering():
            self._late = self.loop.call_later(HEAD_S, self._close_late)
        super().data_received(data)
        if self._late and self._is_answering():
            self._late.cancel()
            self._late = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        if self._late:
            self._late.cancel()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _close_late(self) -> None:
        self._late = None
        self.transport.close()


def serve(
    settings: Settings,
    host: str,
    port: int,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    on_start: Callable[[str], Any] = lambda _: None,
) -> None:
    """Serve the page until a signal stops it.

    Args:
        settings: database, users, and where scans and bundles lie.
        host: name or IP address to listen on.
        port: 0 takes a free one.
        certificate: PEM file of a chain of certificates, for TLS.
        key: PEM file of its private key.
        on_start: is told the address once the port is taken.

    Raises:
        SettingsError: others would reach a page without users, the port is taken, or the certificate cannot be used.
        DatabaseUnavailable: the URL of the database is malformed.
    """
    app = make_app(settings)
    check_listening(app.state.access, host)
    config = uvicorn.Config(
        app, http=TimedProtocol, log_config=None, access_log=False, proxy_headers=False, server_header=False,
        root_path=app.state.access.prefix, limit_concurrency=_MOST_CONNECTIONS, timeout_graceful_shutdown=_STOP_S,
        h11_max_incomplete_event_size=HEAD_BYTES, ssl_certfile=certificate, ssl_keyfile=key, ws="none",
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:
        raise SettingsError(f"the certificate {certificate} or its key cannot be used: {error.strerror}") from None
    listening = listen(host, port)
    name = f"[{host}]" if ":" in host else host
    scheme = "https" if certificate else "http"
    on_start(f"{scheme}://{name}:{listening.getsockname()[1]}{app.state.access.prefix}/")
    server = uvicorn.Server(config)
    stop_at_signals(lambda: setattr(server, "should_exit", True))
    with listening:
        server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket whose connections end when their readers take nothing: sleeping ones must not fill the page.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            f"the page cannot listen on {host}:{port}: {error.strerror}; name another --listen HOST:PORT"
        ) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TAKE_S * 1_000))
    return listening
