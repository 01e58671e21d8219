from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.commands.schedule import _find_asked, add
from db.schedules import Schedule
from nightread.errors import SettingsError

ARCHIVE = {"source": "https://pacs.example/dicom-web", "spool": Path("/srv/fetched")}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "--folder PATH, or --from PLACE"),
        ({"source": ARCHIVE["source"]}, "--spool FOLDER go together"),
        ({"spool": ARCHIVE["spool"]}, "--spool FOLDER go together"),
        (ARCHIVE | {"folder": ["/scans"]}, "not both"),
        ({"folder": ["/scans"], "rate": 1.0}, "need --from"),
        ({"folder": ["/scans"], "only": ["pneumonia"]}, "need --to"),
        ({"folder": ["/scans"], "to": "nowhere"}, "is no DICOM application"),
        ({"folder": ["/scans"], "to": "PACS@10.0.0.5:104", "tls_key": Path("key.pem")}, "--tls-ca"),
        (ARCHIVE | {"source": "PACS@10.0.0.5"}, "is no DICOM application"),
    ],
)
def test_schedule_that_could_not_be_kept_is_refused(options, line):
    with pytest.raises(SettingsError, match=line):
        add("ward-a", at="05:30", settle=0.0, catch_up=1.0, **options)


@pytest.mark.parametrize("night", ["9999-12-31", "2026-02-29", "tonight"])
def test_night_that_no_calendar_has_is_refused(night):
    schedule = Schedule("ward-a", ["/scans"], "02:00", None, "Europe/Berlin", {}, "me@here")
    with pytest.raises(SettingsError, match="is no date"):
        _find_asked(schedule, night, datetime(2026, 11, 28, tzinfo=UTC))


def test_night_of_a_day_to_come_is_refused_and_the_one_of_today_is_not():
    """A mistyped year would take the night from the day on which it is due, and hide the last one in the list."""
    schedule = Schedule("ward-a", ["/scans"], "02:00", None, "Europe/Berlin", {}, "me@here")
    now = datetime(2026, 11, 28, 23, 30, tzinfo=UTC)  # in Berlin it is the 29th
    assert _find_asked(schedule, "2026-11-29", now).night == "2026-11-29"
    for night in ("2026-11-30", "2027-11-28"):
        with pytest.raises(SettingsError, match=f"--night {night} is in the future; .* up to 2026-11-29"):
            _find_asked(schedule, night, now)
