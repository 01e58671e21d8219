"""Request handlers. They are plain functions, which Starlette runs on threads, since the database may be slow."""

import logging
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Final

import anyio
from anyio.to_thread import run_sync
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from db.engine import reading
from db.facets import Facets, count_facets
from db.marks import count_reviews, find_verdicts
from db.pace import find_pace
from db.registry import list_models, read_card
from db.results import ResultFilter
from db.results_csv import stream_csv
from db.runs import list_runs
from db.schema import check_schema
from db.tallies import read_tallies, reconcile
from db.types import RunStatus
from db.worklist import count_rows, read_page, read_progress
from db.worklist_request import PageOrder
from nightread.errors import DatabaseUnavailable, SchemaOutdated
from web.facet_lists import list_facets
from web.filters import (
    WorklistFilter,
    read_filter,
    read_place,
    read_position,
    read_run_filter,
    read_run_id,
    write_position,
)
from web.lookup import find_requested_run, reading_request
from web.recent import Recent
from web.run_actions import OPEN, explain_retry
from web.showing import render
from web.stored_card import list_alternatives, read_choices, read_labels, read_thresholds

_log = logging.getLogger(__name__)

#: Rows of a worklist on one page.
ROWS_PER_PAGE: Final = 50
#: Runs on one page.
RUNS_PER_PAGE: Final = 30
_ORDERS: Final = {
    PageOrder.HIGHEST: "Highest score", PageOrder.LOWEST: "Lowest score", PageOrder.FOUND: "As found",
}  # fmt: skip
#: CSV files that are downloaded at once; fewer than a pool has connections.
MOST_STREAMS: Final = 4
#: Seconds for which a reader of a CSV file may take nothing.
SEND_LIMIT_S = 30.0
_STREAMS: Final = threading.BoundedSemaphore(MOST_STREAMS)
_RETRY: Final = {"Retry-After": "60"}


def show_runs(request: Request) -> Response:
    """Show the runs, newest first: all, or those with a name, a status or a model."""
    asked = read_run_filter(request.query_params)
    after = read_run_id(request.query_params.get("after"))
    statuses = [asked.status] if asked.status else []
    with reading_request(request) as connection:
        listed = list_runs(
            connection, RUNS_PER_PAGE + 1, after=after, name=asked.name, statuses=statuses, model=asked.model
        )
        runs, has_more = listed[:RUNS_PER_PAGE], len(listed) > RUNS_PER_PAGE
        tallies = read_tallies(connection, [run.id for run in runs])
        models = [model.reference for model in list_models(connection)]
    return render(
        request,
        "runs.html",
        runs=runs,
        counts={run_id: tally.counts for run_id, tally in tallies.items()},
        is_live=any(run.status in OPEN for run in runs),
        is_first=after is None,
        next_query=asked.to_query(after=runs[-1].id) if has_more else None,
        asked=asked,
        statuses=list(RunStatus),
        models=models,
    )


