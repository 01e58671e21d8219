"""Nights that start themselves: every process that sweeps looks for nights that are due.

However many processes look, a night is started at most once: they claim it by its key in the table `schedule_nights`,
and its run has an idempotency key of its own, should a claim be held for longer than its lease. A night for which no
process was there in time is started late, or told as `missed`.

A schedule that fetches brings the night's scans from an archive first. That is done by processes that are given a
fetcher: beats, and `schedule run`. Workers leave such a schedule alone.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from db.engine import read_clock, reading, write
from db.runs import find_run_of_key
from db.schedules import (
    Schedule,
    claim_night,
    end_night,
    find_nights,
    list_schedules,
    renew_night,
    reopen_night,
    tell_missed,
)
from db.types import NightStatus, Priority
from nightread.errors import DatabaseError, DatabaseUnavailable, NightreadError
from nightread.settings import Settings
from worker.errors import BrokerUnavailable, NothingNew, NothingToScore, WrongKey
from worker.runs.enqueue import enqueue_run
from worker.runs.guards import Guards
from worker.runs.request import Request
from worker.runs.schedule_times import DueNight, find_date, find_due, find_slot, find_timezone

_log = logging.getLogger(__name__)

#: A night that was due longer ago than this is told as missed, unless its schedule says otherwise.
CATCH_UP_S: Final = 7 * 86_400.0
#: Nights that were due longer ago than this are not even told.
_LOOK_BACK: Final = timedelta(days=62)
#: Longer than listing a large folder on a slow share takes.
LEASE_S: Final = 900.0
_RETRY_S: Final = 300.0
#: A night whose row was changed later than this from now was looked at by a clock that has been put back since.
_AHEAD: Final = timedelta(hours=1)
_LOOK_S: Final = 15.0


class NightFetcher(Protocol):
    """Brings the scans of a night from an archive, and enqueues them."""

    def __call__(
        self, engine: Engine, settings: Settings, schedule: Schedule, request: Request, renew: Callable[[], object]
    ) -> str:
        """Fetch a night; returns the id of its run.

        Args:
            engine: the database.
            settings: model, roots and broker of the run.
            schedule: a schedule that fetches.
            request: for the night's run; its key is the fetcher's own matter.
            renew: to be called now and then, so that no other process takes the night for abandoned.

        Raises:
            NothingToScore: the archive has nothing of that night.
            NothingNew: everything that it has is in another run.
            NightreadError: it does not answer, or the run cannot be made; the next call continues.
        """


class Scheduler:
    """Looks again and again for what schedules have to do, on a thread of its own: a look may take minutes."""

    def __init__(self, look: Callable[[], object], settings: Settings, name: str = "nightread-scheduler") -> None:
        """Start nothing yet.

        Args:
            look: does what is due.
            settings: how often.
            name: of the thread.
        """
        self._look, self._name = look, name
        self._look_s = min(_LOOK_S, settings.sweep_s)
        self._stop = threading.Event()

    def start(self) -> None:
        """Look until the process ends."""
        threading.Thread(target=self.run, name=self._name, daemon=True).start()

    def run(self) -> None:
        """Look; never raises."""
        while not self._stop.wait(self._look_s * random.uniform(0.5, 1.0)):  # noqa: S311  # jitter, no secret
            try:
                self._look()
            except NightreadError as error:
                _log.warning("schedules: %s", error)
            except Exception:  # noqa: BLE001  # the boundary of a thread: the next look may succeed
                _log.exception("schedules failed")

    def stop(self) -> None:
        """End `run` after the look under way."""
        self._stop.set()


def start_due_nights(engine: Engine, settings: Settings, fetch: NightFetcher | None = None) -> int:
    """Start the nights that are due and that no other process starts; returns how many were started.

    Args:
        engine: the database.
        settings: roots, broker and job size.
        fetch: brings nights from archives; None: schedules that fetch are left to others.

    Raises:
        DatabaseUnavailable: the database does not answer; the nights stay due.
    """
    with reading(engine) as connection:
        known = list_schedules(connection)
        now = read_clock(connection) if known else None
    if now is None:
        return 0
    started = 0
    for schedule in known:
        if fetch is None and schedule.options.get("fetch"):
            continue
        try:
            for due in _find_due(engine, schedule, now):
                started += start_night(engine, settings, schedule, due, fetch)
        except DatabaseUnavailable:
            raise
        except NightreadError as error:  # a time zone that only other machines know
            _log.error("schedule %s: %s", schedule.name, error)
        except Exception:  # noqa: BLE001  # the boundary of a schedule: others do not wait for it
            _log.exception("schedule %s failed", schedule.name)
    return started


def _find_due(engine: Engine, schedule: Schedule, now: datetime) -> list[DueNight]:
    """Return the nights of a schedule to start, oldest first; tells those that are too old."""
    created_at = schedule.created_at or now
    if schedule.every_s is not None:
        due = find_slot(schedule.every_s, now)
        return [due] if due.due_at >= created_at else []
    since = max(created_at, now - _LOOK_BACK)
    zone = find_timezone(schedule.timezone)
    nights = list(find_due(schedule.at_time or "", zone, since, now))
    with reading(engine) as connection:
        known = find_nights(connection, schedule.name, since)
    catch_up = timedelta(seconds=float(schedule.options.get("catch_up_s", CATCH_UP_S)))
    to_start = []
    for due in nights:
        before = known.get(due.night)
        if before is not None and before.run_id is None and before.changed_at - now > _AHEAD:
            # A clock that was ahead looked for the night before its scans could be there.
            write(engine, partial(reopen_night, schedule=schedule.name, night=due.night))
        elif before is not None and before.status not in {NightStatus.STARTING, NightStatus.FAILED}:
            continue
        if now - due.due_at <= catch_up:
            to_start.append(due)
        elif before is None:
            _tell_missed(engine, schedule, due)
    return to_start


def _tell_missed(engine: Engine, schedule: Schedule, due: DueNight) -> None:
    message = "no process was there to start it in time: nightread schedule run"
    if write(engine, lambda connection: tell_missed(connection, schedule.name, due.night, due.due_at, message)):
        _log.error("the night %s of schedule %s was missed: start it by `schedule run`", due.night, schedule.name)


def start_night(
    engine: Engine,
    settings: Settings,
    schedule: Schedule,
    due: DueNight,
    fetch: NightFetcher | None = None,
    *,
    asked: bool = False,
) -> bool:
    """Start one night, if no other process does; returns whether this one did.

    Args:
        engine: the database.
        settings: roots, broker and job size.
        schedule: the schedule.
        due: the night.
        fetch: brings it from an archive, if the schedule says so.
        asked: whether a person asks for it, so that a night that was empty, missed or failed is tried again.

    Raises:
        DatabaseUnavailable: the database does not answer; the night stays due.
    """
    holder = f"{os.uname().nodename}:{os.getpid()}:{threading.get_ident()}"
    name, night = schedule.name, due.night
    early_s = 0.0
    if asked:
        write(engine, lambda connection: reopen_night(connection, name, night))
        with reading(engine) as connection:
            early_s = (due.due_at - read_clock(connection)).total_seconds()
    try:
        claim = partial(claim_night, schedule=name, night=night, due_at=due.due_at, holder=holder, lease_s=LEASE_S)
        if not write(engine, claim):
            return False
    except IntegrityError:  # the schedule has been removed since it was read
        return False
    try:
        ended = _enqueue(
            engine, settings, schedule, night, fetch and partial(fetch, renew=_NightClaim(engine, name, night, holder))
        )
    except Exception as fault:
        message = f"a fault of Nightread, {type(fault).__name__}: the log of the process has it"
        failed = partial(end_night, status=NightStatus.FAILED, message=message, retry_in_s=_RETRY_S)
        write(engine, lambda connection: failed(connection, name, night, holder))
        raise
    if ended["status"] is NightStatus.EMPTY and early_s > 0:  # scans may come until it is due
        ended |= {"status": NightStatus.FAILED, "retry_in_s": early_s}
    write(engine, lambda connection: end_night(connection, name, night, holder, **ended))
    status = ended["status"]
    if status is NightStatus.STARTED:
        _log.info("the night %s of schedule %s has started", night, name)
    else:  # the message may name a folder, which does not belong into a log
        _log.error("the night %s of schedule %s is %s: see `nightread schedule list`", night, name, status.value)
    return status is NightStatus.STARTED


class _NightClaim:
    """Renews the claim of a night, now and then."""

    def __init__(self, engine: Engine, schedule: str, night: str, holder: str) -> None:
        self._engine, self._schedule, self._night, self._holder = engine, schedule, night, holder
        self._renewed = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._renewed < LEASE_S / 10:
            return
        self._renewed = time.monotonic()
        try:
            write(
                self._engine,
                lambda connection: renew_night(connection, self._schedule, self._night, self._holder, lease_s=LEASE_S),
            )
        except DatabaseError as error:  # the night is fetched all the same: its spool belongs to this process
            _log.warning("the claim of a night was not renewed: %s", error)


def _refuse_to_fetch(*_: object) -> NoReturn:
    raise NightreadError("its scans are fetched from an archive, which this process cannot do")


def _enqueue(
    engine: Engine, settings: Settings, schedule: Schedule, night: str, fetch: Callable[..., str] | None
) -> dict[str, Any]:
    """Enqueue a night; returns what `end_night` is to store."""
    request = make_request(schedule, night)
    try:
        chosen = settings.model_copy(update=_find_settings(schedule))
        if schedule.options.get("fetch"):
            run_id = (fetch or _refuse_to_fetch)(engine, chosen, schedule, request)
        else:
            folders = find_folders(schedule, night)
            try:
                run_id = enqueue_run(engine, chosen, folders, request=request).run_id
            except WrongKey:  # of a schedule of this name, of other folders, that was removed
                request = replace(request, key=f"{request.key}/{schedule.created_at:%Y%m%dT%H%M%SZ}")
                run_id = enqueue_run(engine, chosen, folders, request=request).run_id
    except NothingNew as nothing:
        return {"status": NightStatus.STARTED, "message": str(nothing)}
    except NothingToScore as nothing:
        return {"status": NightStatus.EMPTY, "message": str(nothing)}
    except BrokerUnavailable:  # the run is written, and the next sweep publishes it
        with reading(engine) as connection:
            run = find_run_of_key(connection, str(request.key))
        return {"status": NightStatus.STARTED, "run_id": run and run.id}
    except NightreadError as error:
        return {"status": NightStatus.FAILED, "message": str(error), "retry_in_s": _RETRY_S}
    return {"status": NightStatus.STARTED, "run_id": run_id}


def _find_settings(schedule: Schedule) -> dict[str, Any]:
    return {name: schedule.options[name] for name in ("model", "gate") if schedule.options.get(name) is not None}


def find_folders(schedule: Schedule, night: str) -> list[Path]:
    """Return the folders of a night."""
    day = find_date(night, find_timezone(schedule.timezone))
    return [Path(day.strftime(folder)) for folder in schedule.folders]


def make_request(schedule: Schedule, night: str) -> Request:
    """Return the request for one night of a schedule."""
    options = schedule.options
    guards = Guards.from_json(options.get("guards", {}))
    is_learned = schedule.at_time is not None and guards.least is None and guards.most is None
    return Request(
        name=f"{schedule.name} {night}",
        key=f"{schedule.name}/{night}",
        priority=Priority(options.get("priority", Priority.NORMAL)),
        settle_s=float(options.get("settle_s", 0.0)),
        only_new=bool(options.get("only_new")),
        guards=replace(guards, is_learned=is_learned),
        schedule=schedule.name,
        night=night,
    )
