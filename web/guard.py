"""What every request meets first: security headers, the Host header, the visitor, and the checks of forms."""

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nightread.page_settings import is_loopback
from web.access import Access, Role, User
from web.sessions import COOKIE, LIFETIME_S, Session, Sessions
from web.showing import is_api, refuse

#: Allow the page's own style sheet, script and pictures, no other host, no framing and no caching.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`, with which browsers send `Origin: null` with forms.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Name of the field in which each form repeats the session's token.
FORM_TOKEN: Final = "form_token"  # noqa: S105  # a name
#: Largest form, in bytes, and the seconds in which it must have arrived.
FORM_BYTES: Final = 16_384
FORM_S: Final = 10.0
_MOST_FIELDS: Final = 32

_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_HEALTH: Final = "/healthz"  # reveals no paths and no names; probes may use the host's address
_PUBLIC: Final = ("/login", "/static/")


@dataclass(slots=True)
class Visitor:
    """Who makes a request.

    Attributes:
        user: None before a login.
        session: what the cookie says, or a new session.
        is_kept: whether the browser has the session, or gets it with the response.
    """

    user: User | None
    session: Session
    is_kept: bool

    @property
    def form_token(self) -> str:
        """The token that a form must repeat; the browser gets the session it belongs to."""
        self.is_kept = True
        return self.session.form_token

    def may(self, role: str) -> bool:
        """Return whether the user has a role, by its value."""
        return self.user is not None and self.user.role.allows(Role(role))


class _Refused(Exception):
    """A request that is not answered; the page that says so."""

    def __init__(self, status_code: int, title: str, explanation: str) -> None:
        super().__init__(title)
        self.status_code, self.title, self.explanation = status_code, title, explanation


