"""The operations of the HTTP API that give results: a run's rows, pages and files of them, changes, and studies."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from tempfile import TemporaryFile
from typing import IO, Any, Final

from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from db.changes import Changes
from db.result_files import NoSheet, write_parquet, write_sheet
from db.results import ResultFilter, stream_results
from db.results_csv import list_columns, stream_csv
from db.runs import RunInfo
from db.studies import list_study_uids, roll_up
from db.tallies import read_tallies
from db.worklist import read_page
from db.worklist_request import PageRequest
from nightread.errors import NightreadError
from nightread.settings import Settings
from web import api_models as types
from web.api_answers import describe_row, give, read_name, read_query
from web.filters import read_position, write_position
from web.lookup import find_requested_run, reading_request
from web.pages import FileResponse
from web.showing import link_viewer

PARQUET: Final = "application/vnd.apache.parquet"
SHEET: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_PART_BYTES: Final = 2**18


def list_results(request: Request) -> Response:
    """Give a page of a run's rows."""
    query = read_query(request, types.ResultsQuery)
    after = read_position(query.after)
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
        tally = read_tallies(connection, [run.id])[run.id]
        asked = PageRequest(query.order, reason=query.reason)
        page = read_page(connection, _filter(run, query), query.limit, after, tally, request=asked)
    following = page.last and write_position(page.last)
    return give(types.Rows(rows=[describe_row(row) for row in page.rows], next=following))


def send_csv(request: Request) -> Response:
    """Send all rows of a run as CSV."""
    return _send(request, "csv", "text/csv", stream_csv)


def send_json_lines(request: Request) -> Response:
    """Send all rows of a run as JSON lines."""
    return _send(request, "jsonl", "application/x-ndjson", _stream_lines)


def send_parquet(request: Request) -> Response:
    """Send all rows of a run as Parquet."""
    return _send(request, "parquet", PARQUET, partial(_stream_file, write_parquet))


def send_sheet(request: Request) -> Response:
    """Send all rows of a run as a sheet."""
    return _send(request, "xlsx", SHEET, partial(_stream_file, write_sheet))


def _send(
    request: Request, suffix: str, media_type: str, stream: Callable[[Any, ResultFilter], Iterator[bytes]]
) -> Response:
    query = read_query(request, types.FileQuery)
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
    engine: Engine = request.app.state.engine
    try:
        return FileResponse(engine, _filter(run, query), stream, f"nightread-{run.id[:8]}.{suffix}", media_type)
    except NoSheet as error:
        raise HTTPException(409, str(error)) from None


def _stream_file(
    write_file: Callable[[Iterator[dict[str, Any]], IO[bytes], Sequence[str]], None],
    connection: Any,
    wanted: ResultFilter,
) -> Iterator[bytes]:
    """Yield a file that is whole before its first byte is sent: these formats end with their index."""
    with TemporaryFile() as file:
        write_file(stream_results(connection, wanted), file, list_columns(wanted))
        file.seek(0)
        while part := file.read(_PART_BYTES):
            yield part


def _stream_lines(connection: Any, wanted: ResultFilter) -> Iterator[bytes]:
    columns = list_columns(wanted)
    for row in stream_results(connection, wanted):
        yield json.dumps(describe_row({name: row[name] for name in columns}), ensure_ascii=False).encode() + b"\n"


def list_changes(request: Request) -> Response:
    """Give the rows that became terminal since a cursor."""
    query = read_query(request, types.ChangesQuery)
    with reading_request(request):
        pass  # the schema is checked
    try:
        changes = Changes(request.app.state.engine, ResultFilter(limit=query.limit), query.cursor)
        rows = [describe_row(row) for row in changes]
    except NightreadError as error:
        if "cursor" not in str(error):
            raise
        raise HTTPException(400, str(error)) from None
    return give(types.Changes(rows=rows, cursor=changes.cursor))


def list_studies(request: Request) -> Response:
    """Give a page of studies, sorted by UID."""
    query = read_query(request, types.StudiesQuery)
    with reading_request(request) as connection:
        uids = list_study_uids(connection, query.limit + 1, query.after)
        asked = uids[: query.limit]
        rows = roll_up(
            connection, asked, label=query.label, decision=query.decision, min_score=query.min_score, model=query.model
        )
    settings: Settings = request.app.state.settings
    listed = [
        types.ListedStudy(study=uid, labels=_describe_labels(labels), viewer=link_viewer(settings, uid))
        for uid, labels in rows.items()
    ]
    return give(types.Studies(studies=listed, next=asked[-1] if len(uids) > query.limit else None))


def show_study(request: Request) -> Response:
    """Give what was said of a study."""
    read_query(request, types.NoQuery)
    uid = read_name(request, "uid")
    with reading_request(request) as connection:
        labels = roll_up(connection, [uid]).get(uid, [])
        wanted = ResultFilter(study=uid, limit=types.MOST_ROWS)
        rows = [describe_row(row) for row in stream_results(connection, wanted)]
    if not rows:
        raise HTTPException(404, "There is no study of this UID.")
    viewer = link_viewer(request.app.state.settings, uid)
    return give(types.Study(study=uid, labels=_describe_labels(labels), rows=rows, viewer=viewer))


def _describe_labels(rows: Sequence[Mapping[str, Any]]) -> list[types.StudyLabel]:
    """Return the roll-up of a study; one without a score has none."""
    return [
        types.StudyLabel.model_validate({name: row[name] for name in types.StudyLabel.model_fields})
        for row in rows
        if row["label"] is not None
    ]


def _filter(run: RunInfo, query: types.ResultsQuery | types.FileQuery) -> ResultFilter:
    statuses = [query.status] if query.status else []
    return ResultFilter(run.id, statuses, query.label, query.min_score, decision=query.decision)
