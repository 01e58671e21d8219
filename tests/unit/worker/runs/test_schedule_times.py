"""When nights are due: by the clocks of a zone, once each, whatever the clocks do."""

import itertools
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from nightread.errors import SettingsError
from worker.runs.schedule_times import (
    check_folder,
    find_date,
    find_due,
    find_moment,
    find_slot,
    find_timezone,
    name_night,
    read_time,
)

BERLIN = ZoneInfo("Europe/Berlin")


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(at, after, until, zone=BERLIN):
    return [(each.night, f"{each.due_at:%m-%d %H:%M}") for each in find_due(at, zone, utc(after), utc(until))]


def test_a_night_is_named_after_the_day_on_whose_evening_it_begins():
    assert due("02:00", "2026-11-27T12:00", "2026-11-29T12:00") == [
        ("2026-11-27", "11-28 01:00"), ("2026-11-28", "11-29 01:00"),
    ]  # fmt: skip
    assert due("22:30", "2026-11-28T12:00", "2026-11-29T12:00") == [("2026-11-28", "11-28 21:30")]
    assert [name_night(utc(f"2026-11-29T{hour}:30"), BERLIN) for hour in ("01", "10", "11")] == [
        "2026-11-28", "2026-11-28", "2026-11-29",
    ]  # fmt: skip


def test_the_moment_itself_is_due_and_the_one_looked_from_is_not():
    assert due("02:00", "2026-11-29T01:00", "2026-11-30T01:00") == [("2026-11-29", "11-30 01:00")]


@pytest.mark.parametrize(
    ("zone", "day", "at", "instant"),
    [
        ("Europe/Berlin", "2026-03-29", "01:59", "2026-03-29T00:59"),
        ("Europe/Berlin", "2026-03-29", "02:00", "2026-03-29T01:00"),  # skipped: at the jump to 03:00
        ("Europe/Berlin", "2026-03-29", "02:59", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-03-29", "03:00", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-10-25", "02:30", "2026-10-25T00:30"),  # twice: the first time
        ("America/New_York", "2026-03-08", "02:30", "2026-03-08T07:00"),
        ("Australia/Lord_Howe", "2026-10-04", "02:15", "2026-10-03T15:30"),  # a jump of half an hour
        ("Asia/Kathmandu", "2026-11-29", "02:00", "2026-11-28T20:15"),
    ],
)
def test_a_time_that_the_clocks_skip_or_show_twice_is_one_moment(zone, day, at, instant):
    assert find_moment(date.fromisoformat(day), read_time(at), ZoneInfo(zone)) == utc(instant)


@pytest.mark.parametrize("at", ["00:00", "02:30", "03:00", "11:59", "12:00", "23:59"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"])
def test_each_night_of_a_year_is_due_once_however_often_one_looks(at, zone):
    moment, found = utc("2026-01-01T00:00"), []
    while moment < utc("2027-01-01T00:00"):
        found += find_due(at, ZoneInfo(zone), moment, moment + timedelta(hours=7, minutes=13))
        moment += timedelta(hours=7, minutes=13)
    nights = [each.night for each in found]
    assert nights == sorted(set(nights))
    assert len(nights) in {365, 366}
    assert all(
        (date.fromisoformat(later) - date.fromisoformat(earlier)).days == 1
        for earlier, later in itertools.pairwise(nights)
    )


def test_slots_of_an_interval_are_the_same_for_every_process():
    slots = [find_slot(300, utc("2026-11-29T02:04:59") + timedelta(seconds=second)) for second in (0, 1, 2, 300)]
    assert [slot.night for slot in slots] == [
        "2026-11-29T02:00:00Z", "2026-11-29T02:05:00Z", "2026-11-29T02:05:00Z", "2026-11-29T02:05:00Z",
    ]  # fmt: skip
    assert find_date("2026-11-29T02:05:00Z", BERLIN) == date(2026, 11, 28)
    assert find_date("2026-11-28", BERLIN) == date(2026, 11, 28)


def test_wrong_times_and_zones_are_told():
    for text in ("2", "24:00", "02:00:00", "2 pm"):
        with pytest.raises(SettingsError, match="HH:MM"):
            read_time(text)
    for zone in ("Berlin", "../../etc/passwd", ""):
        with pytest.raises(SettingsError, match="Europe/Berlin"):
            find_timezone(zone)
    assert read_time("02:00") == time(2)


@pytest.mark.parametrize(
    "folder", ["/scans/%Y-%m-%d", "/scans/100%%/%-d", "/scans/%%H", "/scans/Träger", "s3://b/a%%20b"]
)
def test_folder_that_a_date_can_be_written_into_is_kept(folder):
    check_folder(folder)


@pytest.mark.parametrize(
    "folder", ["/scans/100%", "/scans/%H", "/scans/%Q", "/scans/%%%", "/scans/a%20b", "/scans/\udcff"]
)
def test_folder_that_would_become_another_is_refused(folder):
    with pytest.raises(SettingsError, match=r"no part of a date|no UTF-8"):
        check_folder(folder)
