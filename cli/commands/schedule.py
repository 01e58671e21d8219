"""`schedule add`, `list`, `remove`, `run`: what is enqueued night after night."""

import re
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.completion import complete_schedules
from cli.database import open_database
from cli.dicom_extra import fetch_night, import_dicom
from cli.options import Json, Model, NoGate, read_duration_option
from cli.output.console import print_json, say, show_time
from cli.pacs_options import (
    DespiteGuard,
    ListenFor,
    MaxSpool,
    MinFree,
    Modalities,
    Only,
    Rate,
    Title,
    TlsCa,
    TlsCert,
    TlsKey,
    WithPictures,
    make_fetch_options,
    make_tls,
)
from cli.request import AsPriority, make_request
from cli.request_options import AllowEmpty, DriftAlarm, Expect, MaxFailed, MaxRejected, OnlyNew, Settle
from db.engine import read_clock, reading, write
from db.runs import find_run_of_key
from db.schedules import (
    Schedule,
    add_schedule,
    find_last_nights,
    find_nights,
    list_schedules,
    remove_schedule,
)
from db.tables import SCHEDULE_NAME_LENGTH
from db.types import NightStatus, Priority
from nightread.errors import NightreadError, UnknownRun, WrongValue
from nightread.machine import name_user
from nightread.scan.object_address import read_address, spell_address
from nightread.settings import check_shared_broker, read_settings
from nightread.text import show_duration
from worker.runs import schedules
from worker.runs.schedule_times import (
    DueNight,
    check_folder,
    find_due,
    find_moment,
    find_slot,
    find_timezone,
    name_night,
    read_time,
)

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{SCHEDULE_NAME_LENGTH - 1}}}")
_SHORTEST_S = 60
_PACS = "PACS"
Named = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]
Existing = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the schedule.", autocompletion=complete_schedules)
]


def add(  # one argument for each option
    name: Named,
    folder: Annotated[
        list[str] | None,
        typer.Option("--folder", metavar="PATH", help="Folder; %Y, %m, %d stand for the night's date. Repeatable."),
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="HH:MM", help="Time of day, once each night.")] = None,
    every: Annotated[
        float | None,
        typer.Option("--every", metavar="DURATION", parser=read_duration_option, help="Interval, instead of --at: 5m."),
    ] = None,
    tz: Annotated[str, typer.Option("--tz", metavar="ZONE", help="Time zone of --at, such as Europe/Berlin.")] = "UTC",
    catch_up: Annotated[
        float,
        typer.Option(
            "--catch-up",
            metavar="DURATION",
            parser=read_duration_option,
            help="A night that nobody started is started this late; later it is told as missed.",
        ),
    ] = "7d",  # type: ignore[assignment]  # as typed: the parser makes seconds of it
    model: Model = None,
    no_gate: NoGate = False,
    priority: AsPriority = Priority.NORMAL,
    settle: Settle = "0s",  # type: ignore[assignment]  # as typed
    only_new: OnlyNew = False,
    expect: Expect = None,
    max_rejected: MaxRejected = "50%",
    max_failed: MaxFailed = None,
    allow_empty: AllowEmpty = False,
    drift_alarm: DriftAlarm = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PLACE",
            rich_help_panel=_PACS,
            help="Fetch the night's studies, instead of --folder: TITLE@HOST:PORT, or the URL of a DICOMweb server.",
        ),
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option("--spool", metavar="FOLDER", rich_help_panel=_PACS, help="With --from: folder for instances."),
    ] = None,
    modality: Modalities = None,
    rate: Rate = 0.0,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="PLACE",
            rich_help_panel=_PACS,
            help="Send each study's report when the night has ended: TITLE@HOST:PORT, or the URL of a DICOMweb server.",
        ),
    ] = None,
    only: Only = None,
    sc: WithPictures = False,
    despite_guard: DespiteGuard = False,
    aet: Title = "NIGHTREAD",
    listen: ListenFor = "127.0.0.1:11112",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    min_free: MinFree = 5.0,
    max_spool: MaxSpool = 0.0,
    as_json: Json = False,
) -> None:
    """Add a schedule: workers and beats enqueue its folders, each night once.

    A night is named after the day on whose evening it begins: --at 02:00 on the 29th enqueues the folder of the 28th.
    With --from (extra `dicom`) a beat fetches the studies of that day from a PACS, and with --to it sends reports.

    Example: nightread schedule add ward-a --folder '/scans/%Y-%m-%d' --at 02:00 --tz Europe/Berlin
    """  # fmt: skip
    request = make_request(
        settle_s=settle, only_new=only_new, max_rejected=max_rejected, max_failed=max_failed, expect=expect,
        allow_empty=allow_empty, drift_alarm=drift_alarm,
    )  # fmt: skip
    tls = (tls_cert, tls_key, tls_ca)
    if (source is None) != (spool is None):
        raise WrongValue("--from PLACE and --spool FOLDER go together")
    if source is None and (modality or rate):
        raise WrongValue("--modality and --rate need --from PLACE")
    if to is None and (only or sc or despite_guard):
        raise WrongValue("--only, --sc and --despite-guard need --to PLACE")
    if source is not None and folder:
        raise WrongValue("a schedule takes its scans from folders (--folder) or fetches them (--from), not both")
    fetch = None
    if source is not None and spool is not None:
        fetch = make_fetch_options(
            source=source, spool=spool, modality=modality, rate=rate, title=aet, listen=listen,
            min_free=min_free, max_spool=max_spool, tls=tls,
        ).to_json()  # fmt: skip
    send = None if to is None else _read_send(to, only, sc, despite_guard, aet, tls)
    schedule = Schedule(
        name=name,
        # A release that fetches nothing finds no such folder, and so starts no night without its scans.
        folders=[f"{fetch['spool']}/.fetched/%Y%m%d"] if fetch else folder or [],
        at_time=at,
        every_s=None if every is None else int(every),
        timezone=tz,
        options={
            "model": model, "gate": False if no_gate else None, "priority": priority.value, "settle_s": settle,
            "only_new": only_new, "catch_up_s": catch_up, "guards": request.guards.to_json(),
            **({"fetch": fetch} if fetch else {}), **({"send": send} if send else {}),
        },
        created_by=name_user(),
    )  # fmt: skip
    _check(schedule)
    settings = read_settings()
    check_shared_broker(settings, "schedule")
    engine = open_database(settings)
    if not write(engine, lambda connection: add_schedule(connection, schedule)):
        raise NightreadError(f"there is a schedule {name} already: `nightread schedule remove {name}` first")
    with reading(engine) as connection:
        now = read_clock(connection)
    following = _find_next(schedule, now)
    if as_json:
        print_json(_describe(schedule, following))
    else:
        say(f"{name} starts {_say_next(schedule, following)}")


