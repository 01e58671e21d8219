"""The HTTP API: runs, results, studies and models for programs, and requests for runs; JSON, CSV and JSON lines.

Programs send `Authorization: Bearer TOKEN`, with a token of `NIGHTREAD_WEB_USERS`. Pages hold at most a thousand rows
and name the next one.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import Engine, select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from db.changes import Changes
from db.engine import write
from db.page_actions import PageAction, store_action
from db.registry import StoredModel, find_model, list_models
from db.results import ResultFilter, stream_results
from db.results_csv import list_columns, stream_csv
from db.runs import RunInfo, list_runs
from db.tallies import RunTally, read_tallies
from db.views import studies
from db.worklist import PageRequest, read_page
from nightread.errors import ModelError, NightreadError, SettingsError, WrongStage
from nightread.settings import Settings
from nightread.settings_faults import describe_fault
from web import api_models as types
from web.access import Role
from web.filters import read_position, write_position
from web.guard import require
from web.lookup import find_requested_run, reading_request
from web.openapi import make_document
from web.pages import FileResponse
from web.run_actions import OPEN, explain_retry
from worker.errors import BrokerUnavailable, NothingToScore, WrongKey, WrongPaths
from worker.runs import enqueue
from worker.runs.request import Request as RunRequest

PREFIX: Final = "/api/v1"
_DOCUMENT: Final = "/openapi.json"
_UNKNOWN: Final = {"404": "there is none of that name"}
_CONFLICTS: Final = {"409": "it cannot be done now; the error says why", "413": "too large", "415": "not JSON"}

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API.

    Attributes:
        name: unique, for clients that are made from the document.
        method: GET or POST.
        path: below the prefix.
        handle: answers the request.
        summary: what it does.
        query: its parameters.
        body: what it takes; None: nothing.
        gives: what it answers; None: a file.
        role: that it needs.
        status: code of success.
        refusals: further codes, with their meaning.
        media_type: of what it answers.
    """

    name: str
    method: str
    path: str
    handle: Callable[[Request], Response]
    summary: str
    query: type[BaseModel] = types.NoQuery
    body: type[BaseModel] | None = None
    gives: type[BaseModel] | None = None
    role: Role = Role.VIEW
    status: int = 200
    refusals: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


def _list_runs(request: Request) -> Response:
    query = _read_query(request, types.RunsQuery)
    statuses = [query.status] if query.status else []
    with reading_request(request) as connection:
        listed = list_runs(connection, query.limit + 1, after=query.after, name=query.name, statuses=statuses)
        runs = listed[: query.limit]
        tallies = read_tallies(connection, [run.id for run in runs])
    following = runs[-1].id if len(listed) > query.limit else None
    return _give(types.Runs(runs=[_describe_run(run, tallies[run.id]) for run in runs], next=following))


def _show_run(request: Request) -> Response:
    _read_query(request, types.NoQuery)
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
        tally = read_tallies(connection, [run.id])[run.id]
    return _give(_describe_run(run, tally))


def _list_results(request: Request) -> Response:
    query = _read_query(request, types.ResultsQuery)
    after = read_position(query.after)
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
        tally = read_tallies(connection, [run.id])[run.id]
        asked = PageRequest(query.order, reason=query.reason)
        page = read_page(connection, _filter(run, query), query.limit, after, tally, request=asked)
    following = page.last and write_position(page.last)
    return _give(types.Rows(rows=[_describe_row(row) for row in page.rows], next=following))


def _send_csv(request: Request) -> Response:
    return _send(request, "csv", "text/csv", stream_csv)


def _send_json_lines(request: Request) -> Response:
    return _send(request, "jsonl", "application/x-ndjson", _stream_lines)


def _send(
    request: Request, suffix: str, media_type: str, stream: Callable[[Any, ResultFilter], Iterator[bytes]]
) -> Response:
    query = _read_query(request, types.FileQuery)
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
    engine: Engine = request.app.state.engine
    return FileResponse(engine, _filter(run, query), stream, f"nightread-{run.id[:8]}.{suffix}", media_type)


def _stream_lines(connection: Any, wanted: ResultFilter) -> Iterator[bytes]:
    columns = list_columns(wanted)
    for row in stream_results(connection, wanted):
        yield json.dumps(_describe_row({name: row[name] for name in columns}), ensure_ascii=False).encode() + b"\n"


