"""Cancellation of a run, in steps: a run of a million scans holds no lock for long and meets no statement timeout."""

from functools import partial
from typing import Final

from sqlalchemy import Connection, Engine, case, select, update

from db.engine import write
from db.runs import has_open_jobs, is_open, lock_run
from db.tables import jobs, runs, scans
from db.tallies import change_tally
from db.types import JobStatus, RunStatus, ScanStatus, database_now
from nightread.failpoints import Point, failpoint

#: Scans of one transaction.
_SCANS_PER_STEP: Final = 10_000
#: Jobs of one transaction; their ids are parameters of a statement.
_JOBS_PER_STEP: Final = 1_000
_JOB_SIZE_UNKNOWN: Final = 64


def cancel_run(engine: Engine, run_id: str, reason_code: str, reason_text: str, *, crashed: bool = False) -> int:
    """End a run: its open scans become `failed`, and workers that hold one of its jobs are fenced off.

    Each step ends some jobs together with their scans, so an interruption leaves a run that goes on with the others;
    repeating the call ends them, too.

    Args:
        engine: the database.
        run_id: id of the run.
        reason_code: reason for its open scans.
        reason_text: text of that reason.
        crashed: count a crash for each leased job, because its holder died.

    Returns:
        Number of scans that were open; `db.runs.retry_run` queues them again.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    reason = (reason_code, reason_text)
    ended, is_last = 0, False
    while not is_last:
        step = partial(_cancel_step, run_id=run_id, reason=reason, crashed=crashed, has_begun=ended > 0)
        count, is_last = write(engine, step)
        ended += count
    return ended


def _cancel_step(
    connection: Connection, *, run_id: str, reason: tuple[str, str], crashed: bool, has_begun: bool
) -> tuple[int, bool]:
    """Cancel some jobs of a run, and the run itself with the last of them; returns (scans ended, whether all are)."""
    reason_code, reason_text = reason
    lock_run(connection, run_id)
    settings = connection.execute(select(runs.c.settings).where(runs.c.id == run_id)).scalar() or {}
    most = max(1, min(_JOBS_PER_STEP, _SCANS_PER_STEP // int(settings.get("job_size", _JOB_SIZE_UNKNOWN))))
    # Jobs that wait come first, so that fewer of them are claimed meanwhile.
    of_run = (jobs.c.run_id == run_id, jobs.c.status != JobStatus.DONE)
    newest = jobs.c.created_at.desc()
    wanted = connection.execute(select(jobs.c.id).where(*of_run).order_by(newest, jobs.c.id.desc()).limit(most))
    job_ids = wanted.scalars().all()
    connection.execute(
        update(jobs)
        # Not those that a worker has ended since: their end stays theirs.
        .where(*of_run, jobs.c.id.in_(job_ids))
        .values(
            status=JobStatus.DONE, lease_holder=None, lease_expires_at=None, lease_token=jobs.c.lease_token + 1,
            finished_at=database_now(),
            crashes=jobs.c.crashes + (case((jobs.c.status == JobStatus.LEASED, 1), else_=0) if crashed else 0),
        )
    )  # fmt: skip
    failpoint(Point.CANCEL_IN_TRANSACTION)
    ended = connection.execute(
        update(scans)
        .where(scans.c.job_id.in_(job_ids), scans.c.status == ScanStatus.QUEUED)
        .values(status=ScanStatus.FAILED, reason_code=reason_code, reason_text=reason_text, finished_at=database_now())
    ).rowcount
    is_last = not has_open_jobs(connection, run_id)
    if is_last:
        # A worker that ended the last open job between two steps has closed the run as finished.
        closed = is_open() | (runs.c.status == RunStatus.FINISHED) if has_begun else is_open()
        connection.execute(
            update(runs)
            .where(runs.c.id == run_id, closed)
            .values(status=RunStatus.CANCELLED, finished_at=database_now())
        )
    change_tally(connection, run_id, {(ScanStatus.FAILED.value, reason_code): ended})
    return ended, is_last