def list_(as_json: Json = False) -> None:
    """List schedules, their next night and what became of the last one.

    Example: nightread schedule list
    """
    with reading(open_database()) as connection:
        now = read_clock(connection)
        known, last = list_schedules(connection), find_last_nights(connection)
    if as_json:
        print_json(
            [
                _describe(schedule, _find_next(schedule, now))
                | {"last": asdict(last[schedule.name]) if schedule.name in last else None}
                for schedule in known
            ]
        )
        return
    if not known:
        say("No schedules yet. Add one: nightread schedule add NAME --folder '/scans/%Y-%m-%d' --at 02:00")
        return
    from cli.output.tables import make_table, out

    sends = any(schedule.options.get("send") for schedule in known)
    table = make_table(
        "schedule", "next", "last night", "became", "run", *(["results"] if sends else []), "why", text=("next", "why")
    )
    for schedule in known:
        before = last.get(schedule.name)
        told = ["", "", "", *([""] if sends else []), ""]
        if before is not None:
            results = [before.sending or ""] if sends else []
            told = [before.night, before.status.value, (before.run_id or "")[:8], *results, before.message or ""]
        table.add_row(schedule.name, _say_next(schedule, _find_next(schedule, now)), *told)
    out.print(table)


def remove(name: Existing, as_json: Json = False) -> None:
    """Remove a schedule; its runs stay.

    Example: nightread schedule remove ward-a
    """
    if not write(open_database(), lambda connection: remove_schedule(connection, name)):
        raise UnknownRun(f"there is no schedule {name!r}: `nightread schedule list` lists them")
    if as_json:
        print_json({"removed": name})
    else:
        say(f"{name} removed")


