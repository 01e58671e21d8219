"""Queries over the view `results`: filtered rows, streamed, and counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, TableClause, and_, case, func, literal, select

from db.bulk import ROWS_PER_FETCH
from db.dialects import allow_slow_reader
from db.tables import scans
from db.types import ScanStatus
from db.views import latest_results, results

#: Columns of an exported row unless others are named, in this order. Columns may be added, never removed.
COLUMNS = (
    "run_id", "run", "path", "study", "label", "score", "decision", "status", "reason", "reason_text", "model",
    "sha256", "reused", "provider", "time", "series", "instance", "body_part", "view_position", "laterality",
    "acquired_at", "manufacturer", "station", "accession_hash", "brightness_rule", "contradictions",
)  # fmt: skip

#: Extra column where decisions are derived at another operating point; it names that point.
OPERATING_POINT = "operating_point"


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds at which decisions are derived again from the scores; stored decisions stay.

    Attributes:
        name: value of the column `operating_point`.
        thresholds: lowest score at which a label is present, by label.
        negative_decision: decision below the threshold.
    """

    name: str
    thresholds: Mapping[str, float]
    negative_decision: str


class Order(StrEnum):
    """Order of rows; scans without a score come last by score."""

    FOUND = "found"  # as the scans were found
    SCORE = "score"  # highest first
    PATH = "path"
    TIME = "time"  # newest first


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Filter for rows of the view `results`; None means no restriction.

    Attributes:
        run_id: rows of this run.
        statuses: rows with one of these statuses.
        label: rows of this label.
        min_score: rows with at least this score.
        limit: maximum number of rows.
        decision: rows with this decision.
        order: their order.
        decided_at: derive decisions at this point instead of the stored ones; adds the column `operating_point`.
        study: rows of this Study Instance UID.
        since: rows that became terminal at this time or later.
        until: rows that became terminal before this time.
        latest: of each file only the rows of the newest run in which it has ended.
        columns: columns of exported rows; default: `COLUMNS`.
    """

    run_id: str | None = None
    statuses: Sequence[ScanStatus] = ()
    label: str | None = None
    min_score: float | None = None
    limit: int | None = None
    decision: str | None = None
    order: Order = Order.FOUND
    decided_at: OperatingPoint | None = None
    study: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    latest: bool = False
    columns: Sequence[str] = ()


def select_results(wanted: ResultFilter) -> Select[Any]:
    """Return the query for `wanted`; if it names no columns, it selects all."""
    view = find_view(wanted)
    names = {*wanted.columns, "scan_id", "status", "label", "score"} if wanted.columns else set(view.c.keys())
    kept: list[ColumnElement[Any]] = [column for column in view.c if column.name in names]
    if wanted.decided_at is not None:
        kept = [column for column in kept if column.name != "decision"]
        decision = derive_decision(wanted.decided_at, view)
        kept += [decision.label("decision"), literal(wanted.decided_at.name).label(OPERATING_POINT)]
    query = select(*kept).where(*_list_conditions(wanted, view))
    if wanted.order is Order.SCORE:
        query = query.order_by(view.c.score.desc().nulls_last())
    elif wanted.order is Order.PATH:
        query = query.order_by(view.c.path)
    elif wanted.order is Order.TIME:
        query = query.order_by(view.c.time.desc())
    query = query.order_by(view.c.scan_id, view.c.label)
    return query.limit(wanted.limit) if wanted.limit is not None else query


def find_view(wanted: ResultFilter) -> TableClause:
    """Return the view that holds the rows."""
    return latest_results if wanted.latest else results


def _list_conditions(wanted: ResultFilter, view: TableClause) -> list[ColumnElement[bool]]:
    row = view.c
    decision = row.decision if wanted.decided_at is None else derive_decision(wanted.decided_at, view)
    equal = (
        (row.run_id, wanted.run_id),
        (row.label, wanted.label),
        (decision, wanted.decision),
        (row.study, wanted.study),
    )
    conditions = [column == value for column, value in equal if value is not None]
    if wanted.statuses:
        conditions.append(row.status.in_(wanted.statuses))
    if wanted.min_score is not None:
        conditions.append(row.score >= wanted.min_score)
    if wanted.since is not None:
        conditions.append(row.time >= wanted.since)
    if wanted.until is not None:
        conditions.append(row.time < wanted.until)
    return conditions


def count_results(connection: Connection, wanted: ResultFilter) -> dict[tuple[str | None, str], int]:
    """Count the rows of `wanted`, whatever its limit, by decision and status."""
    view = find_view(wanted)
    decision = view.c.decision if wanted.decided_at is None else derive_decision(wanted.decided_at, view)
    counted = select(decision.label("decision"), view.c.status).where(*_list_conditions(wanted, view)).subquery()
    query = select(counted, func.count()).group_by(*counted.c)
    return {(decision, status.value): count for decision, status, count in connection.execute(query)}


def derive_decision(point: OperatingPoint, view: TableClause = results) -> ColumnElement[Any]:
    """Return the expression for the decision at an operating point; NULL where there is no score."""
    present = [
        (and_(view.c.label == label, view.c.score >= threshold), literal(label))
        for label, threshold in point.thresholds.items()
    ]
    return case(*present, (view.c.score.is_not(None), literal(point.negative_decision)))


def stream_results(connection: Connection, wanted: ResultFilter) -> Iterator[dict[str, Any]]:
    """Yield rows as dictionaries; memory does not grow with their number."""
    allow_slow_reader(connection)
    query = select_results(wanted).execution_options(yield_per=ROWS_PER_FETCH)
    for row in connection.execute(query).mappings():
        yield {**row, "status": row["status"].value}


def count_decisions(connection: Connection, run_id: str) -> dict[str, int]:
    """Count the decisions of a run over all labels."""
    query = (
        select(results.c.decision, func.count())
        .where(results.c.run_id == run_id, results.c.decision.is_not(None))
        .group_by(results.c.decision)
    )
    return dict(connection.execute(query).all())


def count_reasons(connection: Connection, run_id: str) -> dict[str, dict[str, int]]:
    """Count the reasons of a run's `rejected` and `failed` scans, by status and reason code."""
    counts: dict[str, dict[str, int]] = {ScanStatus.REJECTED.value: {}, ScanStatus.FAILED.value: {}}
    query = (
        select(scans.c.status, scans.c.reason_code, func.count())
        .where(scans.c.run_id == run_id, scans.c.reason_code.is_not(None))
        .group_by(scans.c.status, scans.c.reason_code)
    )
    for status, reason, count in connection.execute(query):
        counts[status.value][reason] = count
    return counts


def find_providers(connection: Connection, run_id: str) -> list[str]:
    """Return the execution providers that computed a run's predictions."""
    query = select(results.c.provider).distinct().where(results.c.run_id == run_id, results.c.provider.is_not(None))
    return sorted(connection.execute(query).scalars())


def to_text(value: Any) -> str:
    """Return a value as text without loss: scores are not rounded, times are ISO 8601."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
