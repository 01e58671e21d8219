"""The parts of a kept worklist, each read in the order of an index, and the search through them.

By score a worklist has two parts: the rows with a score, then the scans without one. As found it is one part. A page
without further conditions is the first rows of its parts. With conditions that no index knows, rows are looked through
in their order; a page that would look through too many ends before it is full.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, CompoundSelect, Connection, Select, false, literal, null, or_, select, union_all

from db.marks import Review, is_reviewed, select_reviewed
from db.results import ResultFilter
from db.tables import scans, worklist_rows
from db.tallies import RunTally
from db.types import ScanStatus
from db.worklist_request import PageOrder, PageRequest, Position

#: Rows that a page looks through at most.
MOST_SEARCHED = 10_000
#: Rows that are looked through first, and how many times more after that: most searches find a page at once.
_FIRST_BLOCK, _GROWTH = 1_000, 5

#: Key of a row: the scan's id, and the label; None for a scan without a score.
Place = tuple[int, str | None]
_BY_SCORE: Final = ("minus_score", "scan_id", "label")
_BY_ID: Final = ("scan_id", "label")


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a worklist.

    Attributes:
        select: the first rows or scans that follow a position, at most so many; None: there are none.
        choose: those of them that the page shows, with `scan_id` and `label`.
        start: the position at which it begins; None: at its beginning.
        is_search: whether it may show few of its rows.
    """

    select: Callable[[int, Position | None], Select[Any] | None]
    choose: Callable[[Select[Any], Position | None], Select[Any]]
    start: Position | None
    is_search: bool


def find_places(
    connection: Connection,
    wanted: ResultFilter,
    tally: RunTally,
    limit: int,
    after: Position | None,
    *,
    request: PageRequest,
) -> tuple[list[Place], Position | None]:
    """Return the keys of a worklist's rows that follow a position, in the order of the request.

    Args:
        connection: for reading.
        wanted: filter for the rows.
        tally: counts of the run, whose worklist is kept.
        limit: maximum number of keys.
        after: position of the row before.
        request: order, direction and further conditions.

    Returns:
        The keys; and where the search ended, if it ended before it had found as many and before the last row.
    """
    places: list[Place] = []
    looked = 0
    for part in _list_parts(wanted, tally, after, request):
        start, block = part.start, _FIRST_BLOCK if part.is_search else limit
        while True:
            most = max(1, min(block, MOST_SEARCHED - looked)) if part.is_search else block
            rows = part.select(most, start)
            if rows is None:
                break
            chosen = part.choose(rows, start).limit(limit - len(places))
            places += [(row.scan_id, row.label) for row in connection.execute(chosen)]
            if len(places) >= limit:
                return places, None
            last = connection.execute(rows.offset(most - 1).limit(1)).first()
            if last is None:
                break  # the part ends here
            start, looked, block = _locate(last, tally, request), looked + most, block * _GROWTH
            if part.is_search and looked >= MOST_SEARCHED:
                return places, start
    return places, None


def select_marked(wanted: ResultFilter, run_id: str, review: Review) -> CompoundSelect[Any]:
    """Select the rows of scans that users have reviewed so, of a run whose worklist is kept.

    They are looked up by the ids of the marked scans, which are few beside the run. So nothing names the run itself: a
    database would begin with all of its rows.

    Args:
        wanted: filter for the rows; its run is that of the marks.
        run_id: the run.
        review: any but `unreviewed`.

    Returns:
        `scan_id`, `label` and `score`, in no order; the last two are null of a scan without a score.
    """
    row, reviewed = worklist_rows.c, select_reviewed(run_id, review)
    statuses = set(wanted.statuses or ScanStatus)
    named = ((row.label, wanted.label), (row.decision, wanted.decision))
    where = [column == value for column, value in named if value is not None]
    if wanted.min_score is not None:
        where.append(row.minus_score <= -wanted.min_score)
    names_rows = (wanted.label, wanted.decision, wanted.min_score) != (None, None, None)
    unscored = [] if names_rows else sorted(statuses - {ScanStatus.SCORED})
    return union_all(
        select(row.scan_id, row.label, (-row.minus_score).label("score")).where(
            row.scan_id.in_(reviewed), *where, *([] if ScanStatus.SCORED in statuses else [false()])
        ),
        select(scans.c.id, null(), null()).where(scans.c.id.in_(reviewed), scans.c.status.in_(unscored)),
    )


