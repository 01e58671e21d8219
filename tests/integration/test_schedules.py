"""Schedules: each night is started once, however many look; late, empty, failed and missed nights are told."""

import os
from datetime import UTC, datetime, timedelta

import kombu
import pytest
from sqlalchemy import select, update

from db.engine import reading, write
from db.runs import list_runs
from db.schedules import Schedule, add_schedule, claim_night, find_nights, list_schedules, remove_schedule
from db.tables import schedule_nights
from db.tables import schedules as table
from db.types import NightStatus, Priority
from nightread.errors import DatabaseError
from nightread.settings import read_settings
from tests.db_factories import at_once
from tests.program import make_environment, run
from tests.worker_factories import write_scans
from worker.errors import NothingToScore
from worker.runs import schedules
from worker.runs.enqueue import enqueue_run
from worker.runs.schedule_times import DueNight
from worker.runs.schedules import start_due_nights

ADDED = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_connection_outlives_a_test():
    yield
    kombu.pools.reset()


@pytest.fixture
def settings(redis_url):
    return read_settings(broker_url=redis_url, database_url="sqlite:///unused")


@pytest.fixture
def clock(monkeypatch):
    """The time that schedules see."""
    now = [ADDED]
    monkeypatch.setattr(schedules, "read_clock", lambda _: now[0])
    monkeypatch.setattr(schedules, "_AHEAD", timedelta.max)  # rows have the time of the database

    def go_to(text):
        now[0] = datetime.fromisoformat(text).replace(tzinfo=UTC)

    return go_to


def add(engine, folder, **fields):
    schedule = Schedule(**{
        "name": "ward-a", "folders": [f"{folder}/%Y-%m-%d"], "at_time": "02:00", "every_s": None,
        "timezone": "Europe/Berlin", "options": {}, "created_by": "me@here", **fields,
    })  # fmt: skip
    assert write(engine, lambda connection: add_schedule(connection, schedule))
    _set_added(engine)


def _set_added(engine):
    write(engine, lambda connection: connection.execute(update(table).values(created_at=ADDED)))


def nights(engine, name="ward-a"):
    with reading(engine) as connection:
        found = find_nights(connection, name, ADDED - timedelta(days=365))
    return {night: each.status.value for night, each in found.items()}


def runs(engine):
    with reading(engine) as connection:
        return list_runs(connection, 100)


def test_nights_are_started_when_they_are_due_and_once(engine, settings, clock, tmp_path):
    for day in ("27", "28"):
        write_scans(tmp_path / f"2026-11-{day}", 1)
    add(engine, tmp_path, options={"priority": "urgent", "settle_s": 60.0, "guards": {"max_rejected": "5%"}})
    clock("2026-11-28T00:59:59")
    assert start_due_nights(engine, settings) == 0
    clock("2026-11-28T01:00:00")
    assert [start_due_nights(engine, settings) for _ in range(3)] == [1, 0, 0]
    (run,) = runs(engine)
    assert (run.schedule, run.night, run.key, run.name) == (
        "ward-a", "2026-11-27", "ward-a/2026-11-27", "ward-a 2026-11-27",
    )  # fmt: skip
    assert (run.priority, run.settings["settle_s"], run.guards["max_rejected"]) == (Priority.URGENT, 60.0, "5%")
    assert run.guards["is_learned"]
    clock("2026-11-29T01:00:00")
    assert start_due_nights(engine, settings) == 1
    assert nights(engine) == {"2026-11-27": "started", "2026-11-28": "started"}


def test_schedule_that_is_added_again_over_another_folder_gets_a_run_of_its_own(engine, settings, clock, tmp_path):
    for ward in ("a", "b"):
        write_scans(tmp_path / ward / "2026-11-27", 1)
    for ward in ("a", "b", "b"):
        add(engine, tmp_path / ward)
        clock("2026-11-28T01:00:05")
        assert start_due_nights(engine, settings) == 1
        assert nights(engine) == {"2026-11-27": "started"}
        assert write(engine, lambda connection: remove_schedule(connection, "ward-a"))
    assert {run.key for run in runs(engine)} == {"ward-a/2026-11-27", "ward-a/2026-11-27/20261127T120000Z"}


@pytest.mark.parametrize("is_there", [True, False], ids=["empty", "missing"])
def test_night_that_a_clock_ahead_has_looked_for_is_started_when_it_is_due(
    engine, settings, clock, tmp_path, monkeypatch, is_there
):
    if is_there:
        (tmp_path / "2026-11-27").mkdir()
    add(engine, tmp_path)
    clock("2026-11-28T01:00:05")
    assert start_due_nights(engine, settings) == 0
    write_scans(tmp_path / "2026-11-27", 1)
    assert start_due_nights(engine, settings) == 0
    monkeypatch.setattr(schedules, "_AHEAD", timedelta(hours=1))
    later = update(schedule_nights).values(changed_at=datetime(2026, 11, 29, tzinfo=UTC))
    write(engine, lambda connection: connection.execute(later))
    assert start_due_nights(engine, settings) == 1
    assert nights(engine) == {"2026-11-27": "started"}