def run(
    name: Existing,
    night: Annotated[
        str | None, typer.Option("--night", metavar="DATE", help="Night to start, such as 2026-11-28; default: this.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start one night of a schedule now, unless it has a run.

    The id of the night's run is printed in any case.

    Example: nightread schedule run ward-a --night 2026-11-28
    """
    settings = read_settings()
    check_shared_broker(settings, "schedule")
    engine = open_database(settings)
    with reading(engine) as connection:
        now = read_clock(connection)
        schedule = next((each for each in list_schedules(connection) if each.name == name), None)
    if schedule is None:
        raise UnknownRun(f"there is no schedule {name!r}: `nightread schedule list` lists them")
    due = _find_asked(schedule, night, now)
    schedules.start_night(engine, settings, schedule, due, fetch_night, asked=True)
    with reading(engine) as connection:
        # Other processes may go by another edition of the time zones.
        became = find_nights(connection, name, due.due_at - timedelta(days=1)).get(due.night)
        made = find_run_of_key(connection, str(schedules.make_request(schedule, due.night).key))
    if became is None:
        raise UnknownRun(f"the schedule {name} was removed meanwhile")
    run_id = became.run_id or (made and made.id)
    if as_json:
        print_json(asdict(became) | {"run_id": run_id})
    elif run_id is not None:
        say(f"the night {due.night} of {name}; run:")
        typer.echo(run_id)
        if due.due_at > now:
            say(f"the night is due at {show_time(due.due_at)} only: scans that come later are in no run of it")
    if run_id is None and became.status is NightStatus.STARTING:
        raise NightreadError(
            f"another process is starting the night {due.night} of {name}: `nightread schedule list` shows what "
            f"becomes of it; the night of a process that was killed is free after {schedules.LEASE_S / 60:g} minutes"
        )
    if run_id is None and became.status is not NightStatus.STARTED:
        raise NightreadError(f"the night {due.night} of {name} is {became.status.value}: {became.message}")


def _read_send(
    to: str,
    only: list[str] | None,
    with_captures: bool,
    despite_guard: bool,
    title: str,
    tls: tuple[Path | None, Path | None, Path | None],
) -> dict[str, Any]:
    """Return what a schedule stores of a destination, checked."""
    options = import_dicom("nights").SendOptions(
        to=to,
        only=tuple(only or ()),
        with_captures=with_captures,
        despite_guard=despite_guard,
        title=title,
        tls=make_tls(*tls),
    )
    options.check()
    stored: dict[str, Any] = options.to_json()
    return stored


def _check(schedule: Schedule) -> None:
    """Raise WrongValue if a schedule could not be kept."""
    if not _NAME.fullmatch(schedule.name):
        raise WrongValue(
            f"{schedule.name!r} is no name of a schedule; allowed are up to {SCHEDULE_NAME_LENGTH} letters, digits, "
            "dots, dashes and underscores"
        )
    if (schedule.at_time is None) == (schedule.every_s is None):
        raise WrongValue("a schedule needs either --at HH:MM or --every DURATION")
    if schedule.at_time is not None:
        read_time(schedule.at_time)
    if schedule.every_s is not None and schedule.every_s < _SHORTEST_S:
        raise WrongValue(f"--every {schedule.every_s}s is too often; allowed are 60s and more")
    find_timezone(schedule.timezone)
    if not schedule.folders:
        raise WrongValue("a schedule needs --folder PATH, or --from PLACE to fetch from")
    for folder in schedule.folders:
        try:
            is_local = read_address(folder) is None
        except ValueError as error:
            raise WrongValue(f"--folder: {error}") from None
        if is_local and not folder.startswith("/"):
            raise WrongValue(f"--folder {folder!r} is no full path; write one that begins with / or s3://")
        if not schedule.options.get("fetch"):
            check_folder(folder)


def _find_asked(schedule: Schedule, night: str | None, now: datetime) -> DueNight:
    zone = find_timezone(schedule.timezone)
    if schedule.at_time is None:
        if night is not None:
            raise WrongValue(f"{schedule.name} runs at intervals and has no nights: leave out --night")
        return find_slot(schedule.every_s or _SHORTEST_S, now)
    try:
        day = date.fromisoformat(night or name_night(now, zone))
        moment = read_time(schedule.at_time)
        following = day if moment.hour >= 12 else day + timedelta(days=1)  # noon
        due_at = find_moment(following, moment, zone)
    except (ValueError, OverflowError):  # OverflowError: the first or the last days of all
        raise WrongValue(f"--night {night!r} is no date; write it such as 2026-11-28") from None
    if day > (today := now.astimezone(zone).date()):
        # Its run would hold none of its scans, and would keep the night from starting when it is due.
        raise WrongValue(f"--night {day} is in the future; allowed are nights up to {today} ({schedule.timezone})")
    return DueNight(day.isoformat(), due_at)


def _find_next(schedule: Schedule, now: datetime) -> DueNight:
    if schedule.every_s is not None:
        return find_slot(schedule.every_s, now + timedelta(seconds=schedule.every_s))
    zone = find_timezone(schedule.timezone)
    return next(find_due(schedule.at_time or "", zone, now, now + timedelta(days=8)))


def _say_next(schedule: Schedule, following: DueNight) -> str:
    local = following.due_at.astimezone(find_timezone(schedule.timezone))
    if schedule.every_s is not None:
        return f"every {show_duration(schedule.every_s)}"
    return f"{local:%Y-%m-%d %H:%M %Z}, night {following.night}: {_say_source(schedule, following.night)}"


def _say_source(schedule: Schedule, night: str) -> str:
    if fetch := schedule.options.get("fetch"):
        return f"from {fetch['source']}"
    return ", ".join(map(spell_address, schedules.find_folders(schedule, night)))


def _describe(schedule: Schedule, following: DueNight) -> dict[str, Any]:
    return asdict(schedule) | {"next_at": following.due_at, "next_night": following.night}