def _list_changes(request: Request) -> Response:
    query = _read_query(request, types.ChangesQuery)
    with reading_request(request):
        pass  # the schema is checked
    try:
        changes = Changes(request.app.state.engine, ResultFilter(limit=query.limit), query.cursor)
        rows = [_describe_row(row) for row in changes]
    except NightreadError as error:
        if "cursor" not in str(error):
            raise
        raise HTTPException(400, str(error)) from None
    return _give(types.Changes(rows=rows, cursor=changes.cursor))


def _show_study(request: Request) -> Response:
    _read_query(request, types.NoQuery)
    uid = _read_name(request, "uid")
    with reading_request(request) as connection:
        labels = connection.execute(select(studies).where(studies.c.study == uid)).mappings().all()
        wanted = ResultFilter(study=uid, limit=types.MOST_ROWS)
        rows = [_describe_row(row) for row in stream_results(connection, wanted)]
    if not rows:
        raise HTTPException(404, "There is no study of this UID.")
    told = [
        types.StudyLabel.model_validate({name: row[name] for name in types.StudyLabel.model_fields})
        for row in labels
        if row["label"] is not None
    ]
    return _give(types.Study(study=uid, labels=told, rows=rows))


def _list_models(request: Request) -> Response:
    _read_query(request, types.NoQuery)
    with reading_request(request) as connection:
        listed = list_models(connection)
    return _give(types.Models(models=[_describe_model(model) for model in listed]))


def _show_model(request: Request) -> Response:
    _read_query(request, types.NoQuery)
    with reading_request(request) as connection:
        model = find_model(connection, _read_name(request, "name"), _read_name(request, "version"))
    if model is None:
        raise HTTPException(404, "The database has no model bundle of this name and version.")
    return _give(types.ModelCard(model=model.reference, digest=model.digest, stage=model.stage, card=model.card))


def _enqueue(request: Request) -> Response:
    user = require(request, Role.OPERATE)
    _read_query(request, types.NoQuery)
    asked = _read_body(request, types.NewRun)
    settings: Settings = request.app.state.settings
    if not settings.scan_roots:
        raise HTTPException(409, "Set NIGHTREAD_SCAN_ROOTS: without it, whoever enqueues decides what a worker reads.")
    if asked.model:
        settings = settings.model_copy(update={"model": asked.model})
    with reading_request(request):
        pass  # the schema is checked
    engine: Engine = request.app.state.engine
    committed: list[enqueue.Enqueued] = []
    try:
        enqueue.enqueue_run(
            engine, settings, [Path(path) for path in asked.paths],
            request=RunRequest(name=asked.name, key=asked.key, priority=asked.priority), on_commit=committed.append,
        )  # fmt: skip
    except WrongPaths as error:
        raise HTTPException(400, str(error)) from None
    except (SettingsError, ModelError, WrongStage, WrongKey, NothingToScore) as error:
        raise HTTPException(409, str(error)) from None
    except BrokerUnavailable:
        pass  # the run is written, and the next sweep publishes it
    run = committed[0]
    write(engine, lambda connection: store_action(connection, PageAction(user.name, user.role, "enqueue", run.run_id)))
    return _give(types.Enqueued(run=run.run_id, found=run.found, skipped=run.skipped, existed=run.existed), 201)


def _retry(request: Request) -> Response:
    return _act(request, "retry", enqueue.retry_run)


def _cancel(request: Request) -> Response:
    return _act(request, "cancel", lambda engine, _, run_id: enqueue.cancel_run(engine, run_id))


def _act(request: Request, action: str, act: Callable[[Engine, Settings, str], tuple[RunInfo, int]]) -> Response:
    user = require(request, Role.OPERATE)
    _read_query(request, types.NoQuery)
    engine: Engine = request.app.state.engine
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
    why = explain_retry(request.app.state.settings, run) if action == "retry" else ""
    if why or (action == "cancel" and run.status not in OPEN):
        raise HTTPException(409, why or "This run has ended: there is nothing to cancel.")
    write(engine, lambda connection: store_action(connection, PageAction(user.name, user.role, action, run.id)))
    try:
        _, scans = act(engine, request.app.state.settings, run.id)
    except BrokerUnavailable:
        raise HTTPException(
            503, "The scans are queued again; the broker does not answer: the next sweep publishes them."
        ) from None
    return _give(types.Changed(run=run.id, scans=scans))


def _show_document(request: Request) -> Response:
    return JSONResponse(make_document(OPERATIONS, f"{request.scope.get('root_path', '')}{PREFIX}"))


