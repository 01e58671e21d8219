"""When the nights of a schedule are due, by the clocks of its time zone.

A night is named after the day on whose evening it begins: at 02:00 on the 29th it is the night of the 28th. Clocks
that are put forward skip some times, and then the night is due at the moment of the jump. Clocks that are put back show
some times twice, and then it is due the first time. Either way each night is due once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nightread.errors import WrongValue

#: A night begins at noon.
_NOON: Final = time(12)
_DAY: Final = timedelta(days=1)
_MINUTE: Final = timedelta(minutes=1)
#: What `strftime` writes of a date, and not of a time of day, which a night does not have.
_DATE_PATTERN: Final = re.compile(r"%(?:-?[aAbBCdDeFgGhjmuUVwWyY]|%)")


@dataclass(frozen=True, slots=True)
class DueNight:
    """A night and the moment, in UTC, at which it is due."""

    night: str
    due_at: datetime


def find_timezone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        WrongValue: this machine does not know it.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise WrongValue(
            f"the time zone {name!r} is not known here; write a name such as Europe/Berlin or UTC, and install the "
            "package tzdata where there are none"
        ) from None


def read_time(text: str) -> time:
    """Return a time of day such as "02:00".

    Raises:
        WrongValue: it is none.
    """
    try:
        return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007  # a time of day
    except ValueError:
        raise WrongValue(f"{text!r} is no time of day; write HH:MM, such as 02:00") from None


def check_folder(folder: str) -> None:
    """Check that the date of a night can be written into the name of a schedule's folder.

    Raises:
        WrongValue: it holds bytes that are no UTF-8, or a pattern that stands for no part of a date.
    """
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise WrongValue("--folder holds bytes that are no UTF-8; rename the folder, or name one above it") from None
    _, sign, rest = _DATE_PATTERN.sub("", folder).partition("%")
    if sign:
        raise WrongValue(
            f"--folder {folder!r}: {sign + rest[:1]!r} stands for no part of a date; write patterns such as %Y, %m and "
            "%d, and %% for a per cent sign"
        )


def find_due(at: str, zone: ZoneInfo, after: datetime, until: datetime) -> Iterator[DueNight]:
    """Yield the nights that are due after a moment and until another, in their order.

    Args:
        at: time of day, HH:MM.
        zone: whose clocks show it.
        after: the first moment, not included.
        until: the last moment, included.
    """
    moment = read_time(at)
    day = after.astimezone(zone).date() - _DAY
    while day <= until.astimezone(zone).date():
        due_at = find_moment(day, moment, zone)
        if after < due_at <= until:
            yield DueNight((day if moment >= _NOON else day - _DAY).isoformat(), due_at)
        day += _DAY


def find_slot(every_s: int, now: datetime) -> DueNight:
    """Return the newest multiple of an interval, which is a night of its own for its schedule."""
    due_at = datetime.fromtimestamp(now.timestamp() // every_s * every_s, UTC)
    return DueNight(due_at.strftime("%Y-%m-%dT%H:%M:%SZ"), due_at)


def name_night(now: datetime, zone: ZoneInfo) -> str:
    """Return the night of a moment: the day on whose evening it begins."""
    local = now.astimezone(zone)
    return (local.date() if local.time() >= _NOON else local.date() - _DAY).isoformat()


def find_date(night: str, zone: ZoneInfo) -> date:
    """Return the date for the folders of a night or of a slot."""
    if "T" not in night:
        return date.fromisoformat(night)
    return date.fromisoformat(name_night(datetime.fromisoformat(night), zone))


def find_moment(day: date, moment: time, zone: ZoneInfo) -> datetime:
    """Return the first instant at which the clocks of a zone show a time on a day, or at which they skip it; in UTC."""
    local = datetime.combine(day, moment, zone)
    shown = local.astimezone(UTC)
    if shown.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return shown
    # Skipped: the clocks jump between the two instants that the time would be by the offsets before and after.
    offset = shown.astimezone(zone).utcoffset()
    instant = local.replace(fold=1).astimezone(UTC)
    while instant.astimezone(zone).utcoffset() != offset:
        instant += _MINUTE
    return instant
