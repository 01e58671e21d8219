"""The life of a job: due, claimed, renewed, then stored (`db.job_results`), released or split.

Every step is one short transaction. The order of commits prevents losses: a claim is committed before a file is opened,
so that the number of attempts survives a crash that the file causes; predictions, scans and the job's end are one
transaction; the broker's message is acknowledged after that.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Connection, Select, Update, bindparam, case, insert, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from db.dialects import built_once
from db.due_jobs import has_expired_lease, is_due, mark_unpublished
from db.engine import read_clock
from db.runs import new_job
from db.tables import jobs, runs, scans
from db.types import JobStatus, RunStatus, ScanStatus, database_now
from nightread.failpoints import Point, failpoint


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's time-limited hold on a job.

    Attributes:
        token: fencing token; every write must present it. A worker whose lease expired holds a stale one.
        attempts: number of claims including this one; without those that a database fault ended.
        crashes: number of leases that expired or ended in an unexpected error.
    """

    job_id: str
    run_id: str
    token: int
    attempts: int
    crashes: int


@dataclass(frozen=True, slots=True)
class OpenScan:
    """A scan of a claimed job that has no terminal status yet."""

    id: int
    path: str
    size_bytes: int


def claim_job(connection: Connection, job_id: str, holder: str, lease_s: float, *, embedded: bool) -> Claim | None:
    """Claim a due job or one whose lease expired; None if another worker holds it, it is done or in back-off.

    The caller commits before it opens a file. Only an embedded run's own process passes `embedded` and so may claim
    jobs of such a run.
    """
    wanted = {"of_job": job_id, "to_holder": holder, "for_s": lease_s, "may_be_embedded": embedded}
    row = connection.execute(_claim_one(connection), wanted).first()
    if row is None:
        return None
    connection.execute(_begin_run(connection), {"of_run": row.run_id})
    return Claim(job_id, row.run_id, row.lease_token, row.attempts, row.crashes)


