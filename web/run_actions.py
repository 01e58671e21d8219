"""Retry and cancel of runs, for users who operate."""

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from db.engine import write
from db.page_actions import PageAction, store_action
from db.runs import RunInfo
from db.types import RunStatus
from nightread.settings import Settings
from web.access import Role, User
from web.guard import require
from web.lookup import find_requested_run, reading_request
from worker.errors import BrokerUnavailable
from worker.runs.enqueue import cancel_run, retry_run

_log = logging.getLogger(__name__)
OPEN = (RunStatus.QUEUED, RunStatus.RUNNING)


def retry(request: Request) -> Response:
    """Queue the failed scans of a run again for workers."""
    user, run = require(request, Role.OPERATE), _find(request)
    if why := explain_retry(request.app.state.settings, run):
        raise HTTPException(400, why)
    state = request.app.state
    _note(request, user, run, "retry")
    try:
        retry_run(state.engine, state.settings, run.id)
    except BrokerUnavailable as error:  # the jobs are written, and the next sweep publishes them
        _log.warning("%s", error)
    return _lead(request, run)


def cancel(request: Request) -> Response:
    """End a run; its open scans fail with the reason `cancelled`."""
    user, run = require(request, Role.OPERATE), _find(request)
    if run.status not in OPEN:
        raise HTTPException(400, "This run has ended: there is nothing to cancel.")
    _note(request, user, run, "cancel")
    cancel_run(request.app.state.engine, run.id)
    return _lead(request, run)


def explain_retry(settings: Settings, run: RunInfo) -> str:
    """Return why a run cannot be retried from the page; "" if it can."""
    if run.embedded:
        return f"A run of `score` is retried where its scans lie: nightread retry {run.id[:8]}"
    if not settings.has_shared_broker:
        return "The page knows no broker that workers share: set NIGHTREAD_BROKER_URL for it as for the workers."
    return ""


def _find(request: Request) -> RunInfo:
    with reading_request(request) as connection:
        return find_requested_run(connection, request)


def _note(request: Request, user: User, run: RunInfo, action: str) -> None:
    """Store the action first: what cannot be audited is not done.

    Raises:
        DatabaseError: it cannot be stored.
    """
    stored = PageAction(user.name, user.role, action, run.id)
    write(request.app.state.engine, lambda connection: store_action(connection, stored))


def _lead(request: Request, run: RunInfo) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/runs/{run.id}", 303)