def show_run(request: Request) -> Response:
    """Show the worklist of a run: its rows in the order that was asked for, by score at first."""
    parameters = request.query_params
    asked = read_filter(parameters)
    after, before = read_position(parameters.get("after")), read_position(parameters.get("before"))
    page_request = asked.to_request(backwards=before is not None)
    place = read_place(parameters.get("place")) if after or before else 0
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
        tally = read_tallies(connection, [run.id])[run.id]
        card = read_card(connection, run.model_digest)
        page = read_page(connection, asked.of_run(run.id), ROWS_PER_PAGE, before or after, tally, request=page_request)
        total = count_rows(connection, asked.of_run(run.id), tally, page_request)
        facets: Recent[Facets] = request.app.state.facets
        found_in = facets.find((run.id, run.found, tally.changed_at), lambda: count_facets(connection, run))
        verdicts = find_verdicts(connection, run.id, [row["scan_id"] for row in page.rows])
        reviews = count_reviews(connection, run.id)
        pace = find_pace(connection, run) if run.status in OPEN else None
    if page.first is None and page.rows:
        place = 0
    following, preceding = str(place + len(page.rows)), str(max(0, place - ROWS_PER_PAGE))
    return render(
        request,
        "run.html",
        run=run,
        is_open=run.status in OPEN,
        pace=pace,
        sentence=reconcile(run.found, tally.counts),
        rows=page.rows,
        asked=asked,
        order_names=_ORDERS,
        order_queries={order: replace(asked, order=order).to_query() for order in _ORDERS},
        total=total,
        place=place,
        labels=list(dict.fromkeys([*read_labels(card), *([asked.label] if asked.label else [])])),
        thresholds=read_thresholds(card),
        facets=list_facets(asked, tally, reviews, found_in),
        chosen=asked.count_chosen(),
        is_partial=page.is_partial,
        verdicts=verdicts,
        choices=read_choices(card),
        alternatives_of=list_alternatives,
        why_no_retry=explain_retry(request.app.state.settings, run),
        failed=tally.counts.failed,
        reasons=tally.counts.failed + tally.counts.rejected,
        providers=tally.providers,
        calibration=str(card.get("calibration") or ""),
        intended_use=str(card.get("intended_use") or ""),
        is_first=after is None and before is None,
        query=asked.to_query(),
        all_query=WorklistFilter(order=asked.order).to_query(),
        next_query=page.last and asked.to_query(after=write_position(page.last), place=following),
        previous_query=page.first and asked.to_query(before=write_position(page.first), place=preceding),
    )


def download_csv(request: Request) -> Response:
    """Stream the rows of a worklist as `nightread results --format csv` writes them, in the order of the page."""
    asked = read_filter(request.query_params)
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
    wanted = asked.of_run(run.id)
    return FileResponse(request.app.state.engine, wanted, stream_csv, f"nightread-{run.id[:8]}.csv", "text/csv")


def check_health(request: Request) -> Response:
    """Report to a monitor whether the database answers and jobs make progress."""
    engine: Engine = request.app.state.engine
    health: dict[str, Any] = {
        "status": "unavailable", "database_reachable": False, "schema_current": False, "open_jobs": None,
        "seconds_since_last_scan": None,
    }  # fmt: skip
    try:
        check_schema(engine)
        with reading(engine) as connection:
            progress = read_progress(connection)
    except SchemaOutdated as error:
        _log.warning("%s", error)
        return JSONResponse(health | {"database_reachable": True}, 503)
    except (DatabaseUnavailable, PoolTimeoutError) as error:
        _log.warning("%s", error)
        return JSONResponse(health, 503)
    since = progress.seconds_since_last_scan
    return JSONResponse({
        "status": "ok", "database_reachable": True, "schema_current": True, "open_jobs": progress.open_jobs,
        "seconds_since_last_scan": None if since is None else round(since, 3),
    })  # fmt: skip


class FileResponse(StreamingResponse):
    """Streamed rows; the database connection is returned even if the client disconnects, or reads nothing.

    Each stream holds a connection, so their number is bounded: sleeping readers must not keep the page from others.
    """

    def __init__(
        self,
        engine: Engine,
        wanted: ResultFilter,
        stream: Callable[[Connection, ResultFilter], Iterator[bytes]],
        name: str,
        media_type: str,
    ) -> None:
        """Begin the stream.

        Args:
            engine: the database.
            wanted: the rows.
            stream: formats them.
            name: of the file.
            media_type: of the file.
        """
        if not _STREAMS.acquire(blocking=False):
            raise HTTPException(503, f"{MOST_STREAMS} files are being downloaded: try again in a minute.", _RETRY)
        self._chunks = _stream(engine, wanted, stream)
        try:
            first = next(self._chunks, b"")  # raises if the database is unavailable, before a status code is sent
        except BaseException:
            _STREAMS.release()
            raise
        super().__init__(
            chain([first], self._chunks),
            media_type=media_type,
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the rows."""

        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(SEND_LIMIT_S):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            _log.warning("a download ended: its reader took nothing for %g s", SEND_LIMIT_S)
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(self._chunks.close)
            _STREAMS.release()


def _stream(
    engine: Engine, wanted: ResultFilter, stream: Callable[[Connection, ResultFilter], Iterator[bytes]]
) -> Generator[bytes]:
    with reading(engine) as connection:
        yield from stream(connection, wanted)
