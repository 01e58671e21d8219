"""What users ask the results: filtered rows, streamed, and a few counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, literal, select, text

from db.tables import results, scans
from db.types import ScanStatus

#: The columns of a row that leaves Nightread, in this order; only ever added to.
COLUMNS = (
    "run_id", "run", "path", "study", "label", "score", "decision", "status", "reason", "reason_text", "model",
    "sha256", "reused", "provider", "time",
)  # fmt: skip


#: One more where the decisions were derived anew, so that a file tells by itself whose they are.
OPERATING_POINT = "operating_point"


_ROWS_PER_FETCH = 2_000


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds at which decisions are derived from scores anew; what is stored stays.

    Attributes:
        name: as the rows tell it.
        thresholds: by label, from which score on it is present.
        negative_decision: below it.
    """

    name: str
    thresholds: Mapping[str, float]
    negative_decision: str


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which rows of the view `results` are wanted; None is no restriction.

    Attributes:
        run_id: of this run.
        statuses: with one of these statuses.
        label: of this label.
        min_score: with at least this score.
        limit: the first so many.
        decision: with this decision.
        by_score: the highest score first and rows without one last, instead of in the order of finding.
        decided_at: derive the decisions here instead of showing the stored ones; rows then have `operating_point`.
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
    """Return the query for `wanted`, in the order in which the scans were found unless it says otherwise."""
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
    """Return the decision at an operating point; null where there is no score."""
    present = [
        (and_(results.c.label == label, results.c.score >= threshold), literal(label))
        for label, threshold in point.thresholds.items()
    ]
    return case(*present, (results.c.score.is_not(None), literal(point.negative_decision)))


def stream_results(connection: Connection, wanted: ResultFilter) -> Iterator[dict[str, Any]]:
    """Yield rows as dictionaries, with memory for a few thousand."""
    if connection.dialect.name == "postgresql":
        # Whoever reads the rows may take their time, and holds no lock that another waits for.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1h'"))
    query = select_results(wanted).execution_options(yield_per=_ROWS_PER_FETCH)
    for row in connection.execute(query).mappings():
        yield {**row, "status": row["status"].value}


def count_decisions(connection: Connection, run_id: str) -> dict[str, int]:
    """Return how often each decision was taken in a run, over all labels."""
    query = (
        select(results.c.decision, func.count())
        .where(results.c.run_id == run_id, results.c.decision.is_not(None))
        .group_by(results.c.decision)
    )
    return dict(connection.execute(query).all())


def count_reasons(connection: Connection, run_id: str) -> dict[str, dict[str, int]]:
    """Return how often each reason stands for `rejected` and for `failed` scans of a run."""
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
    """Return the execution providers that the predictions of a run were computed on."""
    query = select(results.c.provider).distinct().where(results.c.run_id == run_id, results.c.provider.is_not(None))
    return sorted(connection.execute(query).scalars())


def to_text(value: Any) -> str:
    """Write a value so that it reads back as the same one: scores are never rounded, times are ISO 8601."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
