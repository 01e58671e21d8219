"""The scored instances of a run by study, for reports that go back to a PACS."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy import Connection, select

from db.bulk import ROWS_PER_FETCH
from db.scored_scans import SCORED_SCANS
from db.tables import predictions, scans
from db.types import ScanStatus


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A score of one instance: label, score in [0, 1] and decision."""

    label: str
    score: float
    decision: str


@dataclass(frozen=True, slots=True)
class ScoredInstance:
    """A scored DICOM instance.

    Attributes:
        path: of its file, as stored.
        sha256: of the bytes that were scored.
        scored_at: when its newest score was stored, UTC.
        scores: by label.
    """

    scan_id: int
    path: str
    sha256: str
    study_uid: str
    instance_uid: str
    scored_at: datetime
    scores: tuple[LabelScore, ...]


def stream_studies(connection: Connection, run_id: str) -> Iterator[list[ScoredInstance]]:
    """Yield the scored instances of a run, those of one study together; each content once."""
    query = (
        select(
            scans.c.id, scans.c.path, scans.c.sha256, scans.c.study_uid, scans.c.instance_uid,
            predictions.c.created_at, predictions.c.label, predictions.c.score, predictions.c.decision,
        )
        .select_from(SCORED_SCANS)
        .where(
            scans.c.run_id == run_id,
            scans.c.status == ScanStatus.SCORED,
            scans.c.study_uid.is_not(None),
            scans.c.instance_uid.is_not(None),
        )
        .order_by(scans.c.study_uid, scans.c.instance_uid, scans.c.sha256, scans.c.id, predictions.c.label)
        .execution_options(yield_per=ROWS_PER_FETCH)
    )  # fmt: skip
    for _, rows in groupby(connection.execute(query), key=lambda row: row.study_uid):
        found: dict[str, ScoredInstance] = {}
        for _, group in groupby(rows, key=lambda row: row.id):
            one = list(group)
            scores = tuple(LabelScore(row.label, row.score, row.decision) for row in one)
            first, scored_at = one[0], max(row.created_at for row in one)
            found.setdefault(
                first.sha256,
                ScoredInstance(
                    first.id, first.path, first.sha256, first.study_uid, first.instance_uid, scored_at, scores
                ),
            )
        yield list(found.values())
