"""Security headers and the check of the Host header: the page shows file paths and has no login."""

import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.showing import render

#: Allow the page's own style sheet, script and pictures, no other host, no framing and no caching.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_HEALTH = "/healthz"  # reveals no paths and no names; probes may use the host's address


class Guard:
    """ASGI middleware that sets the headers and refuses requests for other hosts than localhost.

    DNS rebinding: a web site can let its name resolve to 127.0.0.1, so that a reader's browser requests this page as
    part of that site. Such requests have that name in the Host header. A reverse proxy on this host uses localhost.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
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
            title="Host not allowed",
            explanation="This page answers requests for localhost and 127.0.0.1 only. A reverse proxy must use one of "
            "these names: see docs/how-to/worklist.md.",
        )
        await response(scope, receive, send_with_headers)
