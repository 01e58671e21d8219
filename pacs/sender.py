"""Sends the objects of a run to a destination, each at most once; the table `deliveries` holds what became of them.

An object is made anew for each attempt and never stored here: it holds the patient's name.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Engine

from db.deliveries import (
    ClaimedDelivery,
    NewDelivery,
    add_deliveries,
    claim_due,
    count_deliveries,
    find_back_off,
    mark_failed,
    mark_sent,
    release_claims,
    revive_dead,
)
from db.engine import reading, write
from db.runs import RunInfo
from db.types import DeliveryStatus
from nightread.errors import NightreadError
from nightread.failpoints import Point, failpoint
from pacs.destination import Destination, Refused
from pacs.study_reports import Kind, Planned, StudyReports
from worker.errors import GuardTripped
from worker.guard_codes import QUIET
from worker.process import WorkerProcess
from worker.runs.guards import judge_run

_log = logging.getLogger(__name__)

#: Objects that are claimed at once, and a time that is longer than their attempts take.
_CLAIMED: Final = 20
_LEASE_S: Final = 1200.0
_MAX_ATTEMPTS: Final = 8
#: Before the next attempt of deliveries that were claimed together with one that failed.
_FIRST_BACK_OFF_S: Final = 10.0
_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Deliveries:
    """What became of a run's objects at a destination.

    Attributes:
        sent: the destination has them.
        waiting: they are attempted again by the next command, once their back-off is over.
        dead: they are not attempted again until somebody asks for it.
        errors: last errors of those that are not sent, with their number.
    """

    sent: int
    waiting: int
    dead: int
    errors: dict[str, int]


def send_run(
    process: WorkerProcess,
    run: RunInfo,
    destination: Destination,
    kinds: Sequence[Kind],
    *,
    only: Sequence[str] = (),
    revive: bool = False,
    despite_guard: bool = False,
    wait_s: float = 0.0,
) -> Deliveries:
    """Send what a destination has not got of a run.

    Args:
        process: settings, database and models.
        run: an ended run.
        destination: where to.
        kinds: reports, captures, or both.
        only: decisions; studies without any of them are left out. Empty: all studies.
        revive: whether dead deliveries are attempted again.
        despite_guard: whether a run whose guard tripped is sent, too.
        wait_s: seconds for which deliveries that fail for now are attempted again.

    Raises:
        NightreadError: the run has not ended.
        GuardTripped: it does not look like a night, and nobody said to send it despite that.
    """
    if run.finished_at is None:
        raise NightreadError(f"run {run.id[:8]} has not ended: send it when `nightread status` says so")
    reports = StudyReports(process, run)
    planned = {one.uid: one for one in reports.plan(kinds, only)}
    if planned and not despite_guard:
        _refuse_tripped(judge_run(process.engine, run.id))
    for part in _divide(list(planned)):
        new = [NewDelivery(uid, planned[uid].study_uid, planned[uid].kind.value) for uid in part]
        write(process.engine, partial(add_deliveries, run_id=run.id, destination=destination.name, new=new))
        if revive:
            write(process.engine, partial(revive_dead, destination=destination.name, uids=part))
    until = time.monotonic() + wait_s
    while True:
        _send_due(process.engine, reports, destination, planned)
        done = _count(process.engine, destination, planned)
        if not done.waiting or time.monotonic() >= until:
            return done
        time.sleep(_PAUSE_S)


def _refuse_tripped(run: RunInfo) -> None:
    if run.guard not in QUIET:
        raise GuardTripped(
            f"run {run.id[:8]} does not look like a night ({run.guard}: {run.guard_text}), so nothing of it was sent: "
            "look at it, and send it with --despite-guard if it is in order"
        )


def _send_due(engine: Engine, reports: StudyReports, destination: Destination, planned: dict[str, Planned]) -> None:
    """Attempt each due delivery once; ends early while the destination takes nothing."""
    for part in _divide(list(planned)):
        claimed = write(engine, partial(claim_due, destination=destination.name, uids=part, lease_s=_LEASE_S))
        for place, one in enumerate(claimed):
            failpoint(Point.SEND_BEFORE)
            error = _attempt(reports, destination, planned[one.instance_uid])
            failpoint(Point.SEND_AFTER)
            if error is None:
                write(engine, partial(mark_sent, delivery_id=one.id))
                continue
            back_off_s = None if error.is_final else find_back_off(one.attempts, _MAX_ATTEMPTS)
            write(engine, partial(mark_failed, delivery_id=one.id, error=str(error), back_off_s=back_off_s))
            if not error.is_final:
                _log.warning("%s: %s", destination.name, error)
                _release(engine, claimed[place + 1 :])
                return


def _attempt(reports: StudyReports, destination: Destination, planned: Planned) -> Refused | None:
    """Make an object and send it; returns why it was not taken."""
    try:
        destination.send(reports.make(planned))
    except Refused as refused:
        return refused
    except NightreadError as error:  # a file is gone, or cannot be decoded any more
        return Refused(str(error), is_final=True)
    return None


def _release(engine: Engine, left: Sequence[ClaimedDelivery]) -> None:
    if left:
        ids = [one.id for one in left]
        write(engine, partial(release_claims, ids=ids, back_off_s=_FIRST_BACK_OFF_S))


def _count(engine: Engine, destination: Destination, planned: dict[str, Planned]) -> Deliveries:
    found: Counter[tuple[str, str]] = Counter()
    with reading(engine) as connection:
        for part in _divide(list(planned)):
            found += count_deliveries(connection, destination.name, part)
    by_status: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for (status, error), count in found.items():
        by_status[status] += count
        if error:
            errors[error] += count
    return Deliveries(
        sent=by_status[DeliveryStatus.SENT],
        waiting=by_status[DeliveryStatus.WAITING],
        dead=by_status[DeliveryStatus.DEAD],
        errors=dict(errors),
    )


def _divide(uids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(uids), _CLAIMED):
        yield uids[start : start + _CLAIMED]
