"""What every response carries, and which hosts are answered: the page shows paths and has no login."""

import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.showing import render

#: Nothing but our own style sheet is loaded, nothing runs, nobody frames the page, and no cache or proxy keeps it.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_HEALTH = "/healthz"  # holds no path and no name, and who probes it may call this host by an address


class Guard:
    """ASGI middleware that sets the headers and answers this host's own names alone.

    A web site can let its name point to 127.0.0.1 and so make a reader's browser ask this page as if it were part of
    that site (DNS rebinding); the name in the Host header gives it away. A reverse proxy asks by the address that it
    was told, so it passes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if _LOCAL_HOST.fullmatch(Headers(scope=scope).get("host", "")) or scope["path"] == _HEALTH:
            await self._app(scope, receive, send_with_headers)
            return
        response = render(
            Request(scope),
            "error.html",
            status_code=421,
            title="Not under this name",
            explanation="This page answers to localhost and 127.0.0.1 only. A reverse proxy in front of it must ask "
            "for it by one of these names: see docs/how-to/worklist.md.",
        )
        await response(scope, receive, send_with_headers)
