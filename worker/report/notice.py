"""Notices: the end of a run, told by mail, chat or webhook.

The text holds counts, reason codes and what a guard found. It holds no path, no name and no identifier of a patient
unless the settings ask for names and paths.
"""

import logging
from functools import partial
from importlib import import_module
from typing import Any

from sqlalchemy import Engine

from db.engine import reading, write
from db.notices import claim_notice, find_untold, release_notice
from db.runs import RunInfo, find_run
from db.tallies import RunTally, read_tallies, reconcile
from nightread.errors import NoticeFailed, SettingsError
from nightread.settings import Settings
from nightread.text import show_text

_log = logging.getLogger(__name__)

_PASSED = {None, "passed"}


def notify_ended(engine: Engine, settings: Settings) -> int:
    """Tell of the runs that have ended since the last call; returns their number.

    A notice that cannot be delivered is logged and tried again by the next call, for a day.

    Args:
        engine: the database.
        settings: where to, and what of.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    if not settings.notify_urls.get_secret_value():
        return 0
    with reading(engine) as connection:
        untold = find_untold(connection)
    told = 0
    for run_id in untold:
        if not write(engine, partial(claim_notice, run_id=run_id)):
            continue
        try:
            told += notify_run(engine, settings, run_id)
        except (NoticeFailed, SettingsError) as error:
            _log.error("%s", error)
            write(engine, partial(release_notice, run_id=run_id))
    return told


def notify_run(engine: Engine, settings: Settings, run_id: str, *, always: bool = False) -> bool:
    """Tell of one run; returns whether somebody was to be told.

    Args:
        engine: the database.
        settings: where to, and what of.
        run_id: id of the run.
        always: tell of it even if the settings ask for guards alone.

    Raises:
        SettingsError: no address is set, one cannot be read, or the extra `notify` is not installed.
        NoticeFailed: an address did not take it.
        UnknownRun: there is no such run.
    """
    with reading(engine) as connection:
        run = find_run(connection, run_id)
        tally = read_tallies(connection, [run_id])[run_id]
    if settings.notify_on == "guard" and run.guard in _PASSED and not always:
        return False
    title, body = write_notice(run, tally, with_details=settings.notify_details)
    _send(settings, title, body, is_alarm=run.guard not in _PASSED)
    _log.info("told of the end of run %s", run.id[:8])
    return True


def write_notice(run: RunInfo, tally: RunTally, *, with_details: bool) -> tuple[str, str]:
    """Return title and text of a notice.

    Args:
        run: the run.
        tally: its counts.
        with_details: whether names and paths may be in it.
    """
    is_alarm = run.guard not in _PASSED
    title = f"Nightread: a night looks wrong ({run.guard})" if is_alarm else f"Nightread: run {run.status.value}"
    lines = [f"Run {run.id[:8]} of {run.created_at:%Y-%m-%d %H:%M} UTC {run.status.value}: {run.model}"]
    if is_alarm:
        lines.append(f"Guard {run.guard}: {run.guard_text}")
    lines.append(reconcile(run.found, tally.counts))
    for what, counts in {"decisions": tally.decisions, **tally.reasons}.items():
        if counts:
            parts = sorted(counts.items(), key=lambda item: -item[1])
            lines.append(f"{what.capitalize()}: " + ", ".join(f"{count:,} {name}" for name, count in parts))
    if with_details:
        lines.append(f"Name: {show_text(run.name)}")
        if run.schedule:
            lines.append(f"Schedule: {show_text(run.schedule)}, night {run.night}")
        lines += [f"Folder: {show_text(source)}" for source in run.sources]
    lines.append(f"nightread report {run.id[:8]}")
    return title, "\n".join(lines)


def _send(settings: Settings, title: str, body: str, *, is_alarm: bool) -> None:
    apprise = _import_apprise()
    addresses = settings.notify_urls.get_secret_value().split()
    if not addresses:
        raise SettingsError("NIGHTREAD_NOTIFY_URLS is empty: set it to one or more addresses, such as json://HOST/PATH")
    failed = []
    for place, address in enumerate(addresses, 1):
        target = apprise.Apprise()
        if not target.add(address):
            raise SettingsError(
                f"NIGHTREAD_NOTIFY_URLS: address {place} of {len(addresses)} cannot be read; write it as apprise does, "
                "such as json://HOST/PATH, mailtos://USER:PASSWORD@HOST, slack:// or msteams://"
            )
        kind = apprise.NotifyType.WARNING if is_alarm else apprise.NotifyType.INFO
        if not target.notify(title=title, body=body, notify_type=kind, body_format=apprise.NotifyFormat.TEXT):
            failed.append(f"{place} of {len(addresses)}")
    if failed:
        raise NoticeFailed(
            f"a notice was not delivered to address {', '.join(failed)} of NIGHTREAD_NOTIFY_URLS; the log has the "
            "cause, and `nightread notify` tries again"
        )


def _import_apprise() -> Any:
    try:
        apprise = import_module("apprise")  # of the extra `notify`
    except ImportError:
        raise SettingsError("NIGHTREAD_NOTIFY_URLS needs the extra notify: pip install 'nightread[notify]'") from None
    logging.getLogger("apprise").setLevel(logging.WARNING)  # below it are addresses, which hold passwords
    return apprise