OPERATIONS: Final = (
    Operation("listRuns", "GET", "/runs", _list_runs, "List runs, newest first.", types.RunsQuery, gives=types.Runs),
    Operation(
        "getRun", "GET", "/runs/{reference}", _show_run, "Show a run and its counts.", gives=types.Run,
        refusals=_UNKNOWN,
    ),
    Operation(
        "listResults", "GET", "/runs/{reference}/results", _list_results, "List a run's result rows.",
        types.ResultsQuery, gives=types.Rows, refusals=_UNKNOWN,
    ),
    Operation(
        "getResultsCsv", "GET", "/runs/{reference}/results.csv", _send_csv, "Get all result rows of a run as CSV.",
        types.FileQuery, refusals=_UNKNOWN, media_type="text/csv",
    ),
    Operation(
        "getResultsLines", "GET", "/runs/{reference}/results.jsonl", _send_json_lines,
        "Get all result rows of a run as JSON lines.", types.FileQuery, refusals=_UNKNOWN,
        media_type="application/x-ndjson",
    ),
    Operation(
        "listChanges", "GET", "/changes", _list_changes, "List the rows that became terminal since a cursor.",
        types.ChangesQuery, gives=types.Changes,
    ),
    Operation(
        "getStudy", "GET", "/studies/{uid}", _show_study, "Show what was said of a study.", gives=types.Study,
        refusals=_UNKNOWN,
    ),
    Operation(
        "listModels", "GET", "/models", _list_models, "List the model bundles of the database.", gives=types.Models
    ),
    Operation(
        "getModel", "GET", "/models/{name}/{version}", _show_model, "Show a model bundle's card.",
        gives=types.ModelCard, refusals=_UNKNOWN,
    ),
    Operation(
        "enqueue", "POST", "/runs", _enqueue, "Enqueue a run for workers.", body=types.NewRun, gives=types.Enqueued,
        role=Role.OPERATE, status=201, refusals=_CONFLICTS,
    ),
    Operation(
        "retry", "POST", "/runs/{reference}/retry", _retry, "Queue a run's failed scans again.", gives=types.Changed,
        role=Role.OPERATE, refusals=_UNKNOWN | _CONFLICTS,
    ),
    Operation(
        "cancel", "POST", "/runs/{reference}/cancel", _cancel, "End a run; its open scans fail as cancelled.",
        gives=types.Changed, role=Role.OPERATE, refusals=_UNKNOWN | _CONFLICTS,
    ),
)  # fmt: skip


def make_routes() -> list[Route]:
    """Return the routes of the API."""
    routes = [
        Route(f"{PREFIX}{one.path}", one.handle, methods=[one.method], name=f"api-{one.name}") for one in OPERATIONS
    ]
    return [Route(f"{PREFIX}{_DOCUMENT}", _show_document, name="api-document"), *routes]


def _read_query(request: Request, kind: type[_Model]) -> _Model:
    """Return the parameters of an address.

    Raises:
        HTTPException: 400, with the parameter and what is wrong with it.
    """
    return _validate(kind, lambda: kind.model_validate(dict(request.query_params)))


def _read_body(request: Request, kind: type[_Model]) -> _Model:
    return _validate(kind, lambda: kind.model_validate_json(request.state.body))


def _validate(kind: type[_Model], read: Callable[[], _Model]) -> _Model:
    try:
        return read()
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the body"
        raise HTTPException(400, f"{place[:60]}: {describe_fault(fault)}") from None


def _read_name(request: Request, name: str) -> str:
    text: str = request.path_params[name]
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):  # no database can hold it
        raise HTTPException(404, f"There is no such {name}.")
    return text


def _filter(run: RunInfo, query: types.ResultsQuery | types.FileQuery) -> ResultFilter:
    statuses = [query.status] if query.status else []
    return ResultFilter(run.id, statuses, query.label, query.min_score, decision=query.decision)


def _describe_run(run: RunInfo, tally: RunTally) -> types.Run:
    counts = {name: getattr(tally.counts, name) for name in types.Counts.model_fields}
    return types.Run(
        id=run.id, name=run.name, status=run.status, model=run.model, found=run.found, counts=types.Counts(**counts),
        decisions=tally.decisions, created_at=run.created_at, finished_at=run.finished_at, priority=run.priority,
        guard=run.guard, guard_text=run.guard_text,
    )  # fmt: skip


def _describe_model(model: StoredModel) -> types.Model:
    labels = model.card.get("labels")
    return types.Model(
        model=model.reference, digest=model.digest, stage=model.stage, created_at=model.created_at,
        labels=[str(label) for label in labels] if isinstance(labels, list) else [],
        description=str(model.card.get("description") or ""),
    )  # fmt: skip


def _describe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _give(answer: BaseModel, status_code: int = 200) -> Response:
    return Response(answer.model_dump_json(), status_code, media_type="application/json")