@built_once
def _claim_one(_: str) -> ReturningUpdate[str, int, int, int]:
    is_embedded = select(runs.c.id).where(runs.c.id == jobs.c.run_id, runs.c.embedded).exists()
    return (
        update(jobs)
        .where(jobs.c.id == bindparam("of_job"), is_due() | has_expired_lease())
        .where(bindparam("may_be_embedded", type_=Boolean()) | ~is_embedded)
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
    # Skips a run that is being cancelled or retried: that transaction holds the run's row and waits for this job.
    untouched = (
        select(runs.c.id)
        .where(runs.c.id == bindparam("of_run"), runs.c.status == RunStatus.QUEUED)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return update(runs).where(runs.c.id.in_(untouched)).values(status=RunStatus.RUNNING)


def confirm_claim(connection: Connection, claim: Claim, holder: str, lease_s: float) -> bool:
    """Return whether a claim was committed although the database's answer was lost; if so, its lease is renewed.

    The holder is compared, too: another worker may have claimed the job with the same token.
    """
    claimed = update(jobs).where(is_claim_current(), jobs.c.lease_holder == holder)
    extended = claimed.values(lease_expires_at=database_now(lease_s))
    return connection.execute(extended, bind_claim(claim)).rowcount == 1


def renew_lease(connection: Connection, claim: Claim, lease_s: float) -> bool:
    """Extend a lease; returns False if the claim is stale, and then the work on the job must stop."""
    renewed = update(jobs).where(is_claim_current()).values(lease_expires_at=database_now(lease_s))
    return connection.execute(renewed, bind_claim(claim)).rowcount == 1


def release_job(connection: Connection, claim: Claim, retry_in_s: float, *, is_crash: bool) -> bool:
    """Queue a job again after an error, either counted as a crash, to avoid endless loops, or as if never claimed."""
    counted = {"crashes": jobs.c.crashes + 1} if is_crash else {"attempts": jobs.c.attempts - 1}
    queued = update(jobs).where(is_claim_current()).values(queue_again(retry_in_s) | counted)
    released = connection.execute(queued, bind_claim(claim)).rowcount
    failpoint(Point.WORKER_GIVE_BACK)
    return released == 1


def uncount_attempt(connection: Connection, job_id: str) -> None:
    """Undo the attempt of a job that its worker has queued again unfinished, because the worker stops."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(attempts=jobs.c.attempts - 1))


def reclaim_job(connection: Connection, job_id: str, holder: str, retry_in_s: float) -> bool:
    """Queue a job again whose holder is known to be dead, without waiting for the lease to expire; counts as a crash.

    Returns:
        Whether the holder had claimed the job. If not, the job can be claimed again at once.
    """
    mark_unpublished(connection, [job_id])
    held = update(jobs).where(jobs.c.id == job_id, jobs.c.status == JobStatus.LEASED, jobs.c.lease_holder == holder)
    values = queue_again(retry_in_s) | {"crashes": jobs.c.crashes + 1}
    return connection.execute(held.values(values)).rowcount == 1


def end_job() -> dict[str, Any]:
    """Return the column values of a job that ends."""
    return {"status": JobStatus.DONE, "lease_holder": None, "lease_expires_at": None, "finished_at": database_now()}


def queue_again(retry_in_s: float | str) -> dict[str, Any]:
    """Return the column values of a job that goes back to the queue; its back-off as in `database_now`."""
    return {
        "status": JobStatus.QUEUED, "lease_holder": None, "lease_expires_at": None, "published_at": None,
        "not_before": database_now(retry_in_s),
    }  # fmt: skip


def load_open_scans(connection: Connection, job_id: str) -> list[OpenScan]:
    """Return the open scans of a job, in the order they were found."""
    return [OpenScan(*row) for row in connection.execute(_select_open_scans(connection), {"of_job": job_id}).all()]


@built_once
def _select_open_scans(_: str) -> Select[int, str, int]:
    return (
        select(scans.c.id, scans.c.path, scans.c.size_bytes)
        .where(scans.c.job_id == bindparam("of_job"), scans.c.status == ScanStatus.QUEUED)
        .order_by(scans.c.id)
    )


def split_job(connection: Connection, claim: Claim, open_scans: Sequence[OpenScan], crashes: int) -> list[str]:
    """Replace a job that keeps crashing its workers by two jobs of half its scans each.

    Args:
        connection: in a transaction.
        claim: the job's claim.
        open_scans: its open scans; at least two.
        crashes: initial crash count of both halves, high enough that each is split again at its next crash.

    Returns:
        The ids of the two jobs; empty if the claim is stale.
    """
    ended = update(jobs).where(is_claim_current()).values(end_job())
    if connection.execute(ended, bind_claim(claim)).rowcount != 1:
        return []
    now = read_clock(connection)
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
    """Set one crash on the jobs of a new embedded run that hold a path which failed in a crashed job of an earlier one.

    An embedded run cannot retry a job after its process has died, so the next run over the same folder must know the
    suspects.

    Returns:
        Number of suspect jobs.
    """
    suspects = (
        select(scans.c.path)
        .join(jobs, jobs.c.id == scans.c.job_id)
        .join(runs, runs.c.id == jobs.c.run_id)
        .where(jobs.c.crashes > 0, runs.c.embedded, scans.c.status == ScanStatus.FAILED)
    )
    holding = select(scans.c.job_id).where(
        scans.c.run_id == run_id, scans.c.status == ScanStatus.QUEUED, scans.c.path.in_(suspects)
    )
    return connection.execute(update(jobs).where(jobs.c.id.in_(holding)).values(crashes=1)).rowcount


def is_claim_current() -> ColumnElement[bool]:
    """Match the job that the claim among the parameters of `bind_claim` still holds."""
    is_claimed = (jobs.c.id == bindparam("of_job")) & (jobs.c.lease_token == bindparam("of_token"))
    return is_claimed & (jobs.c.status == JobStatus.LEASED)


def bind_claim(claim: Claim) -> dict[str, Any]:
    """Return the parameters of a statement with `is_claim_current`."""
    return {"of_job": claim.job_id, "of_token": claim.token}