class Guard:
    """ASGI middleware that sets the headers, refuses what is foreign or forged, and tells handlers who asks.

    DNS rebinding: a web site can let its name resolve to 127.0.0.1, so that a reader's browser requests this page as
    part of that site. Such requests have that name in the Host header. A reverse proxy on this host uses localhost.

    Cross-site request forgery: a form counts only if its Origin is this page's, and if it repeats the token of the
    session's cookie, which other sites can neither read nor have sent along (SameSite).
    """

    def __init__(self, app: ASGIApp, access: Access, sessions: Sessions) -> None:
        self._app, self._access, self._sessions = app, access, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        request = Request(scope, receive)
        known = self._read_session(request)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(scope, MutableHeaders(scope=message), known, state.get("visitor"))
            await send(message)

        try:
            answer = await self._admit(request, known)
        except _Refused as refused:
            asked = {"WWW-Authenticate": "Bearer"} if refused.status_code == 401 and is_api(request) else None
            answer = refuse(request, refused.status_code, refused.title, refused.explanation, asked)
        await (answer or self._app)(scope, receive, send_with_headers)

    async def _admit(self, request: Request, known: Session | None) -> Response | None:
        """Check a request and note its visitor and form; returns the answer if it goes no further.

        Raises:
            _Refused: what is wrong with it.
        """
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if path == _HEALTH:
            return None
        self._check_host(request)
        if is_api(request):
            await self._admit_program(request, known)
            return None
        user = self._identify(request, known)
        visitor = Visitor(user, known or self._sessions.begin(), is_kept=known is not None)
        request.state.visitor = visitor
        if user is None and not path.startswith(_PUBLIC):
            if not self._access.has_login:
                raise _Refused(403, "No role", "Nobody has given you a role here: ask who runs this page.")
            return _lead_to_login(request, path)
        if request.method not in {"GET", "HEAD"}:
            request.state.form = await self._read_form(request, visitor)
        return None

    async def _admit_program(self, request: Request, known: Session | None) -> None:
        """Check a request to the API, and note its user and body.

        A browser sends neither a token nor, from another site, JSON: no form can be forged into such a request.

        Raises:
            _Refused: what is wrong with it.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        has_token = scheme.lower() == "bearer"  # a proxy may pass on what its users show to it, such as `Basic`
        user = self._access.find_by_token(token.strip()) if has_token else self._identify(request, known)
        if user is None:
            raise _Refused(401, "No user", "No user has this token; send Authorization: Bearer TOKEN.")
        request.state.visitor = Visitor(user, known or self._sessions.begin(), is_kept=False)
        if request.method in {"GET", "HEAD"}:
            return
        if not has_token and not self._is_own(request):
            raise _Refused(403, "Foreign request", "This request was sent by another site, so nothing was done.")
        if _read_kind(request) != "application/json":
            raise _Refused(415, "No JSON", "Send Content-Type: application/json.")
        request.state.body = await self._receive(request)

    def _is_own(self, request: Request) -> bool:
        """Return whether no other site sent a request: it has the Origin of this page, or none."""
        origins = request.headers.getlist("origin")
        return not origins or origins in [[origin] for origin in self._list_origins(request)]

    def _list_origins(self, request: Request) -> set[str]:
        host = request.headers.get("host", "").lower()
        return {f"{request.url.scheme}://{host}", self._access.origin} - {""}

    async def _receive(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            _Refused: it is too large or too slow.
        """
        try:
            with anyio.fail_after(FORM_S):
                return await _read_body(request)
        except TimeoutError:
            raise _Refused(408, "Too slow", f"The form did not arrive within {FORM_S:g} seconds.") from None
        except ClientDisconnect:
            raise _Refused(400, "No form", "The form did not arrive.") from None

    def _check_host(self, request: Request) -> None:
        host = request.headers.get("host", "").lower()
        if not _LOCAL_HOST.fullmatch(host) and not (host and host == self._access.host):
            raise _Refused(
                421,
                "Host not allowed",
                "This page answers requests for localhost, 127.0.0.1 and the host of NIGHTREAD_WEB_ADDRESS only. A "
                "reverse proxy must use one of these names: see docs/how-to/worklist.md.",
            )

    def _identify(self, request: Request, session: Session | None) -> User | None:
        """Return the user of a request: whom a trusted proxy names, who has logged in, or everybody on this host.

        Raises:
            _Refused: a proxy names nobody with a role, or the page has no users and the request comes from elsewhere.
        """
        access = self._access
        peer = request.client.host if request.client else None
        named = request.headers.getlist(access.header)
        if named and access.trusts(peer):
            if len(named) == 1 and (user := access.find_named(_read_utf8(named[0]))):
                return user
            raise _Refused(403, "No role", "Nobody has given you a role here: ask who runs this page.")
        if access.local is None:
            return access.find_logged_in(session.user) if session else None
        if peer is not None and not is_loopback(peer):  # a socket in the file system has no peer
            raise _Refused(403, "Not from here", "This page has no users, so it answers the host it runs on alone.")
        return access.local

    async def _read_form(self, request: Request, visitor: Visitor) -> dict[str, str]:
        """Return the fields of a form of this page.

        Raises:
            _Refused: it is another site's, too old, too large or too slow.
        """
        if request.headers.getlist("origin") not in [[origin] for origin in self._list_origins(request)]:
            raise _Refused(403, "Foreign form", "This form was not sent by this page, so nothing was done.")
        if _read_kind(request) != "application/x-www-form-urlencoded":
            raise _Refused(415, "No form", "This page takes plain forms only.")
        form = _parse_form(await self._receive(request))
        token = form.pop(FORM_TOKEN, "")
        if not visitor.is_kept or not hmac.compare_digest(token.encode(), visitor.session.form_token.encode()):
            raise _Refused(
                403, "Form too old", "Your session has ended or changed since the page was loaded: go back, load it "
                "again and send the form once more. Nothing was done."
            )  # fmt: skip
        return form

    def _read_session(self, request: Request) -> Session | None:
        cookie = request.cookies.get(COOKIE)
        return self._sessions.read(cookie) if cookie else None

    def _add_headers(self, scope: Scope, headers: MutableHeaders, known: Session | None, visitor: Any) -> None:
        headers.update(HEADERS)
        if self._access.is_encrypted:
            headers["Strict-Transport-Security"] = "max-age=31536000"
        if isinstance(visitor, Visitor) and visitor.is_kept and visitor.session != known:
            headers.append("Set-Cookie", self._make_cookie(scope, visitor.session))

    def _make_cookie(self, scope: Scope, session: Session) -> str:
        parts = [
            f"{COOKIE}={self._sessions.write(session)}", f"Path={scope.get('root_path') or '/'}",
            f"Max-Age={LIFETIME_S}", "HttpOnly", "SameSite=Lax",
        ]  # fmt: skip
        is_encrypted = self._access.is_encrypted or scope["scheme"] == "https"
        return "; ".join([*parts, "Secure"] if is_encrypted else parts)


def require(request: Request, role: Role) -> User:
    """Return the user of a request.

    Raises:
        HTTPException: 403, the user has not that role.
    """
    user: User | None = request.state.visitor.user
    if user is None or not user.role.allows(role):
        has = f"Your role is {user.role}" if user else "You have no role"
        raise HTTPException(403, f"{has}; this needs the role {role}.")
    return user


def _lead_to_login(request: Request, path: str) -> Response:
    if request.method != "GET" or Headers(scope=request.scope).get("sec-fetch-dest", "document") != "document":
        raise _Refused(401, "Not logged in", "Your session has ended: log in again. Nothing was done.")
    query = request.scope["query_string"].decode("latin-1")
    following = quote(path + (f"?{query}" if query else ""), safe="")
    return RedirectResponse(f"{request.scope.get('root_path', '')}/login?next={following}", 303)


def _read_utf8(value: str) -> str:
    """Return the value of a header, which was read as Latin-1, as the UTF-8 that it is if it can be that."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def _read_kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > FORM_BYTES:
            raise _Refused(413, "Form too large", f"A form holds at most {FORM_BYTES:,} bytes.")
        parts.append(part)
    return b"".join(parts)


def _parse_form(body: bytes) -> dict[str, str]:
    try:
        pairs: Iterable[tuple[str, str]] = parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=bool(body), errors="strict",
            max_num_fields=_MOST_FIELDS,
        )  # fmt: skip
    except ValueError:
        raise _Refused(400, "No form", "The form cannot be read.") from None
    fields: Mapping[str, str] = dict(pairs)
    return {name: value for name, value in fields.items() if "\0" not in value}
