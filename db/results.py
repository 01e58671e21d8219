"""Queries over the view `results`: filtered rows, streamed, and counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, literal, select

from db.bulk import ROWS_PER_FETCH
from db.dialects import allow_slow_reader
from db.tables import scans
from db.types import ScanStatus
from db.views import results

#: Columns of an exported row, in this order. Columns may be added, never removed.
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
        by_score: highest score first and rows without one last; else in the order in which scans were found.
        decided_at: derive decisions at this point instead of the stored ones; adds the column `operating_point`.
    """

    run_id: str
    statuses: Sequence[ScanStatus] = ()
    label: str | None = None
    min_score: float | None = None
    limit: int | None = None
    decision: str | None = None
    by_score: bool = False
    decided_at: OperatingPoint | None = None


def select_results(wanted: ResultFilter) -> Select[Any]:
    """Return the query for `wanted`."""
    decision: ColumnElement[Any] = results.c.decision
    query = select(results)
    if wanted.decided_at is not None:
        decision = derive_decision(wanted.decided_at)
        kept = [column for column in results.c if column.name != "decision"]
        query = select(*kept, decision.label("decision"), literal(wanted.decided_at.name).label("operating_point"))
    query = query.where(results.c.run_id == wanted.run_id)
    if wanted.by_score:
        query = query.order_by(results.c.score.desc().nulls_last())
    query = query.order_by(results.c.scan_id, results.c.label)
    if wanted.statuses:
        query = query.where(results.c.status.in_(wanted.statuses))
    if wanted.label is not None:
        query = query.where(results.c.label == wanted.label)
    if wanted.min_score is not None:
        query = query.where(results.c.score >= wanted.min_score)
    if wanted.decision is not None:
        query = query.where(decision == wanted.decision)
    return query.limit(wanted.limit) if wanted.limit is not None else query


def derive_decision(point: OperatingPoint) -> ColumnElement[Any]:
    """Return the expression for the decision at an operating point; NULL where there is no score."""
    present = [
        (and_(results.c.label == label, results.c.score >= threshold), literal(label))
        for label, threshold in point.thresholds.items()
    ]
    return case(*present, (results.c.score.is_not(None), literal(point.negative_decision)))


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
