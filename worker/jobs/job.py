"""One job from claim to commit, as a plain function that needs no Celery."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from db.engine import reading, write
from db.job_results import store_results
from db.jobs import (
    Claim,
    OpenScan,
    claim_job,
    confirm_claim,
    load_open_scans,
    release_job,
    split_job,
    uncount_attempt,
)
from db.runs import RunInfo, find_run, has_open_jobs
from db.tables import jobs, runs
from nightread.errors import (
    DatabaseError,
    DatabaseFull,
    DatabaseUnavailable,
    DeviceError,
    ModelError,
    NightreadError,
    PredictionGone,
)
from nightread.failpoints import Point, failpoint
from nightread.logs import log_context
from nightread.reasons import Reason
from nightread.settings import Settings
from worker.errors import LeaseLost
from worker.jobs.heartbeat import Heartbeat
from worker.jobs.pipeline import JobResult, end_without_score, find_under, score_scans
from worker.process import WorkerProcess
from worker.runs.guards import end_runs

_log = logging.getLogger(__name__)

_LONGEST_BACKOFF_S = 300.0
#: Claims after which a job ends `model-unavailable`: over an hour, with the back-off, to put the bundle right.
_MODEL_TRIES = 20
#: Claims after which a job whose files never stay unchanged ends `still-changing`.
_SETTLE_TRIES = 60
#: Less than the half hour after which Celery ends a job by force.
_ROOM_LIMIT_S = 1200.0
_ROOM_POLL_S = 5.0
#: Less than what a container is given to stop in.
_LONGEST_RELEASE_S = 60.0


@dataclass(frozen=True, slots=True)
class JobReport:
    """What became of one delivery of a job, for the log."""

    ended: int = 0
    put_off: int = 0
    split: bool = False


def attend_job(process: WorkerProcess, job_id: str) -> bool:
    """Score one job, whatever comes of it: the boundary of a delivery, where every error ends in the log.

    A job is never lost by that: what is understood leaves its lease, which runs out and brings the job back, and what
    nobody foresaw has given it back already.

    Returns:
        Whether it is one that this process may be told of; nobody has sent a message for another.
    """
    with log_context(job=job_id):
        return _attend(process, job_id)


def _attend(process: WorkerProcess, job_id: str) -> bool:
    try:
        report = score_job(process, job_id)
        if report is None and not _is_known(process, job_id):
            process.unknown_jobs += 1
            if process.unknown_jobs.bit_count() == 1:  # 1, 2, 4, 8: many messages must not write as many lines
                _log.warning(
                    "a message names job %s, for which nobody has sent one: refused; %d so far by this process",
                    job_id, process.unknown_jobs,
                )  # fmt: skip
            return False
    except NightreadError as error:
        _log.error("job %s: %s", job_id, error)
    except Exception:  # noqa: BLE001  # see above
        _log.exception("job %s failed", job_id)
    return True


def score_job(process: WorkerProcess, job_id: str) -> JobReport | None:
    """Claim a job, score what is open of it and commit; None where it is not ours to do.

    Being called twice for one job, at once or one after the other, changes nothing: the lease decides.

    Raises:
        DatabaseUnavailable: nothing is stored; the job is put off, or its lease runs out where it stays away.
        Exception: what nobody foresaw; the job was given back, to be tried again and in the end split.
    """
    failpoint(Point.WORKER_BEFORE_CLAIM, DatabaseUnavailable)
    claimed = _claim(process, job_id)
    if claimed is None:
        return None
    with log_context(run=claimed.claim.run_id):
        report = _score_or_release(process, claimed)
        _log.info("%d scans done, %d deferred", report.ended, report.put_off)
        return report


def _is_known(process: WorkerProcess, job_id: str) -> bool:
    """Whether there is such a job; embedded runs have no messages in a queue that is shared."""
    query = select(runs.c.embedded).join(jobs, jobs.c.run_id == runs.c.id).where(jobs.c.id == job_id)
    with reading(process.engine) as connection:
        embedded = connection.execute(query).scalar()
    return embedded is not None and (process.embedded or not embedded)


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A job that is ours for now, with what is to be done."""

    claim: Claim
    run: RunInfo
    open_scans: list[OpenScan]


