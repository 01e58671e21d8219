"""The life of a job: due, claimed, renewed, then finished, put off or split. Every step is one short transaction.

The order of commits is what nothing gets lost by: a claim is committed before a file is opened, so that the count of
attempts survives whatever the file does to the process; predictions, scans and the job's end are one transaction; the
broker's message is acknowledged after that.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Insert,
    Integer,
    Select,
    Update,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from db.contents import is_of_contents, name_contents
from db.dialects import built_once, insert_ignoring
from db.measuring import NewMeasurement, store_measurements
from db.runs import new_job
from db.tables import jobs, predictions, runs, scans
from db.tallies import tally_scans
from db.types import JobStatus, RunStatus, ScanStatus, UtcDateTime, database_now
from db.waiting import has_run_out, is_due
from failpoints.points import Point, failpoint


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's time-limited hold on a job.

    Attributes:
        token: whoever writes must show it; a worker that was given up for dead has an old one.
        attempts: how often the job was claimed, this time included; less what the database has cost.
        crashes: how many of its leases ran out, or ended in an error that nobody foresaw.
    """

    job_id: str
    run_id: str
    token: int
    attempts: int
    crashes: int


@dataclass(frozen=True, slots=True)
class OpenScan:
    """A scan that a claimed job still has to score."""

    id: int
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ScanOutcome:
    """The terminal status of one scan."""

    scan_id: int
    status: ScanStatus
    sha256: str | None = None
    reason_code: str | None = None
    reason_text: str | None = None
    reused: bool = False
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class NewPrediction:
    """One score of one label; see the table's comments."""

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


def claim_job(connection: Connection, job_id: str, holder: str, lease_s: float, *, embedded: bool) -> Claim | None:
    """Claim a job that is due or whose lease has run out; None where another holds it, it is done or put off.

    The caller commits before it opens a file. Jobs of `embedded` runs are their own process's alone.
    """
    wanted = {"of_job": job_id, "to_holder": holder, "for_s": lease_s, "may_be_embedded": embedded}
    row = connection.execute(_claim_one(connection), wanted).first()
    if row is None:
        return None
    connection.execute(_begin_run(connection), {"of_run": row.run_id})
    return Claim(job_id, row.run_id, row.lease_token, row.attempts, row.crashes)


@built_once
def _claim_one(_: str) -> ReturningUpdate[str, int, int, int]:
    is_anothers = exists().where(runs.c.id == jobs.c.run_id, runs.c.embedded)
    return (
        update(jobs)
        .where(jobs.c.id == bindparam("of_job"), or_(is_due(), has_run_out()))
        .where(or_(bindparam("may_be_embedded", type_=Boolean()), ~is_anothers))
        .values(
            status=JobStatus.LEASED,
            attempts=jobs.c.attempts + 1,
            crashes=jobs.c.crashes + case((jobs.c.status == JobStatus.LEASED, 1), else_=0),
            lease_holder=bindparam("to_holder"),
            lease_token=jobs.c.lease_token + 1,
            lease_expires_at=database_now("for_s"),
            not_before=None,
        )
        .returning(jobs.c.run_id, jobs.c.lease_token, jobs.c.attempts, jobs.c.crashes)
    )


