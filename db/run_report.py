"""What a report of a run counts and lists, in SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from db.dialects import allow_slow_statement
from db.runs import RunInfo, list_runs
from db.scored_scans import SCORED_SCANS
from db.tables import STAGES, jobs, predictions, scans
from db.types import ScanStatus

_STATUSES_WITH_REASON: Final = (ScanStatus.REJECTED, ScanStatus.FAILED)


@dataclass(frozen=True, slots=True)
class ListedScan:
    """One label of a scored scan, as a report lists it."""

    scan_id: int
    path: str
    sha256: str
    size_bytes: int
    score: float
    decision: str


@dataclass(frozen=True, slots=True)
class ReasonExample:
    """A scan without a score."""

    scan_id: int
    status: str
    reason: str
    path: str
    text: str


def _is_scored(run_id: str, *where: ColumnElement[bool]) -> ColumnElement[bool]:
    return and_(scans.c.run_id == run_id, scans.c.status == ScanStatus.SCORED, *where)


def count_scores(connection: Connection, run_id: str, label: str, edges: Sequence[float]) -> list[int]:
    """Count the scores of a label between each two edges; the last interval includes its end."""
    allow_slow_statement(connection)
    score, last = predictions.c.score, len(edges) - 2
    counts = [
        func.sum(case((and_(score >= low, score <= high if place == last else score < high), 1), else_=0))
        for place, (low, high) in enumerate(pairwise(edges))
    ]
    query = select(*counts).select_from(SCORED_SCANS).where(_is_scored(run_id, predictions.c.label == label))
    return [int(count or 0) for count in connection.execute(query).one()]


def list_highest(connection: Connection, run_id: str, label: str, limit: int) -> list[ListedScan]:
    """Return the scans with the highest scores of a label."""
    return _list(connection, run_id, label, limit, predictions.c.score.desc())


def list_nearest(
    connection: Connection, run_id: str, label: str, *, low: float, high: float, limit: int
) -> tuple[int, list[ListedScan]]:
    """Return how many scores of a label lie from `low` to below `high`, and the scans nearest to the middle."""
    in_band = and_(predictions.c.label == label, predictions.c.score >= low, predictions.c.score < high)
    query = select(func.count()).select_from(SCORED_SCANS).where(_is_scored(run_id, in_band))
    distance = func.abs(predictions.c.score - (low + high) / 2)
    return connection.execute(query).scalar_one(), _list(connection, run_id, label, limit, distance, in_band)


def _list(
    connection: Connection,
    run_id: str,
    label: str,
    limit: int,
    order: ColumnElement[Any],
    *where: ColumnElement[bool],
) -> list[ListedScan]:
    query = (
        select(
            scans.c.id, scans.c.path, scans.c.sha256, scans.c.size_bytes, predictions.c.score, predictions.c.decision
        )
        .select_from(SCORED_SCANS)
        .where(_is_scored(run_id, predictions.c.label == label, *where))
        .order_by(order, scans.c.id)
        .limit(limit)
    )
    return [ListedScan(*row) for row in connection.execute(query)]


def list_examples(
    connection: Connection, run_id: str, reasons: Sequence[tuple[str, str]], limit: int
) -> list[ReasonExample]:
    """Return up to `limit` scans for each pair of status and reason code, those that were found first."""
    found = []
    for status, reason in reasons:
        of_reason = and_(scans.c.run_id == run_id, scans.c.status == ScanStatus(status), scans.c.reason_code == reason)
        query = select(scans.c.id, scans.c.path, scans.c.reason_text).where(of_reason).order_by(scans.c.id).limit(limit)
        found += [
            ReasonExample(scan_id, status, reason, path, text) for scan_id, path, text in connection.execute(query)
        ]
    return found


def count_provenance(connection: Connection, run_id: str) -> dict[str, dict[str, int]]:
    """Count the scored scans of a run by runtime, provider, device, batch size and worker of their scores."""
    columns = (
        predictions.c.runtime, predictions.c.provider, predictions.c.device, predictions.c.batch_size,
        predictions.c.worker,
    )  # fmt: skip
    query = select(*columns, func.count()).select_from(SCORED_SCANS).where(_is_scored(run_id)).group_by(*columns)
    counts: dict[str, dict[str, int]] = {column.name: {} for column in columns}
    for *values, count in connection.execute(query):
        for name, value in zip(counts, values, strict=True):
            counts[name][str(value)] = counts[name].get(str(value), 0) + count
    return counts


def list_job_ends(connection: Connection, run_id: str) -> list[tuple[datetime, int]]:
    """Return when each job of a run ended and how many scans it ended, in this order."""
    query = (
        select(jobs.c.finished_at, func.count())
        .select_from(jobs.join(scans, scans.c.job_id == jobs.c.id))
        .where(jobs.c.run_id == run_id, jobs.c.finished_at.is_not(None), scans.c.finished_at.is_not(None))
        .group_by(jobs.c.id, jobs.c.finished_at)
        .order_by(jobs.c.finished_at)
    )
    ends = connection.execute(query).all()
    return [(time, sum(count for _, count in part)) for time, part in groupby(ends, key=lambda end: end[0])]


def sum_stages(connection: Connection, run_id: str) -> dict[str, Any]:
    """Return the seconds of a run's jobs by stage, their batches and the scans in them; {} if no job stored them."""
    names = ("batches", "batched_scans", *(f"{stage}_s" for stage in STAGES))
    query = select(*(func.sum(jobs.c[name]).label(name) for name in names)).where(jobs.c.run_id == run_id)
    sums = connection.execute(query).one()
    if sums.commit_s is None:
        return {}
    seconds = {stage: float(getattr(sums, f"{stage}_s")) for stage in STAGES}
    return {"seconds": seconds, "batches": int(sums.batches), "batched_scans": int(sums.batched_scans)}


def list_runs_of_night(connection: Connection, night: datetime, *, most: int = 1000) -> list[RunInfo]:
    """Return the runs of a night, oldest first: those that say so, and those made from its noon to the next.

    Args:
        connection: for reading.
        night: noon of the day on whose evening the night began.
        most: number of newest runs that are looked at.
    """
    end = night + timedelta(days=1)
    name = f"{night:%Y-%m-%d}"
    return [
        run
        for run in reversed(list_runs(connection, most))
        if (run.night[:10] == name if run.night else night <= run.created_at < end)
    ]
