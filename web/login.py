"""Login by token, logout, and the page of all actions."""

import logging
import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from db.engine import write
from db.page_actions import PageAction, list_actions, store_action
from web.access import Access, Role, User
from web.guard import Visitor, require
from web.lookup import reading_request
from web.sessions import ATTEMPTS_S
from web.showing import render

_log = logging.getLogger(__name__)
#: A path of this page, and no other host: neither `//HOST` nor `/\HOST`.
_OWN_PATH = re.compile(r"/([^/\\\x00-\x20\x7f][^\\\x00-\x1f\x7f]*)?")


def show_login(request: Request) -> Response:
    """Show the form for a token."""
    return _show(request, request.query_params.get("next"))


def log_in(request: Request) -> Response:
    """Begin a session for the user of a token."""
    form, app, visitor = request.state.form, request.app.state, request.state.visitor
    access: Access = app.access
    peer = request.client.host if request.client else ""
    if not app.attempts.is_allowed(peer):
        _log.warning("a login was refused: too many attempts")
        return _show(request, form.get("next"), "Too many attempts: wait a minute and try again.", 429)
    user = access.find_by_token(form.get("token", "").strip())
    if user is None:
        _log.warning("a login was refused: no such token")
        return _show(request, form.get("next"), "No user has this token.", 403)
    write(app.engine, lambda connection: store_action(connection, PageAction(user.name, user.role, "login")))
    app.sessions.end(visitor.session)
    request.state.visitor = Visitor(user, app.sessions.begin(user.name), is_kept=True)
    return RedirectResponse(request.scope.get("root_path", "") + _own_path(form.get("next")), 303)


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


def _show(request: Request, following: str | None, refusal: str = "", status_code: int = 200) -> Response:
    headers = {"Retry-After": f"{ATTEMPTS_S:.0f}"} if status_code == 429 else None
    return render(
        request, "login.html", status_code=status_code, headers=headers, following=_own_path(following),
        refusal=refusal,
    )  # fmt: skip


def _own_path(text: str | None) -> str:
    return text if text and _OWN_PATH.fullmatch(text) else "/"