@built_once
def _begin_run(_: str) -> Update:
    # Passes over a run that is being cancelled or retried: those wait for this job while they hold the run's row.
    untouched = (
        select(runs.c.id)
        .where(runs.c.id == bindparam("of_run"), runs.c.status == RunStatus.QUEUED)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return update(runs).where(runs.c.id.in_(untouched)).values(status=RunStatus.RUNNING)


def keep_claim(connection: Connection, claim: Claim, holder: str, lease_s: float) -> bool:
    """Whether a claim was committed although the answer was lost; its lease begins anew.

    Asked by whoever made it: the token alone does not tell, since another may have taken the same one.
    """
    ours = update(jobs).where(_is_ours(), jobs.c.lease_holder == holder)
    extended = ours.values(lease_expires_at=database_now(lease_s))
    return connection.execute(extended, _show(claim)).rowcount == 1


def renew_lease(connection: Connection, claim: Claim, lease_s: float) -> bool:
    """Extend a lease; False where it is no longer ours, and the work on it is to stop."""
    renewed = update(jobs).where(_is_ours()).values(lease_expires_at=database_now(lease_s))
    return connection.execute(renewed, _show(claim)).rowcount == 1


def give_back_job(connection: Connection, claim: Claim, retry_in_s: float, *, is_crash: bool) -> bool:
    """Queue a job again that ended in an error: as a crash, so that it does not loop, or else as if never claimed."""
    counted = {"crashes": jobs.c.crashes + 1} if is_crash else {"attempts": jobs.c.attempts - 1}
    values = {
        "status": JobStatus.QUEUED, "lease_holder": None, "lease_expires_at": None, "published_at": None,
        "not_before": database_now(retry_in_s), **counted,
    }  # fmt: skip
    given_back = connection.execute(update(jobs).where(_is_ours()).values(values), _show(claim)).rowcount
    failpoint(Point.WORKER_GIVE_BACK)
    return given_back == 1


def load_open_scans(connection: Connection, job_id: str) -> list[OpenScan]:
    """Return the scans that a job still has to score, in the order they were found."""
    return [OpenScan(*row) for row in connection.execute(_select_open_scans(connection), {"of_job": job_id})]


@built_once
def _select_open_scans(_: str) -> Select[int, str, int]:
    return (
        select(scans.c.id, scans.c.path, scans.c.size_bytes)
        .where(scans.c.job_id == bindparam("of_job"), scans.c.status == ScanStatus.QUEUED)
        .order_by(scans.c.id)
    )


def find_predicted(
    connection: Connection, digests: Sequence[str], model_digest: str, preprocessing: str, label_count: int
) -> set[str]:
    """Return those of `digests` (SHA-256 of scans) that have a prediction for every label of the model."""
    if not digests:
        return set()
    wanted = name_contents(digests, model_digest, preprocessing) | {"label_count": label_count}
    return set(connection.execute(_select_predicted(connection), wanted).scalars())


@built_once
def _select_predicted(_: str) -> Select[str]:
    return (
        select(predictions.c.sha256)
        .where(is_of_contents(predictions))
        .group_by(predictions.c.sha256)
        .having(func.count() == bindparam("label_count", type_=Integer()))
    )


def store_results(
    connection: Connection,
    claim: Claim,
    outcomes: Sequence[ScanOutcome],
    new_predictions: Sequence[NewPrediction],
    new_measurements: Sequence[NewMeasurement] = (),
    *,
    retry_in_s: float | None = None,
) -> bool:
    """Store what a job came to and end it, or put it off, all in the caller's transaction.

    Rows are sorted by key, since two writers that meet in opposite order deadlock. A prediction or measurement that is
    there already stays. Where the claim is no longer ours only those are kept, which are true whoever computed them.

    Args:
        connection: in a transaction.
        claim: the claim that the results were computed under.
        outcomes: terminal statuses; scans of the job that are missing stay queued.
        new_predictions: any order.
        new_measurements: any order.
        retry_in_s: where not None, the job goes back to the queue for its remaining scans, due after that time.

    Returns:
        Whether the claim was still ours.
    """
    store_predictions(connection, new_predictions)
    store_measurements(connection, new_measurements)
    if retry_in_s is None:
        now = connection.execute(_end_job(connection), _show(claim)).scalar()
    else:
        now = connection.execute(_put_job_off(connection), {**_show(claim), "in_s": retry_in_s}).scalar()
    if now is None:
        return False
    failpoint(Point.WORKER_IN_COMMIT if retry_in_s is None else Point.WORKER_PUT_OFF)
    if outcomes:
        _end_scans(connection, claim, outcomes, now)
        tally_scans(connection, claim.run_id, outcomes)
    return True


def store_predictions(connection: Connection, new_predictions: Sequence[NewPrediction]) -> None:
    """Store predictions, sorted by key; one that is there already stays."""
    if new_predictions:
        rows = sorted(map(_to_row, new_predictions), key=_prediction_key)
        connection.execute(_insert_predictions(connection), rows)


@built_once
def _insert_predictions(dialect: str) -> Insert:
    return insert_ignoring(dialect, predictions).values(created_at=database_now())


@built_once
def _end_job(_: str) -> ReturningUpdate[datetime]:
    return (
        update(jobs)
        .where(_is_ours())
        .values(status=JobStatus.DONE, finished_at=database_now(), lease_holder=None, lease_expires_at=None)
        .returning(database_now())
    )


@built_once
def _put_job_off(_: str) -> ReturningUpdate[datetime]:
    return (
        update(jobs)
        .where(_is_ours())
        .values(
            status=JobStatus.QUEUED, not_before=database_now("in_s"), published_at=None, lease_holder=None,
            lease_expires_at=None,
        )
        .returning(database_now())
    )  # fmt: skip


@built_once
def _end_scan(_: str) -> Update:
    return (
        update(scans)
        # A terminal status is never overwritten.
        .where(scans.c.id == bindparam("scan_id"), scans.c.status == ScanStatus.QUEUED)
        .values(
            status=bindparam("new_status", type_=scans.c.status.type),
            sha256=bindparam("new_sha256"),
            reason_code=bindparam("new_reason_code"),
            reason_text=bindparam("new_reason_text"),
            reused=bindparam("new_reused"),
            study_uid=bindparam("new_study_uid"),
            series_uid=bindparam("new_series_uid"),
            instance_uid=bindparam("new_instance_uid"),
            attempts=scans.c.attempts + bindparam("new_attempts", type_=Integer()),
            finished_at=bindparam("now", type_=UtcDateTime()),
        )
    )


def _end_scans(connection: Connection, claim: Claim, outcomes: Sequence[ScanOutcome], now: datetime) -> None:
    connection.execute(
        _end_scan(connection),
        [
            {
                "scan_id": outcome.scan_id, "new_status": outcome.status, "new_sha256": outcome.sha256,
                "new_attempts": claim.attempts, "new_reason_code": outcome.reason_code,
                "new_reason_text": outcome.reason_text, "new_reused": outcome.reused,
                "new_study_uid": outcome.study_uid, "new_series_uid": outcome.series_uid,
                "new_instance_uid": outcome.instance_uid, "now": now,
            }
            for outcome in sorted(outcomes, key=lambda outcome: outcome.scan_id)
        ],
    )  # fmt: skip


def split_job(connection: Connection, claim: Claim, open_scans: Sequence[OpenScan], crashes: int) -> list[str]:
    """Replace a job that keeps killing its workers by two of half its scans each.

    Args:
        connection: in a transaction.
        claim: the job's claim.
        open_scans: what it still has to score; at least two.
        crashes: what the halves begin with, so that each is split again at its next death and not only after many.

    Returns:
        The ids of the two jobs; none where the claim is no longer ours.
    """
    ended = {"status": JobStatus.DONE, "lease_holder": None, "lease_expires_at": None, "finished_at": database_now()}
    if connection.execute(update(jobs).where(_is_ours()).values(ended), _show(claim)).rowcount != 1:
        return []
    now: datetime = connection.execute(select(database_now())).scalar_one()
    middle = len(open_scans) // 2
    halves = {uuid.uuid4().hex: open_scans[:middle], uuid.uuid4().hex: open_scans[middle:]}
    connection.execute(insert(jobs), [new_job(half, claim.run_id, now, crashes=crashes) for half in halves])
    failpoint(Point.WORKER_IN_SPLIT)
    for half, part in halves.items():
        connection.execute(
            update(scans)
            .where(scans.c.id.in_([scan.id for scan in part]))
            .values(job_id=half, attempts=scans.c.attempts + claim.attempts)
        )
    return list(halves)


def suspect_jobs(connection: Connection, run_id: str) -> int:
    """Let those jobs of a new embedded run begin with a crash that hold what was the death of such a run before.

    A run that shares its process with its caller cannot try a job again once that process has died: what it held when
    it died must be known when the same folder is scored again.

    Returns:
        How many jobs that are.
    """
    deadly = (
        select(scans.c.path)
        .join(jobs, jobs.c.id == scans.c.job_id)
        .join(runs, runs.c.id == jobs.c.run_id)
        .where(jobs.c.crashes > 0, runs.c.embedded, scans.c.status == ScanStatus.FAILED)
    )
    holding = select(scans.c.job_id).where(
        scans.c.run_id == run_id, scans.c.status == ScanStatus.QUEUED, scans.c.path.in_(deadly)
    )
    return connection.execute(update(jobs).where(jobs.c.id.in_(holding)).values(crashes=1)).rowcount


def _is_ours() -> ColumnElement[bool]:
    """Of a job: that the claim which `_show` gives as parameters still holds it."""
    return and_(
        jobs.c.id == bindparam("of_job"), jobs.c.lease_token == bindparam("of_token"),
        jobs.c.status == JobStatus.LEASED,
    )  # fmt: skip


def _show(claim: Claim) -> dict[str, Any]:
    return {"of_job": claim.job_id, "of_token": claim.token}


def _to_row(prediction: NewPrediction) -> dict[str, Any]:
    return {name: getattr(prediction, name) for name in _PREDICTION_FIELDS}  # `asdict` copies deeply, ten times as slow


def _prediction_key(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return row["sha256"], row["model_digest"], row["preprocessing"], row["label"]
