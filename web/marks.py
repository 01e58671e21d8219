"""Marks on scans: stored, undone, and the way to the next scan that nobody has reviewed."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import Connection
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from db.columns import NOTE_LENGTH
from db.engine import write
from db.marks import NewMark, Review, store_mark, undo_mark
from db.page_actions import PageAction, store_action
from db.registry import read_card
from db.runs import RunInfo, find_run
from db.scan_record import find_scan_file, read_scan_record
from db.tallies import read_tallies
from db.types import MarkKind, ScanStatus
from db.worklist import Page, count_rows, read_page
from db.worklist_request import PageOrder, Position
from web.access import Role
from web.filters import WorklistFilter, read_filter
from web.guard import require
from web.lookup import find_requested_run, read_scan_id, reading_request, unknown_scan
from web.stored_card import list_alternatives, read_choices

#: Value of the field `then` that leads to the next scan; any other leads back to the same one.
_NEXT: Final = "next"
#: Rows of which one is picked at random.
_RANDOM_PAGE: Final = 200


def mark_scan(request: Request) -> Response:
    """Store a mark on a scan and lead to the next one that nobody has reviewed."""
    user = require(request, Role.MARK)
    scan_id, form = read_scan_id(request), request.state.form
    with reading_request(request) as connection:
        file = find_scan_file(connection, scan_id)
        record = read_scan_record(connection, scan_id)
        if file is None or record is None:
            raise unknown_scan()
        card = read_card(connection, file.model_digest)
    if file.status is ScanStatus.QUEUED:
        raise HTTPException(400, "This scan is still to be scored: mark it afterwards.")
    mark = _read_mark(form, scan_id, user.name, [row["decision"] for row in record.scores], read_choices(card))
    run_id: str = record.scan["run_id"]
    detail = mark.kind if mark.label is None else f"{mark.kind}: {mark.label}"

    def store(connection: Connection) -> None:
        store_mark(connection, run_id, file.model_digest, mark)
        store_action(connection, PageAction(user.name, user.role, "mark", run_id, scan_id, detail))

    write(request.app.state.engine, store)
    asked = _read_query(form.get("query", ""))
    with reading_request(request) as connection:
        run = find_run(connection, run_id)
        following = _find_next(connection, run, asked, scan_id) if form.get("then") == _NEXT else scan_id
    return _lead(request, run, following, asked)


def undo(request: Request) -> Response:
    """Undo the newest mark of the user in a run and lead to its scan."""
    user = require(request, Role.MARK)
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)

    def take_back(connection: Connection) -> int | None:
        undone = undo_mark(connection, run.id, user.name)
        if undone is None:
            return None
        action = PageAction(user.name, user.role, "undo", run.id, undone["scan_id"], undone["kind"].value)
        store_action(connection, action)
        return int(undone["scan_id"])

    scan_id = write(request.app.state.engine, take_back)
    if scan_id is None:
        raise HTTPException(400, "You have no mark in this run that could be undone.")
    return _lead(request, run, scan_id, _read_query(request.state.form.get("query", "")))


def show_next(request: Request) -> Response:
    """Lead to the next scan of a worklist that nobody has reviewed, after `scan` or at random."""
    asked = read_filter(request.query_params)
    after = request.query_params.get("scan", "")
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
        if request.query_params.get("pick") == "random":
            scan_id = _pick_random(connection, run, asked)
        else:
            is_id = after.isascii() and after.isdecimal() and len(after) <= 18
            scan_id = _find_next(connection, run, asked, int(after) if is_id else None)
    return _lead(request, run, scan_id, asked)


def _read_mark(
    form: dict[str, str], scan_id: int, user: str, decisions: Sequence[str], choices: Sequence[str]
) -> NewMark:
    """Return the mark of a form.

    Raises:
        HTTPException: 400, it says nothing, or nothing that this scan can have.
    """
    try:
        kind = MarkKind(form.get("kind", ""))
    except ValueError:
        raise HTTPException(400, f"The mark is unknown; allowed are {', '.join(MarkKind)}.") from None
    if kind is MarkKind.NOTE:
        note = form.get("note", "").strip()
        if not 0 < len(note) <= NOTE_LENGTH or any("\ud800" <= char <= "\udfff" for char in note):
            raise HTTPException(400, f"A note has 1 to {NOTE_LENGTH:,} characters.")
        return NewMark(scan_id, user, kind, note=note)
    if kind is MarkKind.SEEN:
        return NewMark(scan_id, user, kind)
    if not decisions:
        raise HTTPException(400, "This scan has no decision to agree or disagree with.")
    if kind is MarkKind.AGREE:
        found = [decision for decision in decisions if decision in choices]  # `uncertain` is none of them
        return NewMark(scan_id, user, kind, found[0] if len(set(found)) == 1 else None)
    label = form.get("label", "")
    if label not in list_alternatives(decisions, choices):
        allowed = ", ".join(list_alternatives(decisions, choices)) or "none"
        raise HTTPException(400, f"Say which label is right; allowed are {allowed}.")
    return NewMark(scan_id, user, kind, label)


def _read_query(text: str) -> WorklistFilter:
    return read_filter(QueryParams(text.removeprefix("?")[:2_000]))


def _find_next(connection: Connection, run: RunInfo, asked: WorklistFilter, scan_id: int | None) -> int | None:
    """Return the next scan that nobody has reviewed, in the order of the worklist, from its top again at its end."""
    wanted = replace(asked, review=Review.UNREVIEWED)
    tally = read_tallies(connection, [run.id])[run.id]
    places: list[Position | None] = [None]
    if scan_id is not None and (place := _find_place(connection, asked, scan_id)):
        places.insert(0, place)
    for start in places:
        page = Page([], start, is_partial=True)
        while page.is_partial:
            page = read_page(connection, wanted.of_run(run.id), 1, page.last, tally, request=wanted.to_request())
            if page.rows:
                return int(page.rows[0]["scan_id"])
    return None


def _find_place(connection: Connection, asked: WorklistFilter, scan_id: int) -> Position | None:
    """Return the position of a scan in the worklist; of a scan with several labels, that of the last row."""
    record = read_scan_record(connection, scan_id)
    if record is None:
        return None
    scores = {row["label"]: row["score"] for row in record.scores if asked.label in {None, row["label"]}}
    if not scores:
        return Position(None, scan_id, None)
    if asked.order is PageOrder.FOUND:
        return Position(0.0, scan_id, max(scores))
    falls = asked.order is PageOrder.HIGHEST
    label = min(scores, key=scores.__getitem__) if falls else max(scores, key=scores.__getitem__)
    return Position(scores[label], scan_id, label)


def _pick_random(connection: Connection, run: RunInfo, asked: WorklistFilter) -> int | None:
    """Return a scan that nobody has reviewed, near a random place of the worklist."""
    wanted = replace(asked, review=Review.UNREVIEWED, order=PageOrder.HIGHEST)
    tally = read_tallies(connection, [run.id])[run.id]
    total = count_rows(connection, wanted.of_run(run.id), tally, wanted.to_request())
    if total == 0:
        return None
    # Scores are spread unevenly, so a random score alone would prefer lonely rows: one of a page is picked.
    start = Position(random.random(), 0, "")  # noqa: S311  # no secret
    for place in (start, None):
        page = read_page(connection, wanted.of_run(run.id), _RANDOM_PAGE, place, tally, request=wanted.to_request())
        if page.rows:
            return int(random.choice(page.rows)["scan_id"])  # noqa: S311  # no secret
    return None


def _lead(request: Request, run: RunInfo, scan_id: int | None, asked: WorklistFilter) -> Response:
    prefix = request.scope.get("root_path", "")
    path = f"/runs/{run.id}" if scan_id is None else f"/scans/{scan_id}"
    return RedirectResponse(f"{prefix}{path}{asked.to_query()}", 303)
