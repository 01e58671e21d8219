"""Notices: the end of a run, told by mail, chat or webhook.

The text holds counts, reason codes and what a guard found. It holds no path, no name and no identifier of a patient
unless the settings ask for names and paths.
"""

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sqlalchemy import Engine

from db.deliveries import find_back_off, mark_failed, mark_sent
from db.engine import reading, write
from db.notices import claim_notice, find_untold, mark_told
from db.runs import RunInfo, find_run
from db.tallies import RunTally, read_tallies, reconcile
from nightread.errors import NoticeFailed, SettingsError
from nightread.failpoints import Point, failpoint
from nightread.settings import Settings
from nightread.text import show_text
from worker.guard_codes import QUIET
from worker.report.notice_child import open_address

_log = logging.getLogger(__name__)

#: What one address may take for all of its reply.
_LIMIT_S: Final = 30
#: Longer than that.
_LEASE_S: Final = 300.0
#: Lines of the log for one notice, and characters of each: an address may have its own words in them.
_MOST_LINES, _LONGEST_LINE = 5, 300
#: With a back-off that grows to an hour, the last one is a day after the first; then the end is no news any more.
_MAX_ATTEMPTS: Final = 32


@dataclass(frozen=True, slots=True)
class _Address:
    """One of NIGHTREAD_NOTIFY_URLS; it is named by its place, since the URL may hold a password."""

    place: int
    count: int
    url: str = field(repr=False)

    @property
    def key(self) -> str:
        """The destination of its deliveries."""
        return f"notice {self.place}"

    def __str__(self) -> str:
        return f"address {self.place} of {self.count} of NIGHTREAD_NOTIFY_URLS"


def notify_ended(engine: Engine, settings: Settings) -> int:
    """Tell of the runs that have ended since the last call; returns the number of notices that were taken.

    Each address is told at least once: a notice counts as sent after the address has taken it, and that of a process
    that dies before is sent again by another, once its lease is over. An address that does not take a notice gets it
    again, after a back-off, for a day.

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
    if not untold:
        return 0
    try:
        addresses = _open_addresses(settings)
    except SettingsError as error:
        _log.error("%s", error)
        return 0
    return sum(_tell(engine, settings, run_id, addresses) for run_id in untold)


def notify_run(engine: Engine, settings: Settings, run_id: str) -> None:
    """Tell of one run now, whatever was told before.

    Args:
        engine: the database.
        settings: where to, and what of.
        run_id: id of the run.

    Raises:
        SettingsError: no address is set, one cannot be read, or the extra `notify` is not installed.
        NoticeFailed: an address did not take it.
        UnknownRun: there is no such run.
    """
    addresses = _open_addresses(settings)
    run, tally = _read_run(engine, run_id)
    failed = [address for address in addresses if not _send(address, settings, run, tally)]
    if failed:
        raise NoticeFailed(
            f"a notice was not delivered to {', '.join(map(str, failed))}; the log has the cause, and "
            "`nightread notify` tries again"
        )


def _tell(engine: Engine, settings: Settings, run_id: str, addresses: Sequence[_Address]) -> int:
    """Tell the addresses of a run that have not taken its notice; returns how many of them did."""
    run, tally = _read_run(engine, run_id)
    if run.finished_at is None:
        return 0  # `retry` has opened it again
    if settings.notify_on == "guard" and run.guard in QUIET:
        addresses = []
    told = 0
    for address in addresses:
        claimed = write(engine, partial(claim_notice, run=run, destination=address.key, lease_s=_LEASE_S))
        if claimed is None:
            continue
        failpoint(Point.NOTIFY_BEFORE)
        is_taken = _send(address, settings, run, tally)
        failpoint(Point.NOTIFY_AFTER)
        if is_taken:
            write(engine, partial(mark_sent, delivery_id=claimed.id))
            told += 1
            continue
        back_off_s = find_back_off(claimed.attempts, _MAX_ATTEMPTS)
        again = "given up" if back_off_s is None else f"next attempt in {back_off_s:.0f} s"
        _log.error("a notice of run %s was not delivered to %s: %s", run.id[:8], address, again)
        write(engine, partial(mark_failed, delivery_id=claimed.id, error="not delivered", back_off_s=back_off_s))
    write(engine, partial(mark_told, run=run, destinations=[address.key for address in addresses]))
    return told


def _read_run(engine: Engine, run_id: str) -> tuple[RunInfo, RunTally]:
    with reading(engine) as connection:
        return find_run(connection, run_id), read_tallies(connection, [run_id])[run_id]


def write_notice(run: RunInfo, tally: RunTally, *, with_details: bool) -> tuple[str, str]:
    """Return title and text of a notice.

    Args:
        run: the run.
        tally: its counts.
        with_details: whether names and paths may be in it.
    """
    is_alarm = run.guard not in QUIET
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


def _open_addresses(settings: Settings) -> list[_Address]:
    urls = settings.notify_urls.get_secret_value().split()
    if not urls:
        raise SettingsError("NIGHTREAD_NOTIFY_URLS is empty: set it to one or more addresses, such as json://HOST/PATH")
    for place, url in enumerate(urls, 1):
        if open_address(url) is None:
            raise SettingsError(
                f"NIGHTREAD_NOTIFY_URLS: address {place} of {len(urls)} cannot be read; write it as apprise does, "
                "such as json://HOST/PATH, mailtos://USER:PASSWORD@HOST, slack:// or msteams://"
            )
    return [_Address(place, len(urls), url) for place, url in enumerate(urls, 1)]


def _send(address: _Address, settings: Settings, run: RunInfo, tally: RunTally) -> bool:
    """Tell one address of a run; returns whether it has taken the notice."""
    title, body = write_notice(run, tally, with_details=settings.notify_details)
    kind = "info" if run.guard in QUIET else "warning"
    child = subprocess.run(  # noqa: S603  # this very program
        [sys.executable, "-P", "-m", "worker.report.notice_child", str(_LIMIT_S)],
        input=json.dumps({"url": address.url, "title": title, "body": body, "kind": kind}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a traceback may hold the address
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if child.returncode == 0:
        _log.info("told %s of the end of run %s", address, run.id[:8])
        return True
    if child.returncode == -signal.SIGALRM:
        _log.warning("%s: its reply did not end within %d s", address, _LIMIT_S)
    for line in child.stdout.splitlines()[:_MOST_LINES]:
        _log.warning("%s: %s", address, show_text(line[:_LONGEST_LINE]))
    return False