def list_pairs(wanted: ResultFilter, tally: RunTally) -> list[tuple[str, str]]:
    """Return the labels and decisions of `wanted`; each pair of them is one range of the index."""
    return [
        (label, decision)
        for label in ([wanted.label] if wanted.label is not None else tally.labels)
        for decision in ([wanted.decision] if wanted.decision is not None else tally.decisions)
    ]


def is_of_scan(scan_id: ColumnElement[int], conditions: Sequence[ColumnElement[bool]]) -> ColumnElement[bool]:
    """Return the condition that the scan of an id fulfils conditions on `scans`."""
    # As an expression: of EXISTS, PostgreSQL would make a join that reads all scans.
    return select(literal(1)).where(scans.c.id == scan_id, *conditions).scalar_subquery() == 1


def _list_parts(wanted: ResultFilter, tally: RunTally, after: Position | None, request: PageRequest) -> Iterator[_Part]:
    """Yield the parts that a page may show, beginning with that of its position."""
    conditions = request.list_conditions()
    statuses = _list_statuses(wanted, tally, request)
    names_rows = (wanted.label, wanted.decision, wanted.min_score) != (None, None, None)
    if request.order is PageOrder.FOUND:
        yield _Part(
            lambda limit, start: _select_scans(wanted, request, statuses, limit, start),
            lambda rows, start: _choose_found(rows, wanted, request, conditions, start),
            after,
            bool(conditions) or names_rows,
        )
        return
    scored = _Part(
        lambda limit, start: _select_scored(wanted, list_pairs(wanted, tally), limit, start, request=request),
        lambda rows, _: _choose(rows, conditions, _BY_SCORE, falls=request.falls),
        after if after is not None and after.score is not None else None,
        bool(conditions),
    )
    unscored = _Part(
        lambda limit, start: _select_scans(
            wanted, request, [status for status in statuses if status is not ScanStatus.SCORED], limit,
            start,
        ),
        lambda rows, _: _choose(rows, conditions, _BY_ID, falls=request.backwards),
        after if after is not None and after.score is None else None,
        bool(conditions),
    )  # fmt: skip
    has_scored = ScanStatus.SCORED in statuses
    parts = [scored] * has_scored + [unscored] * (not names_rows)
    if after is not None:
        # The part of the position, and what comes after it on the way.
        left_out = unscored if after.score is not None else scored
        parts = [part for part in parts if part is not left_out or (part is scored) is request.backwards]
    yield from reversed(parts) if request.backwards else parts


def _list_statuses(wanted: ResultFilter, tally: RunTally, request: PageRequest) -> list[ScanStatus]:
    """Return the statuses that a page may show: those asked for, in which there are scans with the reason."""
    statuses = list(wanted.statuses or ScanStatus)
    if request.reason is None:
        return statuses
    return [status for status in statuses if request.reason in tally.reasons.get(status.value, {})]


def _choose(
    rows: Select[Any], conditions: Sequence[ColumnElement[bool]], order: tuple[str, ...], *, falls: bool
) -> Select[Any]:
    """Return those of sorted rows whose scans fulfil conditions, in the same order."""
    if not conditions:
        return rows
    row = rows.subquery()
    order = tuple(name for name in order if name in row.c and (name != "label" or "minus_score" in row.c))
    return (
        select(row.c.scan_id, row.c.label)
        .where(is_of_scan(row.c.scan_id, conditions))
        .order_by(*(row.c[name].desc() if falls else row.c[name] for name in order))
    )