def test_of_many_that_look_at_once_one_starts_a_night(engine, settings, clock, tmp_path):
    write_scans(tmp_path / "2026-11-27", 2)
    add(engine, tmp_path)
    clock("2026-11-28T01:00:05")
    assert sum(at_once([lambda: start_due_nights(engine, settings)] * 4)) == 1
    assert len(runs(engine)) == 1


def test_a_process_that_dies_while_it_lists_is_replaced_and_the_night_has_one_run(
    engine, settings, clock, tmp_path, monkeypatch
):
    write_scans(tmp_path / "2026-11-27", 1)
    add(engine, tmp_path)
    clock("2026-11-28T01:00:05")
    monkeypatch.setattr(schedules, "LEASE_S", 0.0)

    def die(*_, **__):
        raise KeyboardInterrupt

    for name in ("end_night", "_enqueue"):  # after its run was made, and before
        with monkeypatch.context() as patch:
            patch.setattr(schedules, name, die)
            with pytest.raises(KeyboardInterrupt):
                start_due_nights(engine, settings)
        assert nights(engine) == {"2026-11-27": "starting"}
    assert start_due_nights(engine, settings) == 1
    assert nights(engine) == {"2026-11-27": "started"}
    assert len(runs(engine)) == 1


def test_nights_are_started_late_after_time_away_and_those_too_old_are_told(engine, settings, clock, tmp_path, caplog):
    for day in ("27", "28", "29"):
        write_scans(tmp_path / f"2026-11-{day}", 1)
    add(engine, tmp_path, options={"catch_up_s": 36 * 3600.0})
    clock("2026-11-30T12:00:00")
    assert start_due_nights(engine, settings) == 2
    assert nights(engine) == {"2026-11-27": "missed", "2026-11-28": "started", "2026-11-29": "started"}
    assert "the night 2026-11-27 of schedule ward-a was missed" in caplog.text
    caplog.clear()
    assert start_due_nights(engine, settings) == 0
    assert caplog.text == ""


def test_a_folder_that_is_away_is_tried_again_and_an_empty_one_is_told(engine, settings, clock, tmp_path, monkeypatch):
    (tmp_path / "2026-11-28").mkdir()
    add(engine, tmp_path)
    clock("2026-11-28T01:00:05")
    monkeypatch.setattr(schedules, "_RETRY_S", 0.0)
    assert start_due_nights(engine, settings) == 0
    assert nights(engine) == {"2026-11-27": "failed"}
    write_scans(tmp_path / "2026-11-27", 1)
    assert start_due_nights(engine, settings) == 1
    clock("2026-11-29T01:00:05")
    assert start_due_nights(engine, settings) == 0
    assert nights(engine) == {"2026-11-27": "started", "2026-11-28": "empty"}
    assert [(run.night, run.found, run.guard) for run in runs(engine)] == [
        ("2026-11-28", 0, "empty"), ("2026-11-27", 1, None),
    ]  # fmt: skip


def test_a_watch_folder_is_a_schedule_at_intervals_that_takes_what_is_new(engine, settings, clock, tmp_path):
    folder = write_scans(tmp_path / "in", 2)
    add(engine, tmp_path, folders=[str(folder)], at_time=None, every_s=300, options={"only_new": True})
    clock("2026-11-28T01:01:00")
    assert [start_due_nights(engine, settings) for _ in range(2)] == [1, 0]
    clock("2026-11-28T01:06:00")
    assert start_due_nights(engine, settings) == 1  # nothing new: no run
    write_scans(folder / "more", 1)
    clock("2026-11-28T03:00:00")  # slots that passed meanwhile are not made up for
    assert start_due_nights(engine, settings) == 1
    assert [run.found for run in runs(engine)] == [1, 2]
    assert set(nights(engine).values()) == {"started"}


def test_a_removed_schedule_starts_nothing_and_its_runs_stay(engine, settings, clock, tmp_path):
    write_scans(tmp_path / "2026-11-27", 1)
    add(engine, tmp_path)
    clock("2026-11-28T01:00:05")
    start_due_nights(engine, settings)
    assert write(engine, lambda connection: remove_schedule(connection, "ward-a"))
    clock("2026-11-29T01:00:05")
    assert start_due_nights(engine, settings) == 0
    with reading(engine) as connection:
        assert list_schedules(connection) == []
    assert (len(runs(engine)), nights(engine)) == (1, {})


def test_a_broker_that_is_away_delays_a_night_and_loses_nothing(engine, clock, tmp_path):
    write_scans(tmp_path / "2026-11-27", 1)
    add(engine, tmp_path)
    clock("2026-11-28T01:00:05")
    away = read_settings(broker_url="redis://127.0.0.1:1/0", database_url="sqlite:///unused")
    assert start_due_nights(engine, away) == 1
    (run,) = runs(engine)
    with reading(engine) as connection:
        (night,) = find_nights(connection, "ward-a", ADDED).values()
    assert (night.status, night.run_id) == (NightStatus.STARTED, run.id)
    assert os.environ.get("NIGHTREAD_BROKER_URL") is None


