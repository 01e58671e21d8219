"""Results of a job, stored in one transaction: predictions, terminal statuses of its scans, and the job's own end."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Update, bindparam, func, update
from sqlalchemy.sql.dml import ReturningUpdate

from db.bulk import insert_new, update_queued, write_time
from db.dialects import built_once
from db.jobs import Claim, bind_claim, end_job, is_claim_current, queue_again
from db.measurements import NewMeasurement, store_measurements
from db.tables import STAGES, jobs, predictions, scans
from db.tallies import ScanOutcome, tally_scans
from db.types import database_now
from nightread.failpoints import Point, failpoint


@dataclass(slots=True)
class JobStages:
    """Where the time of a job went.

    Attributes:
        seconds: by stage, as in `STAGES`, added up over threads, waiting included; without `commit`.
        batches: calls of the model, without the gate's second looks.
        batched_scans: scans in them.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    batches: float = 0.0
    batched_scans: int = 0

    def add(self, seconds: Mapping[str, float], batch_size: int = 0) -> None:
        """Add a content with its seconds by stage; `batch_size` is 0 if it was not scored."""
        for stage, took_s in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + took_s
        if batch_size:
            self.batches += 1 / batch_size
            self.batched_scans += 1


@dataclass(frozen=True, slots=True)
class NewPrediction:
    """One score of one label; a row of the table `predictions`."""

    sha256: str
    model_digest: str
    preprocessing: str
    label: str
    score: float
    decision: str
    runtime: str
    provider: str
    device: str
    batch_size: int
    worker: str


_PREDICTION_FIELDS = tuple(field.name for field in fields(NewPrediction))
#: As a row, whose first four columns are the unique key; `astuple` copies deeply, ten times as slow.
_TO_PREDICTION_ROW = attrgetter(*_PREDICTION_FIELDS)
_OUTCOME_FIELDS = tuple(field.name for field in fields(ScanOutcome) if field.name != "scan_id")
_TO_OUTCOME_ROW = attrgetter(*_OUTCOME_FIELDS)


def store_results(
    connection: Connection,
    claim: Claim,
    outcomes: Sequence[ScanOutcome],
    new_predictions: Sequence[NewPrediction],
    new_measurements: Sequence[NewMeasurement] = (),
    *,
    retry_in_s: float | None = None,
    stages: JobStages | None = None,
) -> bool:
    """Store the results of a job and end or postpone it, in the caller's transaction.

    Rows are sorted by key: two writers that lock rows in opposite order deadlock. Existing predictions and measurements
    are kept. A stale claim stores predictions and measurements only: they are right whichever worker computed them.

    Args:
        connection: in a transaction.
        claim: the claim under which the results were computed.
        outcomes: terminal statuses; scans of the job that are missing here stay queued.
        new_predictions: in any order.
        new_measurements: in any order.
        retry_in_s: if given, the job is queued again for its remaining scans, with this back-off.
        stages: where its time went; added to what earlier claims of the job have stored.

    Returns:
        Whether the claim was still current.
    """
    began = time.perf_counter()
    store_predictions(connection, new_predictions)
    store_measurements(connection, new_measurements)
    if retry_in_s is None:
        now = connection.execute(_end_job(connection), bind_claim(claim)).scalar()
    else:
        now = connection.execute(_put_job_off(connection), {**bind_claim(claim), "in_s": retry_in_s}).scalar()
    if now is None:
        return False
    failpoint(Point.WORKER_IN_COMMIT if retry_in_s is None else Point.WORKER_PUT_OFF)
    if outcomes:
        _end_scans(connection, claim, outcomes, now)
        tally_scans(connection, claim.run_id, outcomes)
    if stages is not None:
        added: dict[str, Any] = {f"add_{stage}": stages.seconds.get(stage, 0.0) for stage in STAGES}
        added |= {"add_commit": time.perf_counter() - began, "add_batched_scans": stages.batched_scans}
        connection.execute(
            _add_stages(connection), added | {"of_job": claim.job_id, "add_batches": round(stages.batches)}
        )
    return True


@built_once
def _add_stages(_: str) -> Update:
    columns = {**{stage: jobs.c[f"{stage}_s"] for stage in STAGES}, "batches": jobs.c.batches}
    columns["batched_scans"] = jobs.c.batched_scans
    added = {
        column: func.coalesce(column, 0) + bindparam(f"add_{name}", type_=column.type)
        for name, column in columns.items()
    }
    return update(jobs).where(jobs.c.id == bindparam("of_job")).values(added)


def store_predictions(connection: Connection, new_predictions: Sequence[NewPrediction]) -> None:
    """Store predictions, sorted by key; existing ones are kept."""
    insert_new(connection, predictions, _PREDICTION_FIELDS, sorted(map(_TO_PREDICTION_ROW, new_predictions)))


@built_once
def _end_job(_: str) -> ReturningUpdate[datetime]:
    return update(jobs).where(is_claim_current()).values(end_job()).returning(database_now())


@built_once
def _put_job_off(_: str) -> ReturningUpdate[datetime]:
    return update(jobs).where(is_claim_current()).values(queue_again("in_s")).returning(database_now())


def _end_scans(connection: Connection, claim: Claim, outcomes: Sequence[ScanOutcome], now: datetime) -> None:
    """Set the terminal status of scans that are still queued."""
    finished_at = write_time(connection, now)
    update_queued(
        connection,
        scans,
        (*_OUTCOME_FIELDS, "attempts", "finished_at"),
        [
            (*_TO_OUTCOME_ROW(outcome), claim.attempts, finished_at, outcome.scan_id)
            for outcome in sorted(outcomes, key=attrgetter("scan_id"))
        ],
    )
