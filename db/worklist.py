"""Queries of the worklist page: a run's rows by score, page by page, and overall progress."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Subquery, and_, func, or_, select, union_all

from db.engine import read_clock
from db.results import Order, ResultFilter, select_results
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


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a worklist, and the position of the last one if more rows follow."""

    rows: list[dict[str, Any]]
    last: Position | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress over all runs.

    Attributes:
        open_jobs: number of jobs that are not done.
        seconds_since_last_scan: since a scan last became terminal, by the database's clock; None if none did.
    """

    open_jobs: int
    seconds_since_last_scan: float | None


def read_page(connection: Connection, wanted: ResultFilter, size: int, after: Position | None, tally: RunTally) -> Page:
    """Return up to `size` rows of `wanted` by score, beginning after the position `after`.

    Unlike offsets, positions stay valid while further scans are scored: each existing row appears exactly once.

    Args:
        connection: for reading.
        wanted: filter for the rows.
        size: maximum number of rows.
        after: position of the last row of the page before.
        tally: counts of the run. If its worklist is kept, the cost of a page does not depend on the size of the run;
            else the whole run is sorted.
    """
    if tally.is_kept:
        pairs = [
            (label, decision)
            for label in ([wanted.label] if wanted.label is not None else tally.labels)
            for decision in ([wanted.decision] if wanted.decision is not None else tally.decisions)
        ]
        rows = _read_kept_rows(connection, wanted, pairs, size + 1, after)
    else:
        query = select_results(replace(wanted, order=Order.SCORE, limit=size + 1))
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
    """Return the keys (scan id, label) of the rows with a score, in the order of the page.

    The primary key begins with label and decision, so each pair of them is one index range sorted by score; the first
    `limit` rows of each range suffice.
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
    return [(scan_id, label) for _, scan_id, label in _merge(connection, ranges, limit)]


def _split_range(
    label: str, min_score: float | None, after: Position | None
) -> Iterator[tuple[ColumnElement[bool], ...]]:
    """Yield the conditions of the index ranges of one label that follow a position.

    A position needs two ranges, "lower score" and "equal score and later". Combined with OR, the database would read
    all rows of equal score, which may be every row.
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
    """Return the keys (scan id, None) of the rows without a score, in the order the scans were found."""
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
    return [(scan_id, None) for (scan_id,) in _merge(connection, ranges, limit)]


def _merge(connection: Connection, ranges: list[Subquery], limit: int) -> list[Any]:
    """Return the first rows of sorted ranges, in the order of their columns."""
    merged = union_all(*map(select, ranges)).subquery()
    return list(connection.execute(select(merged).order_by(*merged.c).limit(limit)))


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


def _follows(place: Position) -> ColumnElement[bool]:
    if place.score is None:
        return and_(results.c.score.is_(None), results.c.scan_id > place.scan_id)
    is_later_label = and_(results.c.scan_id == place.scan_id, results.c.label > place.label)
    is_later = and_(results.c.score == place.score, or_(results.c.scan_id > place.scan_id, is_later_label))
    return or_(results.c.score < place.score, is_later, results.c.score.is_(None))
