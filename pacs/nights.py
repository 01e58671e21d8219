"""Nights of schedules that come from an archive, and whose results go back: what `nightread beat` does for them.

A night is claimed in the database, its instances are known by the spool and each delivery by the table `deliveries`. So
a process that is killed is followed by another one that goes on, and nothing is fetched, scored or sent twice.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Self

from sqlalchemy import Engine

from db.engine import reading, write
from db.runs import find_run
from db.schedules import Schedule, claim_sending, end_sending, find_newest_run, find_unsent, list_schedules
from nightread.errors import NightreadError
from nightread.settings import Settings
from pacs.destination import open_destination
from pacs.fetcher import FetchOptions, fetch
from pacs.sender import Deliveries, send_run
from pacs.study_reports import Kind
from pacs.tls import NO_TLS, TlsFiles
from worker.errors import GuardTripped, NothingNew, NothingToScore
from worker.process import WorkerProcess
from worker.runs.request import Request
from worker.runs.schedule_times import find_date, find_timezone

_log = logging.getLogger(__name__)

#: For which no other process sends a night. Each delivery has a claim of its own, should it take longer.
_LEASE_S: Final = 900.0
_RETRY_S: Final = 60.0
SENT, HELD, DEAD = "sent", "held", "dead"


@dataclass(frozen=True, slots=True)
class SendOptions:
    """Where the results of a schedule's nights are sent, and which; a schedule holds it as JSON.

    Attributes:
        to: `TITLE@HOST:PORT`, or the URL of a DICOMweb server.
        only: decisions; studies without any of them are left out. Empty: all studies.
        with_captures: whether pictures of the scans are sent, too.
        despite_guard: whether a night whose guard tripped is sent, too.
        title: own AE title.
        tls: of associations.
    """

    to: str
    only: tuple[str, ...] = ()
    with_captures: bool = False
    despite_guard: bool = False
    title: str = "NIGHTREAD"
    tls: TlsFiles = NO_TLS

    def check(self) -> None:
        """Check what can be checked without the destination.

        Raises:
            SettingsError: it names none, or a file of TLS cannot be used.
        """
        open_destination(self.to, self.title, self.tls).close()

    def to_json(self) -> dict[str, Any]:
        """Return what a schedule stores."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """Return what a schedule has stored."""
        return cls(**stored | {"only": tuple(stored["only"]), "tls": TlsFiles(**stored["tls"])})


def fetch_scheduled(
    engine: Engine, settings: Settings, schedule: Schedule, request: Request, renew: Callable[[], object]
) -> str:
    """Fetch a night of a schedule; see `worker.runs.schedules.NightFetcher`."""
    night = str(request.night)
    day = find_date(night, find_timezone(schedule.timezone))
    done = fetch(engine, settings, FetchOptions.from_json(schedule.options["fetch"]), day, request, on_instance=renew)
    if done.runs:
        return done.runs[-1]
    with reading(engine) as connection:  # of a process that was killed before it could say so
        before = find_newest_run(connection, schedule.name, night)
    if before is not None:
        return before
    if done.found - done.refused or request.guards.allow_empty:
        raise NothingNew(f"nothing new: {done.present:,} instances of {day} were fetched before")
    raise NothingToScore(f"the archive has no chest radiograph of {day}")


def send_due_nights(engine: Engine, settings: Settings) -> int:
    """Send the nights that have ended and that no other process sends; returns how many were tried.

    Raises:
        DatabaseUnavailable: the database does not answer; the nights stay due.
    """
    with reading(engine) as connection:
        due = [
            (schedule, run_id)
            for schedule in list_schedules(connection)
            if schedule.options.get("send") and schedule.created_at is not None
            for run_id in find_unsent(connection, schedule.name, schedule.created_at)
        ]
    return sum(_send_night(engine, settings, schedule, run_id) for schedule, run_id in due)


def _send_night(engine: Engine, settings: Settings, schedule: Schedule, run_id: str) -> bool:
    if not write(engine, partial(claim_sending, run_id=run_id, lease_s=_LEASE_S)):
        return False
    with reading(engine) as connection:
        run = find_run(connection, run_id)
    became: str | None = None
    try:
        done = _send(settings, SendOptions.from_json(schedule.options["send"]), run_id)
    except GuardTripped as tripped:
        became = HELD
        _log.error("the night %s of schedule %s is held: %s", run.night, schedule.name, tripped)
    except NightreadError as error:
        _log.error("the night %s of schedule %s is not sent yet: %s", run.night, schedule.name, error)
    else:
        became = None if done.waiting else DEAD if done.dead else SENT
        _log.log(
            logging.ERROR if done.dead else logging.INFO,
            "the night %s of schedule %s: %d sent, %d waiting, %d given up",
            run.night, schedule.name, done.sent, done.waiting, done.dead,
        )  # fmt: skip
    write(
        engine,
        partial(end_sending, run_id=run_id, finished_at=run.finished_at, sending=became, retry_in_s=_RETRY_S),
    )
    return True


def _send(settings: Settings, options: SendOptions, run_id: str) -> Deliveries:
    kinds: Sequence[Kind] = list(Kind) if options.with_captures else [Kind.REPORT]
    destination = open_destination(options.to, options.title, options.tls)
    process = WorkerProcess(settings)
    try:
        with reading(process.engine) as connection:
            run = find_run(connection, run_id)
        return send_run(process, run, destination, kinds, only=options.only, despite_guard=options.despite_guard)
    finally:
        destination.close()
        process.close()