def _score_or_release(process: WorkerProcess, claimed: _Claimed) -> JobReport:
    claim = claimed.claim
    process.progress.note("claimed")
    try:
        failpoint(Point.WORKER_AFTER_CLAIM)
        return _score_claimed(process, claimed)
    except (DatabaseUnavailable, PredictionGone) as error:
        _release(process, claim, error)
        raise
    except DatabaseError:
        raise
    except Exception:
        # Without this the job would lie until its lease has run out, and count as a crash all the same.
        retry_in_s = backoff_s(claim.attempts)
        write(process.engine, lambda connection: release_job(connection, claim, retry_in_s, is_crash=True))
        raise


def _claim(process: WorkerProcess, job_id: str) -> _Claimed | None:
    """Claim a job; a commit whose answer was lost is found again, and is not taken for another worker's."""
    made: list[Claim] = []
    lease_s = process.settings.lease_s

    def work(connection: Connection) -> _Claimed | None:
        if made and confirm_claim(connection, made[-1], process.name, lease_s):
            claim: Claim | None = made[-1]
        else:
            claim = claim_job(connection, job_id, process.name, lease_s, embedded=process.embedded)
        if claim is None:
            return None
        made.append(claim)
        return _Claimed(claim, find_run(connection, claim.run_id), load_open_scans(connection, job_id))

    return write(process.engine, work)


def _release(process: WorkerProcess, claim: Claim, error: DatabaseError) -> None:
    """Give a job back that the database has failed, once it answers again: a lease that runs out counts as a crash.

    Changes nothing where the job is no longer ours, or was committed after all.
    """
    # A full disk was waited for already, and an embedded run ends where its database is away.
    waits = not process.embedded and not isinstance(error, DatabaseFull)
    deadline = time.monotonic() + (min(process.settings.lease_s, _LONGEST_RELEASE_S) if waits else 0.0)
    retry_in_s = backoff_s(claim.attempts)
    while True:
        try:
            write(process.engine, lambda connection: release_job(connection, claim, retry_in_s, is_crash=False))
        except DatabaseUnavailable:
            if time.monotonic() > deadline:
                return
            time.sleep(_ROOM_POLL_S)
        else:
            return


def _score_claimed(process: WorkerProcess, claimed: _Claimed) -> JobReport:
    settings, claim, run, open_scans = process.settings, claimed.claim, claimed.run, claimed.open_scans
    if not open_scans:
        return _store(process, claim, JobResult())
    if claim.crashes >= _most_crashes(settings):
        return _isolate(process, claim, open_scans)
    try:
        with Heartbeat(process.engine, claim, settings.lease_s, lambda: process.progress.note("renewed")) as heartbeat:
            scorer = process.find_scorer(run)
            result = score_scans(
                open_scans,
                scorer,
                process.make_limits(run, scorer),
                decoder=process.decoder,
                find_stored=find_under(process.engine, run.model_digest, scorer.card),
                check_lease=heartbeat.check,
                worker=process.name,
                isolated=claim.crashes > 0,
                is_stopping=lambda: process.is_stopping,
            )
    except LeaseLost as lost:
        _log.warning("%s", lost)
        return JobReport()
    except (ModelError, DeviceError) as error:
        _log.error("%s", error)  # the message says it all
        return _await_model(process, claim, open_scans, str(error))
    if process.is_stopping and len(result.outcomes) + len(result.put_off) < len(open_scans):
        return _hand_back(process, claim, result)
    if settle_s := _find_settle_s(run, result):
        return _store(process, claim, result, tries=_SETTLE_TRIES, wait_s=settle_s)
    return _store(process, claim, result)


def _find_settle_s(run: RunInfo, result: JobResult) -> float:
    """Return for how long a job waits whose files still change, in seconds; 0 if none does."""
    is_changing = any(reason is Reason.STILL_CHANGING for _, reason, _ in result.put_off)
    return float(run.settings.get("settle_s", 0.0)) if is_changing else 0.0


def _hand_back(process: WorkerProcess, claim: Claim, result: JobResult) -> JobReport:
    """Commit what a stopping process has scored of a job, and queue the rest at once; that counts as no attempt."""

    def work(connection: Connection) -> bool:
        ours = store_results(
            connection,
            claim,
            result.outcomes,
            result.predictions,
            result.measurements,
            retry_in_s=0.0,
            stages=result.stages,
        )
        if ours:
            uncount_attempt(connection, claim.job_id)
        return ours

    _write_where_there_is_room(process, work)
    process.progress.note("committed")
    return JobReport(ended=len(result.outcomes), put_off=len(result.put_off))


