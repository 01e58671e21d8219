"""Results of a job, stored in one transaction: predictions, terminal statuses of its scans, and the job's own end."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, update
from sqlalchemy.sql.dml import ReturningUpdate

from db.bulk import insert_new, update_queued, write_time
from db.dialects import built_once
from db.jobs import Claim, bind_claim, end_job, is_claim_current, queue_again
from db.measurements import NewMeasurement, store_measurements
from db.tables import jobs, predictions, scans
from db.tallies import ScanOutcome, tally_scans
from db.types import database_now
from nightread.failpoints import Point, failpoint


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
_OUTCOME_FIELDS = tuple(field.name for field in fields(ScanOutcome) if field.name != "scan_id")


def store_results(
    connection: Connection,
    claim: Claim,
    outcomes: Sequence[ScanOutcome],
    new_predictions: Sequence[NewPrediction],
    new_measurements: Sequence[NewMeasurement] = (),
    *,
    retry_in_s: float | None = None,
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

    Returns:
        Whether the claim was still current.
    """
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
    return True


def store_predictions(connection: Connection, new_predictions: Sequence[NewPrediction]) -> None:
    """Store predictions, sorted by key; existing ones are kept."""
    insert_new(connection, predictions, _PREDICTION_FIELDS, sorted(map(_to_row, new_predictions)))


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
            (*(getattr(outcome, name) for name in _OUTCOME_FIELDS), claim.attempts, finished_at, outcome.scan_id)
            for outcome in sorted(outcomes, key=lambda outcome: outcome.scan_id)
        ],
    )


def _to_row(prediction: NewPrediction) -> tuple[str | float, ...]:
    """Return a prediction as a row; its first four columns are the unique key."""
    return tuple(getattr(prediction, name) for name in _PREDICTION_FIELDS)  # `astuple` copies deeply, ten times as slow
