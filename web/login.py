"""Login by token or by an identity provider, logout, and the page of all actions."""

import logging
import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from db.engine import write
from db.page_actions import PageAction, list_actions, store_action
from nightread.errors import NightreadError
from web.access import Access, Role, User
from web.guard import Visitor, require
from web.identity_provider import COOKIE as LOGIN_COOKIE
from web.identity_provider import LIFETIME_S as LOGIN_S
from web.identity_provider import IdentityProvider, LoginRefused
from web.lookup import reading_request
from web.sessions import ATTEMPTS_S
from web.showing import render

_log = logging.getLogger(__name__)
#: A path of this page, and no other host: neither `//HOST` nor `/\HOST`.
_OWN_PATH = re.compile(r"/([^/\\\x00-\x20\x7f][^\\\x00-\x1f\x7f]*)?")


def show_login(request: Request) -> Response:
    """Show the ways to log in."""
    return _show(request, request.query_params.get("next"))


def log_in(request: Request) -> Response:
    """Begin a session for the user of a token."""
    form, app = request.state.form, request.app.state
    access: Access = app.access
    peer = request.client.host if request.client else ""
    if not app.attempts.is_allowed(peer):
        return _refuse_attempt(request, form.get("next"))
    user = access.find_by_token(form.get("token", "").strip())
    if user is None:
        _log.warning("a login was refused: no such token")
        return _show(request, form.get("next"), "No user has this token.", 403)
    return _begin_session(request, user, form.get("next"))


def begin_login(request: Request) -> Response:
    """Send the browser to the identity provider."""
    provider = _find_provider(request)
    try:
        address, cookie = provider.begin(_own_path(request.query_params.get("next")))
    except NightreadError as error:
        return _show(request, request.query_params.get("next"), f"{error}.", 503)
    answer = RedirectResponse(address, 303)
    answer.set_cookie(
        LOGIN_COOKIE, cookie, max_age=LOGIN_S, path=_login_path(request), httponly=True, samesite="lax",
        secure=request.app.state.access.is_encrypted or request.url.scheme == "https",
    )  # fmt: skip
    return answer


def end_login(request: Request) -> Response:
    """Begin a session for the user whom the identity provider names."""
    provider, app = _find_provider(request), request.app.state
    if not app.attempts.is_allowed(request.client.host if request.client else ""):
        return _refuse_attempt(request, None)
    try:
        name, following = provider.end(request.cookies.get(LOGIN_COOKIE), request.query_params)
    except NightreadError as error:
        _log.warning("a login was refused: %s", error)
        return _show(request, None, f"{error}.", 403 if isinstance(error, LoginRefused) else 503)
    user = app.access.find_named(name)
    if user is None:
        _log.warning("a login was refused: the list of users gives no role")
        return _show(request, None, "Nobody has given you a role here: ask who runs this page.", 403)
    answer = _begin_session(request, user, following)
    answer.delete_cookie(LOGIN_COOKIE, path=_login_path(request))  # a code is exchanged once
    return answer


def log_out(request: Request) -> Response:
    """End the session."""
    visitor, app = request.state.visitor, request.app.state
    user: User | None = visitor.user
    if user and visitor.session.user:
        write(app.engine, lambda connection: store_action(connection, PageAction(user.name, user.role, "logout")))
        app.sessions.end(visitor.session)
        request.state.visitor = Visitor(None, app.sessions.begin(), is_kept=True)
    return RedirectResponse(request.scope.get("root_path", "") + "/", 303)


def show_actions(request: Request) -> Response:
    """Show what users did, newest first, to those who operate."""
    require(request, Role.OPERATE)
    text = request.query_params.get("before")
    if text and not re.fullmatch(r"[0-9]{1,18}", text):
        raise HTTPException(400, "The position in the address is not valid: begin at the first page.")
    with reading_request(request) as connection:
        actions = list_actions(connection, int(text) if text else None)
    return render(request, "actions.html", actions=actions, is_first=not text)


def _begin_session(request: Request, user: User, following: str | None) -> Response:
    app, visitor = request.app.state, request.state.visitor
    write(app.engine, lambda connection: store_action(connection, PageAction(user.name, user.role, "login")))
    app.sessions.end(visitor.session)
    request.state.visitor = Visitor(user, app.sessions.begin(user.name), is_kept=True)
    return RedirectResponse(request.scope.get("root_path", "") + _own_path(following), 303)


def _find_provider(request: Request) -> IdentityProvider:
    """Return the identity provider.

    Raises:
        HTTPException: 404, there is none.
    """
    provider: IdentityProvider | None = request.app.state.provider
    if provider is None:
        raise HTTPException(404)
    return provider


def _login_path(request: Request) -> str:
    return f"{request.scope.get('root_path', '')}/login"


def _refuse_attempt(request: Request, following: str | None) -> Response:
    _log.warning("a login was refused: too many attempts")
    return _show(request, following, "Too many attempts: wait a minute and try again.", 429)


def _show(request: Request, following: str | None, refusal: str = "", status_code: int = 200) -> Response:
    headers = {"Retry-After": f"{ATTEMPTS_S:.0f}"} if status_code == 429 else None
    return render(
        request, "login.html", status_code=status_code, headers=headers, following=_own_path(following),
        refusal=refusal, provider=request.app.state.provider, has_tokens=bool(request.app.state.access.by_token),
    )  # fmt: skip


def _own_path(text: str | None) -> str:
    return text if text and _OWN_PATH.fullmatch(text) else "/"