def test_night_that_is_fetched_is_left_to_processes_that_can(engine, settings, clock, tmp_path):
    add(engine, tmp_path, options={"fetch": {"source": "PACS@127.0.0.1:104"}})
    clock("2026-11-28T01:00:05")
    assert start_due_nights(engine, settings) == 0
    assert nights(engine) == {}
    asked, answers = [], [DatabaseError("away"), NothingToScore("the archive has nothing"), "a" * 32]

    def fetch(_engine, _settings, schedule, request, renew):
        renew()
        asked.append((schedule.name, request.schedule, request.night, request.guards.is_learned))
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert start_due_nights(engine, settings, fetch) == 0
    assert nights(engine) == {"2026-11-27": "failed"}
    assert start_due_nights(engine, settings, fetch) == 0, "it is tried again in five minutes"
    write(engine, lambda connection: connection.execute(update(schedule_nights).values(not_before=None)))
    assert start_due_nights(engine, settings, fetch) == 0
    assert nights(engine) == {"2026-11-27": "empty"}
    clock("2026-11-29T01:00:05")
    assert start_due_nights(engine, settings, fetch) == 1
    assert asked == [("ward-a", "ward-a", f"2026-11-{day}", True) for day in (27, 27, 28)]


def test_claim_of_a_night_that_takes_long_is_renewed(engine, settings, clock, tmp_path, monkeypatch):
    add(engine, tmp_path, options={"fetch": {"source": "PACS@127.0.0.1:104"}})
    clock("2026-11-28T01:00:05")

    def fetch(_engine, _settings, _schedule, _request, renew):
        write(engine, lambda connection: connection.execute(update(schedule_nights).values(not_before=ADDED)))
        monkeypatch.setattr(schedules, "LEASE_S", 0.0)  # so that it is due to be renewed
        renew()
        monkeypatch.setattr(schedules, "LEASE_S", 900.0)
        renew()
        with reading(engine) as connection:
            renewed.append(connection.execute(select(schedule_nights.c.not_before)).scalar())
        return "a" * 32

    renewed = []
    assert start_due_nights(engine, settings, fetch) == 1
    assert renewed[0] > ADDED


def test_schedule_that_fails_stops_no_other(engine, settings, clock, tmp_path, monkeypatch, caplog):
    for ward in ("a", "b", "c"):
        write_scans(tmp_path / ward, 1)
        add(engine, tmp_path, name=f"ward-{ward}", folders=[str(tmp_path / ward)])
    write(engine, lambda connection: connection.execute(
        update(table).where(table.c.name == "ward-a").values(timezone="Of/Another_Machine")
    ))  # fmt: skip

    def enqueue(engine, settings, folders, **given):
        if folders == [tmp_path / "b"]:
            raise ValueError("unforeseen")
        return enqueue_run(engine, settings, folders, **given)

    monkeypatch.setattr(schedules, "enqueue_run", enqueue)
    clock("2026-11-28T01:00:05")
    assert start_due_nights(engine, settings) == 1
    assert "ward-a: the time zone" in caplog.text
    assert [nights(engine, f"ward-{ward}") for ward in "abc"] == [
        {}, {"2026-11-27": "failed"}, {"2026-11-27": "started"},
    ]  # fmt: skip


def test_night_of_a_schedule_that_was_removed_meanwhile_is_not_started(engine, settings, tmp_path):
    write_scans(tmp_path / "scans", 1)
    removed = Schedule("gone", [str(tmp_path / "scans")], "02:00", None, "UTC", {}, "me@here")
    due = DueNight("2026-11-27", ADDED)
    assert not schedules.start_night(engine, settings, removed, due)
    assert runs(engine) == []


def test_night_that_is_empty_before_it_is_due_is_started_when_it_is(engine, settings, clock, tmp_path):
    (tmp_path / "2026-11-27").mkdir()
    add(engine, tmp_path)
    due = DueNight("2026-11-27", datetime(2026, 11, 28, 1, tzinfo=UTC))
    with reading(engine) as connection:
        (schedule,) = list_schedules(connection)
    clock("2026-11-27T14:00:00")
    assert not schedules.start_night(engine, settings, schedule, due, asked=True)
    write_scans(tmp_path / "2026-11-27", 1)
    write(engine, lambda connection: connection.execute(update(schedule_nights).values(not_before=due.due_at)))
    clock("2026-11-28T01:00:05")
    assert start_due_nights(engine, settings) == 1
    assert nights(engine) == {"2026-11-27": "started"}


def test_run_of_a_night_that_another_process_starts_says_so(sqlite_engine, sqlite_url, redis_url, tmp_path):
    add(sqlite_engine, tmp_path)
    claimed = {"schedule": "ward-a", "night": "2026-11-28", "due_at": ADDED + timedelta(days=2)}
    assert write(sqlite_engine, lambda connection: claim_night(connection, **claimed, holder="icu:7", lease_s=60))
    env = make_environment(tmp_path, database_url=sqlite_url, broker_url=redis_url)
    said = run("schedule", "run", "ward-a", "--night", "2026-11-28", env=env, cwd=tmp_path, expect=1).stderr
    assert "another process is starting the night 2026-11-28 of ward-a" in said
