"""What the address of a request names, and the read transaction in which it is looked up."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.requests import Request

from db.engine import reading
from db.runs import RunInfo, find_run
from db.schema import check_schema
from nightread.errors import UnknownRun

_SCAN_ID = re.compile(r"[0-9]{1,18}", re.ASCII)


@contextmanager
def reading_request(request: Request) -> Iterator[Connection]:
    """Open a read transaction on a database with a current schema.

    The schema is checked until it was current once; later migrations stay compatible with this release.
    """
    state = request.app.state
    if not state.schema_checked:
        check_schema(state.engine)
        state.schema_checked = True
    with reading(state.engine) as connection:
        yield connection


def find_requested_run(connection: Connection, request: Request) -> RunInfo:
    """Return the run that the address names, by id, prefix of its id, or name.

    Raises:
        UnknownRun: no run, or more than one.
    """
    reference: str = request.path_params["reference"]
    if "\0" in reference:  # PostgreSQL text cannot contain NUL
        raise UnknownRun(reference)
    return find_run(connection, reference)


def read_scan_id(request: Request) -> int:
    """Return the id of a scan in the address.

    Raises:
        HTTPException: 404, it is no id.
    """
    text: str = request.path_params["scan_id"]
    if not _SCAN_ID.fullmatch(text):
        raise unknown_scan()
    return int(text)


def unknown_scan() -> HTTPException:
    """Return the error of a scan that is not there."""
    return HTTPException(404, "No scan has this id; its run may have been pruned.")
