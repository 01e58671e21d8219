"""Stored results of single scans, to be compared with a second scoring."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from db.scored_scans import SCORED_SCANS
from db.tables import predictions, scans
from db.types import ScanStatus
from nightread.reasons import Reason


@dataclass(frozen=True, slots=True)
class StoredScan:
    """A scan with a verdict that its file alone explains: `scored` or `rejected`.

    Attributes:
        sha256: of the bytes that were scored; None where the file was never read.
        reason: code of a rejection.
        scores: by label, not rounded.
        decisions: by label.
    """

    id: int
    path: str
    size_bytes: int
    sha256: str | None
    status: ScanStatus
    reason: str | None
    scores: dict[str, float] = field(default_factory=dict)
    decisions: dict[str, str] = field(default_factory=dict)


def list_ended_scans(connection: Connection, run_id: str) -> list[int]:
    """Return the ids of a run's `scored` and `rejected` scans, in the order they were found."""
    ended = scans.c.status.in_([ScanStatus.SCORED, ScanStatus.REJECTED])
    query = select(scans.c.id).where(scans.c.run_id == run_id, ended).order_by(scans.c.id)
    return list(connection.execute(query).scalars())


def list_listed_files(connection: Connection, run_id: str) -> Iterator[tuple[str, int, int | None, bool]]:
    """Yield path, size, time of change and whether it was cancelled, for each scan of a run, as listed."""
    is_cancelled = (scans.c.status == ScanStatus.FAILED) & (scans.c.reason_code == Reason.CANCELLED.value)
    columns = (scans.c.path, scans.c.size_bytes, scans.c.modified_ns, is_cancelled)
    query = select(*columns).where(scans.c.run_id == run_id)
    for path, size_bytes, modified_ns, was_cancelled in connection.execute(query.execution_options(yield_per=5_000)):
        yield path, size_bytes, modified_ns, bool(was_cancelled)


def load_stored_scans(connection: Connection, ids: Sequence[int]) -> list[StoredScan]:
    """Return scans with their scores under the model of their run, by id."""
    query = select(scans.c.id, scans.c.path, scans.c.size_bytes, scans.c.sha256, scans.c.status, scans.c.reason_code)
    found = {row.id: StoredScan(*row) for row in connection.execute(query.where(scans.c.id.in_(ids)))}
    scores = (
        select(scans.c.id, predictions.c.label, predictions.c.score, predictions.c.decision)
        .select_from(SCORED_SCANS)
        .where(scans.c.id.in_(ids), scans.c.status == ScanStatus.SCORED)
    )
    for scan_id, label, score, decision in connection.execute(scores):
        found[scan_id].scores[label] = score
        found[scan_id].decisions[label] = decision
    return [found[scan_id] for scan_id in sorted(found)]
