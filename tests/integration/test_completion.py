"""What the shell offers comes from the database, and a database that is not there offers nothing."""

import pytest

from cli.completion import complete_runs, complete_schedules
from db.engine import write
from db.schedules import Schedule, add_schedule
from tests.db_factories import add_run


@pytest.fixture
def _settings(engine, monkeypatch):
    monkeypatch.setenv("NIGHTREAD_DATABASE_URL", engine.url.set(drivername=engine.dialect.name).render_as_string(False))


@pytest.mark.usefixtures("_settings")
def test_schedules_and_runs_are_offered_by_their_beginning(engine):
    for name, at_time, every_s in (("ward-a", "02:00", None), ("ward-b", None, 300), ("inbox", None, 60)):
        schedule = Schedule(name, ["/scans"], at_time, every_s, "Europe/Berlin", {}, "me@here")
        assert write(engine, lambda connection, schedule=schedule: add_schedule(connection, schedule))
    add_run(engine, 3, name="ward-a 2026-11-28")
    assert complete_schedules("ward") == [("ward-a", "at 02:00 Europe/Berlin"), ("ward-b", "every 300 s")]
    assert complete_runs("ward") == [("ward-a 2026-11-28", "queued, 3 scans")]


def test_a_database_that_is_not_there_offers_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("NIGHTREAD_DATABASE_URL", f"sqlite:///{tmp_path / 'none.db'}")
    assert complete_schedules("") == []
    assert list(tmp_path.iterdir()) == []
