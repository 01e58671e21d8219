"""Who works on what: the jobs that workers hold, and how long others wait."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, func, select

from db.tables import jobs, runs, scans
from db.types import JobStatus, ScanStatus, database_now

#: Leases that are listed.
MOST_LISTED: Final = 200


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that a worker holds.

    Attributes:
        worker: its name, HOST:PID.
        run_id: the run of the job.
        run: name of the run.
        job_id: the job.
        scans: scans of the job that are still to be scored.
        attempts: how often the job was claimed.
        expires_at: when others may take it, unless the worker renews its lease; UTC.
    """

    worker: str
    run_id: str
    run: str
    job_id: str
    scans: int
    attempts: int
    expires_at: datetime


def list_leases(connection: Connection) -> list[Lease]:
    """Return the live leases, by worker."""
    open_scans = (
        select(func.count())
        .where(scans.c.job_id == jobs.c.id, scans.c.status == ScanStatus.QUEUED)
        .correlate(jobs)
        .scalar_subquery()
    )
    query = (
        select(
            jobs.c.lease_holder, jobs.c.run_id, runs.c.name, jobs.c.id, open_scans, jobs.c.attempts,
            jobs.c.lease_expires_at,
        )
        .join(runs, runs.c.id == jobs.c.run_id)
        # `status <> 'done'` chooses the partial index of open jobs.
        .where(
            jobs.c.status != JobStatus.DONE, jobs.c.status == JobStatus.LEASED,
            jobs.c.lease_expires_at >= database_now(),
        )
        .order_by(jobs.c.lease_holder, jobs.c.id)
        .limit(MOST_LISTED)
    )  # fmt: skip
    return [Lease(*row) for row in connection.execute(query)]
