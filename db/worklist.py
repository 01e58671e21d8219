"""What the worklist page asks: a run's rows by score, page by page, and whether the night goes on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, union_all

from db.engine import read_clock
from db.results import ResultFilter, select_results
from db.tables import jobs, results, runs, scans, worklist_rows
from db.tallies import RunTally, read_tallies
from db.types import JobStatus, ScanStatus

# Finding the last scan that became terminal must not read every scan that was ever stored.
_RUNS_LOOKED_AT = 5

# A label and a decision of it.
_Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Position:
    """A row's place in a worklist; rows without a score have neither score nor label and come last.

    The label stands in it because a scan has a row for each label, and two labels of it may have the same score.
    """

    score: float | None
    scan_id: int
    label: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a worklist, and the place of the last of them where more rows follow."""

    rows: list[dict[str, Any]]
    last: Position | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Whether the night goes on.

    Attributes:
        open_jobs: jobs that are not done, of all runs.
        seconds_since_last_scan: since a scan became terminal, by the database's clock; None where none ever did.
    """

    open_jobs: int
    seconds_since_last_scan: float | None


def read_page(connection: Connection, wanted: ResultFilter, size: int, after: Position | None, tally: RunTally) -> Page:
    """Return up to `size` rows of `wanted` by score, those that follow the place `after`.

    Places, unlike numbers of rows to pass over, stay right while scans are scored in between: a row that stays where
    it is comes once, however many come before it meanwhile.

    Args:
        connection: for reading.
        wanted: which rows.
        size: the most rows.
        after: the last row of the page before.
        tally: what the run has come to. Where its worklist is kept, a page costs as much as its rows, however large
            the run is; else the whole run is sorted.
    """
    if tally.is_kept:
        pairs = [
            (label, decision)
            for label in ([wanted.label] if wanted.label is not None else tally.labels)
            for decision in ([wanted.decision] if wanted.decision is not None else tally.decisions)
        ]
        rows = _read_kept_rows(connection, wanted, pairs, size + 1, after)
    else:
        query = select_results(replace(wanted, by_score=True, limit=size + 1))
        if after is not None:
            query = query.where(_follows(after))
        rows = _fetch(connection, query)
    if len(rows) <= size:
        return Page(rows, None)
    last = rows[size - 1]
    return Page(rows[:size], Position(last["score"], last["scan_id"], last["label"]))


def _fetch(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [{**row, "status": row["status"].value} for row in connection.execute(query).mappings()]


def _read_kept_rows(
    connection: Connection, wanted: ResultFilter, pairs: _Pairs, limit: int, after: Position | None
) -> list[dict[str, Any]]:
    places: list[tuple[int, str | None]] = []
    if not wanted.statuses or ScanStatus.SCORED in wanted.statuses:
        places += _find_scored(connection, wanted, pairs, limit, after)
    if len(places) < limit and (wanted.label, wanted.decision, wanted.min_score) == (None, None, None):
        last_id = after.scan_id if after is not None and after.score is None else 0
        places += _find_unscored(connection, wanted, limit - len(places), last_id)
    found = _fetch(connection, select(results).where(results.c.scan_id.in_(sorted({scan_id for scan_id, _ in places}))))
    rows = {(row["scan_id"], row["label"]): row for row in found}
    return [rows[place] for place in places if place in rows]


def _find_scored(
    connection: Connection, wanted: ResultFilter, pairs: _Pairs, limit: int, after: Position | None
) -> list[tuple[int, str | None]]:
    """Return the places of the rows with a score, in the order of the page.

    The key begins with label and decision: each pair of them is a range of it that lies in the order of the page, and
    a few rows from the beginning of each are all that a page can hold.
    """
    if after is not None and after.score is None:
        return []
    rows = worklist_rows.c
    ranges = [
        select(rows.minus_score, rows.scan_id, rows.label)
        .where(rows.run_id == wanted.run_id, rows.label == label, rows.decision == decision, *where)
        .order_by(rows.minus_score, rows.scan_id)
        .limit(limit)
        .subquery()
        for label, decision in pairs
        for where in _split_range(label, wanted.min_score, after)
    ]
    if not ranges:
        return []
    merged = union_all(*(select(part) for part in ranges)).subquery()
    query = select(merged.c.scan_id, merged.c.label).order_by(*merged.c).limit(limit)
    return [(scan_id, label) for scan_id, label in connection.execute(query)]


def _split_range(
    label: str, min_score: float | None, after: Position | None
) -> Iterator[tuple[ColumnElement[bool], ...]]:
    """Yield the conditions of the ranges of one label that follow a place.

    Two where there is a place, since "lower, or as high and later" in one condition would be read from the first of
    all rows that are as high: a network may give every scan the same score.
    """
    rows = worklist_rows.c
    least = () if min_score is None else (rows.minus_score <= -min_score,)
    if after is None or after.score is None:
        yield least
        return
    yield (rows.minus_score > -after.score, *least)
    follows = after.label is not None and label > after.label
    later = rows.scan_id >= after.scan_id if follows else rows.scan_id > after.scan_id
    yield (rows.minus_score == -after.score, later, *least)


def _find_unscored(
    connection: Connection, wanted: ResultFilter, limit: int, last_id: int
) -> list[tuple[int, str | None]]:
    """Return the places of the rows without a score, in the order of finding."""
    ranges = [
        select(scans.c.id)
        .where(scans.c.run_id == wanted.run_id, scans.c.status == status, ~scans.c.reused, scans.c.id > last_id)
        .order_by(scans.c.id)
        .limit(limit)
        .subquery()
        for status in ScanStatus
        if status is not ScanStatus.SCORED and (not wanted.statuses or status in wanted.statuses)
    ]
    if not ranges:
        return []
    merged = union_all(*(select(part) for part in ranges)).subquery()
    query = select(merged.c.id).order_by(merged.c.id).limit(limit)
    return [(scan_id, None) for scan_id in connection.execute(query).scalars()]


def read_progress(connection: Connection) -> Progress:
    """Return how much is open, and how long ago a scan became terminal."""
    open_jobs = connection.execute(select(func.count()).where(jobs.c.status != JobStatus.DONE)).scalar_one()
    newest = select(runs.c.id).limit(_RUNS_LOOKED_AT)
    # Their ids first: with two queries inside it, PostgreSQL would read the whole table for the next one.
    looked_at = [
        *connection.execute(newest.where(runs.c.finished_at.is_(None)).order_by(runs.c.created_at.desc())).scalars(),
        *connection.execute(
            newest.where(runs.c.finished_at.is_not(None)).order_by(runs.c.finished_at.desc())
        ).scalars(),
    ]
    now = read_clock(connection)
    changed = [tally.changed_at for tally in read_tallies(connection, looked_at).values() if tally.changed_at]
    then = max(changed, default=None)
    return Progress(open_jobs, None if then is None else max(0.0, (now - then).total_seconds()))


def _follows(place: Position) -> ColumnElement[bool]:
    if place.score is None:
        return and_(results.c.score.is_(None), results.c.scan_id > place.scan_id)
    same_score = or_(
        results.c.scan_id > place.scan_id,
        and_(results.c.scan_id == place.scan_id, results.c.label > place.label),
    )
    return or_(
        results.c.score < place.score, and_(results.c.score == place.score, same_score), results.c.score.is_(None)
    )
