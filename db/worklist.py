"""Queries of the worklist page: a run's rows, page by page and both ways, and overall progress."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Subquery, and_, case, func, or_, select, union_all

from db.engine import read_clock
from db.marks import Review, is_reviewed
from db.results import ResultFilter
from db.tables import jobs, runs, scans, worklist_rows
from db.tallies import RunTally, read_tallies
from db.types import JobStatus, ScanStatus
from db.views import results

# Number of newest runs in which the latest terminal scan is searched; searching all scans would be slow.
_RUNS_LOOKED_AT = 5

# Pairs of label and decision.
_Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Position:
    """A row's position in a worklist; rows without a score have neither score nor label and come last.

    It includes the label, since a scan has one row per label, and two of them may have equal scores.
    """

    score: float | None
    scan_id: int
    label: str | None


class PageOrder(StrEnum):
    """Order of a worklist; by score, rows without one come last."""

    HIGHEST = "highest"
    LOWEST = "lowest"
    FOUND = "found"


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a page shows besides the rows of a `ResultFilter`; None means no restriction.

    Attributes:
        order: of the rows.
        backwards: whether the page ends before its position, instead of beginning after it.
        text: rows whose path holds it, in small or capital letters, or whose Study Instance UID begins with it.
        reason: rows with this reason code.
        review: rows of scans that users have reviewed so.
    """

    order: PageOrder = PageOrder.HIGHEST
    backwards: bool = False
    text: str | None = None
    reason: str | None = None
    review: Review | None = None

    @property
    def reads_whole_run(self) -> bool:
        """Whether no index has the rows together in their order."""
        is_of_marks = self.review not in {None, Review.UNREVIEWED}
        return (self.text, self.reason) != (None, None) or is_of_marks or self.order is PageOrder.FOUND


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a worklist.

    Attributes:
        rows: in the order of the page.
        last: position of the last row if more rows follow.
        first: position of the first row if rows come before it.
    """

    rows: list[dict[str, Any]]
    last: Position | None
    first: Position | None = None


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
    if tally.is_kept and not request.reads_whole_run:
        places = _find_kept_places(connection, wanted, _list_pairs(wanted, tally), size + 1, after, request=request)
    else:
        query = select(results.c.scan_id, results.c.label).where(*_list_conditions(wanted, request))
        if after is not None:
            query = query.where(_follows(after, request))
        places = [tuple(row) for row in connection.execute(query.order_by(*_list_order(request)).limit(size + 1))]
    has_more, places = len(places) > size, places[:size]
    rows = _fetch_places(connection, places[::-1] if request.backwards else places)
    if not rows:
        return Page([], None)
    follows, precedes = (True, has_more) if request.backwards else (has_more, after is not None)
    return Page(rows, _locate(rows[-1]) if follows else None, _locate(rows[0]) if precedes else None)


def count_rows(connection: Connection, wanted: ResultFilter, tally: RunTally, request: PageRequest = _BY_SCORE) -> int:
    """Return the number of rows of `wanted` over all pages."""
    if request.review is Review.UNREVIEWED:
        whole, reviewed = (replace(request, review=review) for review in (None, Review.REVIEWED))
        return count_rows(connection, wanted, tally, whole) - count_rows(connection, wanted, tally, reviewed)
    is_one_label = wanted.min_score is None and not (wanted.label and wanted.decision)
    if tally.is_kept and is_one_label and (request.text, request.reason, request.review) == (None, None, None):
        named = tally.labels.get(wanted.label, 0) if wanted.label else sum(tally.decisions.values())
        named = tally.decisions.get(wanted.decision, 0) if wanted.decision else named
        counts = {status: getattr(tally.counts, status.value) for status in ScanStatus}
        counts[ScanStatus.SCORED] = named
        if wanted.label or wanted.decision:
            counts = {ScanStatus.SCORED: named}
        return sum(count for status, count in counts.items() if not wanted.statuses or status in wanted.statuses)
    if tally.is_kept and not request.reads_whole_run and (wanted.label or wanted.decision or wanted.min_score):
        if wanted.statuses and ScanStatus.SCORED not in wanted.statuses:
            return 0
        row = worklist_rows.c
        least = () if wanted.min_score is None else (row.minus_score <= -wanted.min_score,)
        counted = [
            select(func.count().label("rows")).where(
                row.run_id == wanted.run_id, row.label == label, row.decision == decision, *least
            )
            for label, decision in _list_pairs(wanted, tally)
        ]
        return sum(connection.execute(union_all(*counted)).scalars()) if counted else 0
    query = select(func.count()).select_from(results).where(*_list_conditions(wanted, request))
    return connection.execute(query).scalar_one()


def _list_pairs(wanted: ResultFilter, tally: RunTally) -> _Pairs:
    return [
        (label, decision)
        for label in ([wanted.label] if wanted.label is not None else tally.labels)
        for decision in ([wanted.decision] if wanted.decision is not None else tally.decisions)
    ]


def _locate(row: dict[str, Any]) -> Position:
    return Position(row["score"], row["scan_id"], row["label"])


def _fetch_places(connection: Connection, places: Sequence[tuple[int, str | None]]) -> list[dict[str, Any]]:
    """Return the rows of keys (scan id, label), in their order."""
    wanted = sorted({scan_id for scan_id, _ in places})
    found = connection.execute(select(results).where(results.c.scan_id.in_(wanted))).mappings()
    rows = {(row["scan_id"], row["label"]): {**row, "status": row["status"].value} for row in found}
    return [rows[place] for place in places if place in rows]


def _list_conditions(wanted: ResultFilter, request: PageRequest) -> list[ColumnElement[bool]]:
    row = results.c
    equal = (
        (row.run_id, wanted.run_id), (row.label, wanted.label), (row.decision, wanted.decision),
        (row.reason, request.reason),
    )  # fmt: skip
    conditions = [column == value for column, value in equal if value is not None]
    if wanted.statuses:
        conditions.append(row.status.in_(wanted.statuses))
    if wanted.min_score is not None:
        conditions.append(row.score >= wanted.min_score)
    if request.text is not None:
        text = request.text.replace("\\", "\\\\")  # as paths are stored, see `nightread.scan.files.encode_path`
        conditions.append(
            or_(row.path.icontains(text, autoescape=True), row.study.startswith(request.text, autoescape=True))
        )
    return [*conditions, *_list_reviews(wanted, request, row.scan_id)]


def _list_reviews(wanted: ResultFilter, request: PageRequest, scan_id: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    return [] if request.review is None else [is_reviewed(str(wanted.run_id), scan_id, request.review)]


def _find_kept_places(
    connection: Connection,
    wanted: ResultFilter,
    pairs: _Pairs,
    limit: int,
    after: Position | None,
    *,
    request: PageRequest,
) -> list[tuple[int, str | None]]:
    """Return keys (scan id, label): of the rows with a score, then of those without, or backwards."""
    has_scored = not wanted.statuses or ScanStatus.SCORED in wanted.statuses
    has_unscored = (wanted.label, wanted.decision, wanted.min_score) == (None, None, None)
    is_among_scored = after is not None and after.score is not None
    is_among_unscored = after is not None and after.score is None
    falls = (request.order is PageOrder.LOWEST) != request.backwards
    places: list[tuple[int, str | None]] = []
    if request.backwards:
        if has_unscored and not is_among_scored:
            places += _find_unscored(connection, wanted, limit, None if after is None else after.scan_id, request)
        if has_scored and len(places) < limit:
            start = after if is_among_scored else None
            places += _find_scored(connection, wanted, pairs, limit - len(places), start, request=request, falls=falls)
        return places
    if has_scored and not is_among_unscored:
        places += _find_scored(connection, wanted, pairs, limit, after, request=request, falls=falls)
    if has_unscored and len(places) < limit:
        last_id = after.scan_id if after is not None and is_among_unscored else None
        places += _find_unscored(connection, wanted, limit - len(places), last_id, request)
    return places


def _find_scored(
    connection: Connection,
    wanted: ResultFilter,
    pairs: _Pairs,
    limit: int,
    start: Position | None,
    *,
    request: PageRequest,
    falls: bool,
) -> list[tuple[int, str | None]]:
    """Return the keys (scan id, label) of the rows with a score that follow a position.

    The primary key begins with label and decision, so each pair of them is one index range sorted by score; the first
    `limit` rows of each range suffice. With `falls` the ranges are read from their ends: the lowest score comes first.
    """
    rows = worklist_rows.c
    order = (rows.minus_score, rows.scan_id)
    reviews = _list_reviews(wanted, request, rows.scan_id)
    ranges = [
        select(rows.minus_score, rows.scan_id, rows.label)
        .where(rows.run_id == wanted.run_id, rows.label == label, rows.decision == decision, *where, *reviews)
        .order_by(*(column.desc() if falls else column for column in order))
        .limit(limit)
        .subquery()
        for label, decision in pairs
        for where in _split_range(label, wanted.min_score, start, falls=falls)
    ]
    if not ranges:
        return []
    return [(scan_id, label) for _, scan_id, label in _merge(connection, ranges, limit, falls=falls)]


def _split_range(
    label: str, min_score: float | None, start: Position | None, *, falls: bool
) -> Iterator[tuple[ColumnElement[bool], ...]]:
    """Yield the conditions of the index ranges of one label that follow a position.

    A position needs two ranges, "other score" and "equal score and later". Combined with OR, the database would read
    all rows of equal score, which may be every row.
    """
    rows = worklist_rows.c
    least = () if min_score is None else (rows.minus_score <= -min_score,)
    if start is None or start.score is None or start.label is None:
        yield least
        return
    if falls:
        yield (rows.minus_score < -start.score, *least)
        later = rows.scan_id <= start.scan_id if label < start.label else rows.scan_id < start.scan_id
    else:
        yield (rows.minus_score > -start.score, *least)
        later = rows.scan_id >= start.scan_id if label > start.label else rows.scan_id > start.scan_id
    yield (rows.minus_score == -start.score, later, *least)


def _find_unscored(
    connection: Connection, wanted: ResultFilter, limit: int, start_id: int | None, request: PageRequest
) -> list[tuple[int, str | None]]:
    """Return the keys (scan id, None) of the rows without a score, in the order the scans were found, or backwards."""
    backwards, reviews = request.backwards, _list_reviews(wanted, request, scans.c.id)
    start = () if start_id is None else (scans.c.id < start_id if backwards else scans.c.id > start_id,)
    ranges = [
        select(scans.c.id)
        .where(scans.c.run_id == wanted.run_id, scans.c.status == status, ~scans.c.reused, *start, *reviews)
        .order_by(scans.c.id.desc() if backwards else scans.c.id)
        .limit(limit)
        .subquery()
        for status in ScanStatus
        if status is not ScanStatus.SCORED and (not wanted.statuses or status in wanted.statuses)
    ]
    if not ranges:
        return []
    return [(scan_id, None) for (scan_id,) in _merge(connection, ranges, limit, falls=backwards)]


def _merge(connection: Connection, ranges: list[Subquery], limit: int, *, falls: bool) -> list[Any]:
    """Return the first rows of sorted ranges, in the order of their columns, or the last ones backwards."""
    merged = union_all(*map(select, ranges)).subquery()
    order = [column.desc() if falls else column for column in merged.c]
    return list(connection.execute(select(merged).order_by(*order).limit(limit)))


def _list_order(request: PageRequest) -> list[ColumnElement[Any]]:
    row, backwards = results.c, request.backwards
    by_id = [row.scan_id, row.label]
    if request.order is PageOrder.FOUND:
        return [column.desc() if backwards else column.asc() for column in by_id]
    is_unscored = case((row.score.is_(None), 1), else_=0)
    falls = (request.order is PageOrder.LOWEST) != backwards
    # Rows without a score keep the order in which they were found, whichever way those with one are sorted.
    unscored_id = case((row.score.is_(None), row.scan_id))
    return [
        is_unscored.desc() if backwards else is_unscored.asc(),
        unscored_id.desc() if backwards else unscored_id.asc(),
        row.score.asc() if falls else row.score.desc(),
        *(column.desc() if falls else column.asc() for column in by_id),
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


def _follows(place: Position, request: PageRequest) -> ColumnElement[bool]:
    row, backwards = results.c, request.backwards
    falls = backwards if request.order is PageOrder.FOUND else (request.order is PageOrder.LOWEST) != backwards
    has_score = row.score.is_not(None)
    if request.order is PageOrder.FOUND:
        return _is_later(place, falls=falls)
    if place.score is None:
        if backwards:
            return or_(has_score, row.scan_id < place.scan_id)
        return and_(~has_score, row.scan_id > place.scan_id)
    beyond = row.score > place.score if falls else row.score < place.score
    later = or_(beyond, and_(row.score == place.score, _is_later(place, falls=falls)))
    return later if backwards else or_(later, ~has_score)


def _is_later(place: Position, *, falls: bool) -> ColumnElement[bool]:
    row = results.c
    label = place.label or ""
    if falls:
        return or_(row.scan_id < place.scan_id, and_(row.scan_id == place.scan_id, row.label < label))
    return or_(row.scan_id > place.scan_id, and_(row.scan_id == place.scan_id, row.label > label))