def _choose_found(
    rows: Select[Any],
    wanted: ResultFilter,
    request: PageRequest,
    conditions: Sequence[ColumnElement[bool]],
    start: Position | None,
) -> Select[Any]:
    """Return the rows of sorted scans, in the order in which these were found."""
    scan, row, backwards = rows.subquery(), worklist_rows, request.backwards
    named = ((row.c.label, wanted.label), (row.c.decision, wanted.decision))
    chosen = [column == value for column, value in named if value is not None]
    if wanted.min_score is not None:
        chosen.append(row.c.minus_score <= -wanted.min_score)
    if conditions:
        chosen.append(is_of_scan(scan.c.scan_id, conditions))
    if start is not None:
        label = start.label or ""
        other = scan.c.scan_id < start.scan_id if backwards else scan.c.scan_id > start.scan_id
        chosen.append(or_(other, row.c.label < label if backwards else row.c.label > label))
    order = [scan.c.scan_id, row.c.label]
    return (
        select(scan.c.scan_id, row.c.label)
        .select_from(scan.outerjoin(row, row.c.scan_id == scan.c.scan_id))
        .where(*chosen)
        .order_by(*(column.desc() if backwards else column for column in order))
    )


def _select_scored(
    wanted: ResultFilter,
    pairs: Sequence[tuple[str, str]],
    limit: int,
    start: Position | None,
    *,
    request: PageRequest,
) -> Select[Any] | None:
    """Select the rows with a score that follow a position.

    The primary key begins with label and decision, so each pair of them is one index range sorted by score; the first
    `limit` rows of each range suffice. If they fall, ranges are read from their ends: the lowest score comes first.
    """
    rows, falls = worklist_rows.c, request.falls
    order = (rows.minus_score, rows.scan_id)
    reviews = _list_reviews(wanted, request, rows.scan_id)
    ranges = [
        select(rows.minus_score, rows.scan_id, rows.label)
        .where(rows.run_id == wanted.run_id, rows.label == label, rows.decision == decision, *where, *reviews)
        .order_by(*(column.desc() if falls else column for column in order))
        .limit(limit)
        for label, decision in pairs
        for where in _split_range(label, wanted.min_score, start, falls=falls)
    ]
    return _merge(ranges, limit, falls=falls)


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


def _select_scans(
    wanted: ResultFilter, request: PageRequest, statuses: Sequence[ScanStatus], limit: int, start: Position | None
) -> Select[Any] | None:
    """Select scans with these statuses in the order they were found, from a position on, or backwards.

    As found, the scan of the position comes again, for it may have further labels.
    """
    row, backwards = scans.c, request.backwards
    where: list[ColumnElement[bool]] = [row.run_id == wanted.run_id, *_list_reviews(wanted, request, row.id)]
    if start is not None and request.order is PageOrder.FOUND:
        where.append(row.id <= start.scan_id if backwards else row.id >= start.scan_id)
    elif start is not None:
        where.append(row.id < start.scan_id if backwards else row.id > start.scan_id)
    # All of them are one range of the index that knows no status; the other index sorts each status for itself.
    of_status = (
        [()]
        if set(statuses) == set(ScanStatus)
        else [
            (row.status == status, row.reused if reused else ~row.reused)
            for status in statuses
            for reused in ([False, True] if status is ScanStatus.SCORED else [False])
        ]
    )
    ranges = [
        select(row.id.label("scan_id"), null().label("label"))
        .where(*where, *condition)
        .order_by(row.id.desc() if backwards else row.id)
        .limit(limit)
        for condition in of_status
    ]
    return _merge(ranges, limit, falls=backwards)


def _merge(ranges: Sequence[Select[Any]], limit: int, *, falls: bool) -> Select[Any] | None:
    """Select the first rows of sorted ranges, in the order of their columns, or the last ones backwards."""
    if not ranges:
        return None
    if len(ranges) == 1:
        return ranges[0]
    merged = union_all(*(select(one.subquery()) for one in ranges)).subquery()
    order = [column.desc() if falls else column for column in merged.c if column.name != "label" or len(merged.c) > 2]
    return select(merged).order_by(*order).limit(limit)


def _list_reviews(wanted: ResultFilter, request: PageRequest, scan_id: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    return [] if request.review is None else [is_reviewed(str(wanted.run_id), scan_id, request.review)]


def _locate(last: Any, tally: RunTally, request: PageRequest) -> Position:
    """Return the position of the last row or scan that was looked at."""
    if "minus_score" in last._fields:  # the public name of a named tuple's names
        return Position(-last.minus_score, last.scan_id, last.label)
    if request.order is PageOrder.FOUND and not request.backwards and tally.labels:
        return Position(0.0, last.scan_id, max(tally.labels))  # after each of its labels
    return Position(None, last.scan_id, None)
