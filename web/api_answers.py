"""What the operations of the HTTP API read of requests, and how they answer."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from nightread.field_faults import tell_fault

_Model = TypeVar("_Model", bound=BaseModel)


def read_query(request: Request, kind: type[_Model]) -> _Model:
    """Return the parameters of an address.

    Raises:
        HTTPException: 400, with the parameter and what is wrong with it.
    """
    return _validate(kind, lambda: kind.model_validate(dict(request.query_params)))


def read_body(request: Request, kind: type[_Model]) -> _Model:
    """Return the body of a request.

    Raises:
        HTTPException: 400, with the field and what is wrong with it.
    """
    return _validate(kind, lambda: kind.model_validate_json(request.state.body))


def _validate(kind: type[_Model], read: Callable[[], _Model]) -> _Model:
    try:
        return read()
    except ValidationError as error:
        raise HTTPException(400, tell_fault(error.errors()[0], "the body")) from None


def read_name(request: Request, name: str) -> str:
    """Return a part of the path of an address.

    Raises:
        HTTPException: 404, no database could hold it.
    """
    text: str = request.path_params[name]
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):  # no database can hold it
        raise HTTPException(404, f"There is no such {name}.")
    return text


def describe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result row for JSON; times are ISO 8601."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def give(answer: BaseModel, status_code: int = 200) -> Response:
    """Return an answer as JSON."""
    return Response(answer.model_dump_json(), status_code, media_type="application/json")