def _store(
    process: WorkerProcess, claim: Claim, result: JobResult, *, tries: int | None = None, wait_s: float | None = None
) -> JobReport:
    """Commit a job's result; scans with a passing fault are tried again until the attempts are used up.

    Args:
        process: settings and database.
        claim: the job's claim.
        result: what the job came to.
        tries: the attempts that there are; the settings' where None.
        wait_s: how long the scans that are put off wait, in seconds; as long as after any attempt where None.
    """
    outcomes = list(result.outcomes)
    is_last = claim.attempts >= (tries or process.settings.max_attempts)
    if is_last:
        outcomes += [end_without_score(scan, reason, text) for scan, reason, text in result.put_off]
    retry_in_s = (wait_s or backoff_s(claim.attempts)) if result.put_off and not is_last else None
    failpoint(Point.WORKER_BEFORE_COMMIT)
    ours = _write_where_there_is_room(
        process,
        lambda connection: store_results(
            connection,
            claim,
            outcomes,
            result.predictions,
            result.measurements,
            retry_in_s=retry_in_s,
            stages=result.stages,
        ),
    )
    process.progress.note("committed")
    failpoint(Point.WORKER_AFTER_COMMIT, DatabaseUnavailable)
    with reading(process.engine) as connection:
        is_last_job = not has_open_jobs(connection, claim.run_id)
    if is_last_job:
        end_runs(process.engine)
    if not ours:
        _log.warning(
            "job %s: another worker has taken it over or its run was cancelled; its predictions are kept", claim.job_id
        )
        return JobReport()
    return JobReport(ended=len(outcomes), put_off=0 if is_last else len(result.put_off))


def _write_where_there_is_room(process: WorkerProcess, work: Callable[[Connection], bool]) -> bool:
    """Write results that were computed, and wait where the disk of the database is full.

    A worker that waits takes no other job, so that a full disk stops a run where it is.

    Raises:
        DatabaseFull: there was no room for long; the lease has run out by then, and brings the job back.
    """
    deadline = time.monotonic() + (math.inf if process.embedded else _ROOM_LIMIT_S)
    while True:
        try:
            return write(process.engine, work)
        except DatabaseFull as error:
            if time.monotonic() > deadline:
                raise
            _log.error("%s; the results of a job wait for that", error)
            time.sleep(_ROOM_POLL_S)


def _isolate(process: WorkerProcess, claim: Claim, open_scans: Sequence[OpenScan]) -> JobReport:
    """Split a job that keeps killing its workers, until the one poisonous scan stands alone and is failed."""
    if len(open_scans) > 1:
        crashes = _most_crashes(process.settings) - 1
        write(process.engine, lambda connection: split_job(connection, claim, open_scans, crashes))
        _log.warning("job %s has killed %d workers: split in two", claim.job_id, claim.crashes)
        return JobReport(split=True)
    outcome = end_without_score(
        open_scans[0], Reason.WORKER_CRASH, f"its worker died, hung or failed {claim.crashes} times while scoring it"
    )
    return _store(process, claim, JobResult(outcomes=[outcome]))


def _most_crashes(settings: Settings) -> int:
    """Return the deaths after which a job is split: not before its scans were decoded once where they do no harm."""
    return max(settings.max_attempts, 2)


def _await_model(process: WorkerProcess, claim: Claim, open_scans: Sequence[OpenScan], why: str) -> JobReport:
    """Give a job back that this worker has no model for; another worker may have it, or an operator puts it right."""
    put_off = [(scan, Reason.MODEL_UNAVAILABLE, why) for scan in open_scans]
    wait_s = backoff_s(claim.attempts + 2)
    return _store(process, claim, JobResult(put_off=put_off), tries=_MODEL_TRIES, wait_s=wait_s)


def backoff_s(attempts: int) -> float:
    """Return how long a job waits after its n-th attempt, in seconds: 2, 4, 8, and so on up to five minutes."""
    return float(min(_LONGEST_BACKOFF_S, 2.0 ** min(attempts, 16)))
