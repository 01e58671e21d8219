"""Error pages: what happened and what to do, with the right status code and no traceback."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from nightread.errors import DatabaseUnavailable, SchemaOutdated, UnknownRun
from web.guard import HEADERS
from web.showing import is_api, refuse

_log = logging.getLogger(__name__)

_RETRY_AFTER_S = "30"
_HTTP_TITLES = {
    400: "Invalid request",
    403: "Not allowed",
    404: "Page not found",
    405: "Method not allowed",
    503: "Busy",
}
_HTTP_EXPLANATIONS = {
    404: "There is no page at this address.",
    405: "This address takes no such request.",
}


def _explain_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # guaranteed by ERROR_HANDLERS
    explanation = error.detail
    if not is_api(request):
        explanation = _HTTP_EXPLANATIONS.get(error.status_code, explanation)
    title = _HTTP_TITLES.get(error.status_code, "Error")
    return refuse(request, error.status_code, title, explanation, error.headers)


def _explain_unknown_run(request: Request, error: Exception) -> Response:
    reference = request.path_params.get("reference", "")
    explanation = f"No run, or more than one, has the id, the beginning of an id or the name “{reference}”."
    return refuse(request, 404, "Run not found", explanation)


def _explain_unavailable(request: Request, error: Exception) -> Response:
    # The message contains the database's host, which belongs into the log and not on the page.
    _log.warning("%s", error)
    explanation = (
        "The results database does not answer, or refuses to store. Try again in a minute; details are in the server's "
        "log."
    )
    return refuse(request, 503, "Database unavailable", explanation, {"Retry-After": _RETRY_AFTER_S})


def _explain_schema(request: Request, error: Exception) -> Response:
    _log.warning("%s", error)
    explanation = (
        "The results database has no tables yet, or those of another release. `nightread score` creates them in an "
        "SQLite file, `nightread db upgrade` on a server."
    )
    return refuse(request, 503, "Database not ready", explanation, {"Retry-After": _RETRY_AFTER_S})


def _explain_fault(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after sending the page, so that the server logs it.
    explanation = "This is an error in Nightread; details are in the server's log. Please report it."
    # This page bypasses the middleware, so the headers are set here.
    return refuse(request, 500, "Internal error", explanation, HEADERS)


ERROR_HANDLERS: Final[Mapping[Any, ExceptionHandler]] = {
    HTTPException: _explain_http,
    UnknownRun: _explain_unknown_run,
    DatabaseUnavailable: _explain_unavailable,
    PoolTimeoutError: _explain_unavailable,
    SchemaOutdated: _explain_schema,
    Exception: _explain_fault,
}
