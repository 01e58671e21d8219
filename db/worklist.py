"""Queries of the worklist page: a run's rows, page by page and both ways, and overall progress."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select, union_all
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from db.engine import read_clock
from db.marks import Review, count_reviews, is_reviewed
from db.results import ResultFilter
from db.tables import jobs, runs, worklist_rows
from db.tallies import RunTally, read_tallies
from db.types import JobStatus, ScanStatus
from db.views import results
from db.worklist_parts import Place, find_places, is_of_scan, list_pairs, select_marked
from db.worklist_request import PageOrder, PageRequest, Position

# Number of newest runs in which the latest terminal scan is searched; searching all scans would be slow.
_RUNS_LOOKED_AT = 5
# Scans of a run whose rows are counted under conditions that no index knows.
_MOST_COUNTED = 20_000


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a worklist.

    Attributes:
        rows: in the order of the page.
        last: position after which the next page begins; None: no rows follow.
        first: position before which the page before ends; None: no rows come before.
        is_partial: whether the search ended before the page was full, although there are rows left to look through.
    """

    rows: list[dict[str, Any]]
    last: Position | None
    first: Position | None = None
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress over all runs.

    Attributes:
        open_jobs: number of jobs that are not done.
        seconds_since_last_scan: since a scan last became terminal, by the database's clock; None if none did.
    """

    open_jobs: int
    seconds_since_last_scan: float | None


_BY_SCORE = PageRequest()
_Columns = ReadOnlyColumnCollection[str, Any]


def read_page(
    connection: Connection,
    wanted: ResultFilter,
    size: int,
    after: Position | None,
    tally: RunTally,
    *,
    request: PageRequest = _BY_SCORE,
) -> Page:
    """Return up to `size` rows of `wanted`, beginning after the position `after`, or ending before it.

    Unlike offsets, positions stay valid while further scans are scored: each existing row appears exactly once.

    Args:
        connection: for reading.
        wanted: filter for the rows.
        size: maximum number of rows.
        after: position of the last row of the page before, or of the first one of the page that follows.
        tally: counts of the run. If its worklist is kept, the cost of a page does not depend on the size of the run;
            else the whole run is sorted.
        request: order, direction and further filters.
    """
    stopped = None
    if tally.is_kept and not request.begins_with_marks:
        places, stopped = find_places(connection, wanted, tally, size + 1, after, request=request)
    else:
        row, conditions = _choose_source(wanted, tally, request)
        query = select(row.scan_id, row.label).where(*conditions)
        if after is not None:
            query = query.where(_follows(row, after, request))
        places = [
            (place.scan_id, place.label)
            for place in connection.execute(query.order_by(*_list_order(row, request)).limit(size + 1))
        ]
    has_more, places = len(places) > size, places[:size]
    rows = _fetch_places(connection, places[::-1] if request.backwards else places)
    if not rows:
        back = None if after is None else _step_over(after, backwards=request.backwards)
        return Page([], *((back, stopped) if request.backwards else (stopped, back)), stopped is not None)
    first, last = _locate(rows[0]), _locate(rows[-1])
    if request.backwards:
        return Page(rows, last, first if has_more else stopped, stopped is not None)
    return Page(rows, last if has_more else stopped, first if after is not None else None, stopped is not None)


def _step_over(place: Position, *, backwards: bool) -> Position:
    """Return the position beyond a row, from which a page in the other direction shows that row, too."""
    if place.label is None:
        return replace(place, scan_id=place.scan_id + (-1 if backwards else 1))
    return replace(place, label="\x01" if backwards else f"{place.label}~")


def count_rows(
    connection: Connection, wanted: ResultFilter, tally: RunTally, request: PageRequest = _BY_SCORE
) -> int | None:
    """Return the number of rows of `wanted` over all pages; None: it takes too long to count them."""
    if request.review is Review.UNREVIEWED:
        whole, reviewed = (
            count_rows(connection, wanted, tally, replace(request, review=review)) for review in (None, Review.REVIEWED)
        )
        return None if whole is None or reviewed is None else whole - reviewed
    row_filter = (wanted.label, wanted.decision, wanted.min_score)
    is_plain = not request.list_conditions() and request.review is None
    if tally.is_kept and is_plain and wanted.min_score is None and not (wanted.label and wanted.decision):
        named = tally.labels.get(wanted.label, 0) if wanted.label else sum(tally.decisions.values())
        named = tally.decisions.get(wanted.decision, 0) if wanted.decision else named
        counts: dict[ScanStatus, int] = {status: getattr(tally.counts, status.value) for status in ScanStatus}
        counts[ScanStatus.SCORED] = named
        if wanted.label or wanted.decision:
            counts = {ScanStatus.SCORED: named}
        return sum(count for status, count in counts.items() if not wanted.statuses or status in wanted.statuses)
    if tally.is_kept and is_plain:
        if wanted.statuses and ScanStatus.SCORED not in wanted.statuses:
            return 0
        row = worklist_rows.c
        least = () if wanted.min_score is None else (row.minus_score <= -wanted.min_score,)
        counted = [
            select(func.count().label("rows")).where(
                row.run_id == wanted.run_id, row.label == label, row.decision == decision, *least
            )
            for label, decision in list_pairs(wanted, tally)
        ]
        return sum(connection.execute(union_all(*counted)).scalars()) if counted else 0
    if tally.is_kept and row_filter == (None, None, None) and request == _of_reason(request):
        return sum(
            named.get(str(request.reason), 0)
            for status, named in tally.reasons.items()
            if not wanted.statuses or ScanStatus(status) in wanted.statuses
        )
    shows_all = row_filter == (None, None, None) and not wanted.statuses and not request.list_conditions()
    if tally.is_kept and request.review and shows_all and len(tally.labels) <= 1:  # each scan has one row
        reviews = count_reviews(connection, str(wanted.run_id))
        return sum(reviews.values()) if request.review is Review.REVIEWED else reviews.get(request.review.value, 0)
    if tally.is_kept and not request.begins_with_marks and tally.counts.found > _MOST_COUNTED:
        return None
    row, conditions = _choose_source(wanted, tally, request)
    query = select(func.count()).select_from(row.scan_id.table).where(*conditions)
    return int(connection.execute(query).scalar_one())


def _of_reason(request: PageRequest) -> PageRequest:
    """Return a request for the rows of the same reason and order, without any other condition."""
    return PageRequest(request.order, request.backwards, reason=request.reason)


def _locate(row: dict[str, Any]) -> Position:
    return Position(row["score"], row["scan_id"], row["label"])


def _fetch_places(connection: Connection, places: Sequence[Place]) -> list[dict[str, Any]]:
    """Return the rows of keys (scan id, label), in their order."""
    wanted = sorted({scan_id for scan_id, _ in places})
    found = connection.execute(select(results).where(results.c.scan_id.in_(wanted))).mappings()
    rows = {(row["scan_id"], row["label"]): {**row, "status": row["status"].value} for row in found}
    return [rows[place] for place in places if place in rows]


def _choose_source(
    wanted: ResultFilter, tally: RunTally, request: PageRequest
) -> tuple[_Columns, list[ColumnElement[bool]]]:
    """Return the columns `scan_id`, `label` and `score` to choose from, and conditions on them."""
    if request.review is None or not (tally.is_kept and request.begins_with_marks):
        return results.c, _list_conditions(wanted, request)
    row = select_marked(wanted, str(wanted.run_id), request.review).subquery().c
    of_scan = request.list_conditions()
    return row, [is_of_scan(row.scan_id, of_scan)] if of_scan else []


def _list_conditions(wanted: ResultFilter, request: PageRequest) -> list[ColumnElement[bool]]:
    row = results.c
    equal = ((row.run_id, wanted.run_id), (row.label, wanted.label), (row.decision, wanted.decision))
    conditions = [column == value for column, value in equal if value is not None]
    if wanted.statuses:
        conditions.append(row.status.in_(wanted.statuses))
    if wanted.min_score is not None:
        conditions.append(row.score >= wanted.min_score)
    if request.review is not None:
        conditions.append(is_reviewed(str(wanted.run_id), row.scan_id, request.review))
    of_scan = request.list_conditions()
    return [*conditions, is_of_scan(row.scan_id, of_scan)] if of_scan else conditions


def _list_order(row: _Columns, request: PageRequest) -> list[ColumnElement[Any]]:
    backwards = request.backwards
    by_id = [row.scan_id, row.label]
    if request.order is PageOrder.FOUND:
        return [column.desc() if backwards else column.asc() for column in by_id]
    is_unscored = case((row.score.is_(None), 1), else_=0)
    # Rows without a score keep the order in which they were found, whichever way those with one are sorted.
    unscored_id = case((row.score.is_(None), row.scan_id))
    return [
        is_unscored.desc() if backwards else is_unscored.asc(),
        unscored_id.desc() if backwards else unscored_id.asc(),
        row.score.asc() if request.falls else row.score.desc(),
        *(column.desc() if request.falls else column.asc() for column in by_id),
    ]


def read_progress(connection: Connection) -> Progress:
    """Return the number of open jobs and the time since a scan last became terminal."""
    open_jobs = connection.execute(select(func.count()).where(jobs.c.status != JobStatus.DONE)).scalar_one()
    newest = select(runs.c.id).limit(_RUNS_LOOKED_AT)
    # Ids are fetched first: with these as subqueries, PostgreSQL would scan the whole table.
    open_runs = newest.where(runs.c.finished_at.is_(None)).order_by(runs.c.created_at.desc())
    ended_runs = newest.where(runs.c.finished_at.is_not(None)).order_by(runs.c.finished_at.desc())
    looked_at = [*connection.execute(open_runs).scalars(), *connection.execute(ended_runs).scalars()]
    now = read_clock(connection)
    changed = [tally.changed_at for tally in read_tallies(connection, looked_at).values() if tally.changed_at]
    then = max(changed, default=None)
    return Progress(open_jobs, None if then is None else max(0.0, (now - then).total_seconds()))


def _follows(row: _Columns, place: Position, request: PageRequest) -> ColumnElement[bool]:
    backwards = request.backwards
    falls = backwards if request.order is PageOrder.FOUND else request.falls
    has_score = row.score.is_not(None)
    if request.order is PageOrder.FOUND:
        return _is_later(row, place, falls=falls)
    if place.score is None:
        if backwards:
            return or_(has_score, row.scan_id < place.scan_id)
        return and_(~has_score, row.scan_id > place.scan_id)
    beyond = row.score > place.score if falls else row.score < place.score
    later = or_(beyond, and_(row.score == place.score, _is_later(row, place, falls=falls)))
    return later if backwards else or_(later, ~has_score)


def _is_later(row: _Columns, place: Position, *, falls: bool) -> ColumnElement[bool]:
    label = place.label or ""
    if falls:
        return or_(row.scan_id < place.scan_id, and_(row.scan_id == place.scan_id, row.label < label))
    return or_(row.scan_id > place.scan_id, and_(row.scan_id == place.scan_id, row.label > label))
