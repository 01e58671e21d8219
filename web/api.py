"""The HTTP API: runs, results, studies and models for programs, and requests for runs; JSON and files.

Programs send `Authorization: Bearer TOKEN`, with a token of `NIGHTREAD_WEB_USERS`. Pages hold at most a thousand rows
and name the next one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from db.engine import write
from db.page_actions import PageAction, store_action
from db.registry import StoredModel, find_model, list_models
from db.runs import RunInfo, list_runs
from db.tallies import RunTally, read_tallies
from nightread.errors import ModelError, SettingsError, StorageError, WrongStage
from nightread.settings import Settings
from web import api_models as types
from web.access import Role
from web.api_answers import give, read_body, read_name, read_query
from web.api_results import (
    PARQUET,
    SHEET,
    list_changes,
    list_results,
    list_studies,
    send_csv,
    send_json_lines,
    send_parquet,
    send_sheet,
    show_study,
)
from web.guard import require
from web.lookup import find_requested_run, reading_request
from web.openapi import make_document
from web.run_actions import OPEN, explain_retry
from worker.errors import BrokerUnavailable, NothingToScore, WrongKey, WrongPaths
from worker.runs import enqueue
from worker.runs.request import Request as RunRequest

PREFIX: Final = "/api/v1"
_DOCUMENT: Final = "/openapi.json"
_UNKNOWN: Final = {"404": "there is none of that name"}
_CONFLICTS: Final = {"409": "it cannot be done now; the error says why", "413": "too large", "415": "not JSON"}


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
    query = read_query(request, types.RunsQuery)
    statuses = [query.status] if query.status else []
    with reading_request(request) as connection:
        listed = list_runs(connection, query.limit + 1, after=query.after, name=query.name, statuses=statuses)
        runs = listed[: query.limit]
        tallies = read_tallies(connection, [run.id for run in runs])
    following = runs[-1].id if len(listed) > query.limit else None
    return give(types.Runs(runs=[_describe_run(run, tallies[run.id]) for run in runs], next=following))


def _show_run(request: Request) -> Response:
    read_query(request, types.NoQuery)
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
        tally = read_tallies(connection, [run.id])[run.id]
    return give(_describe_run(run, tally))


def _list_models(request: Request) -> Response:
    read_query(request, types.NoQuery)
    with reading_request(request) as connection:
        listed = list_models(connection)
    return give(types.Models(models=[_describe_model(model) for model in listed]))


def _show_model(request: Request) -> Response:
    read_query(request, types.NoQuery)
    with reading_request(request) as connection:
        model = find_model(connection, read_name(request, "name"), read_name(request, "version"))
    if model is None:
        raise HTTPException(404, "The database has no model bundle of this name and version.")
    return give(types.ModelCard(model=model.reference, digest=model.digest, stage=model.stage, card=model.card))


def _enqueue(request: Request) -> Response:
    user = require(request, Role.OPERATE)
    read_query(request, types.NoQuery)
    asked = read_body(request, types.NewRun)
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
    except StorageError as error:
        raise HTTPException(503, str(error)) from None
    except BrokerUnavailable:
        pass  # the run is written, and the next sweep publishes it
    run = committed[0]
    write(engine, lambda connection: store_action(connection, PageAction(user.name, user.role, "enqueue", run.run_id)))
    return give(types.Enqueued(run=run.run_id, found=run.found, skipped=run.skipped, existed=run.existed), 201)


def _retry(request: Request) -> Response:
    return _act(request, "retry", enqueue.retry_run)


def _cancel(request: Request) -> Response:
    return _act(request, "cancel", lambda engine, _, run_id: enqueue.cancel_run(engine, run_id))


def _act(request: Request, action: str, act: Callable[[Engine, Settings, str], tuple[RunInfo, int]]) -> Response:
    user = require(request, Role.OPERATE)
    read_query(request, types.NoQuery)
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
    return give(types.Changed(run=run.id, scans=scans))


def _show_document(request: Request) -> Response:
    return JSONResponse(make_document(OPERATIONS, f"{request.scope.get('root_path', '')}{PREFIX}"))


OPERATIONS: Final = (
    Operation("listRuns", "GET", "/runs", _list_runs, "List runs, newest first.", types.RunsQuery, gives=types.Runs),
    Operation(
        "getRun", "GET", "/runs/{reference}", _show_run, "Show a run and its counts.", gives=types.Run,
        refusals=_UNKNOWN,
    ),
    Operation(
        "listResults", "GET", "/runs/{reference}/results", list_results, "List a run's result rows.",
        types.ResultsQuery, gives=types.Rows, refusals=_UNKNOWN,
    ),
    Operation(
        "getResultsCsv", "GET", "/runs/{reference}/results.csv", send_csv, "Get all result rows of a run as CSV.",
        types.FileQuery, refusals=_UNKNOWN, media_type="text/csv",
    ),
    Operation(
        "getResultsLines", "GET", "/runs/{reference}/results.jsonl", send_json_lines,
        "Get all result rows of a run as JSON lines.", types.FileQuery, refusals=_UNKNOWN,
        media_type="application/x-ndjson",
    ),
    Operation(
        "getResultsParquet", "GET", "/runs/{reference}/results.parquet", send_parquet,
        "Get all result rows of a run as Parquet.", types.FileQuery, refusals=_UNKNOWN, media_type=PARQUET,
    ),
    Operation(
        "getResultsSheet", "GET", "/runs/{reference}/results.xlsx", send_sheet,
        "Get all result rows of a run as a sheet.", types.FileQuery,
        refusals=_UNKNOWN | {"409": "a sheet does not hold the rows, or the extra `excel` is missing"},
        media_type=SHEET,
    ),
    Operation(
        "listChanges", "GET", "/changes", list_changes, "List the rows that became terminal since a cursor.",
        types.ChangesQuery, gives=types.Changes,
    ),
    Operation(
        "listStudies", "GET", "/studies", list_studies, "List studies by UID, with what was said of each.",
        types.StudiesQuery, gives=types.Studies,
    ),
    Operation(
        "getStudy", "GET", "/studies/{uid}", show_study, "Show what was said of a study.", gives=types.Study,
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
