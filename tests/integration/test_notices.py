"""The end of a run is told once, to the addresses of the settings, and holds no name and no path unless asked."""

import json

import pytest
from sqlalchemy import update

from db.engine import write
from db.tables import runs
from db.types import RunStatus, ScanStatus, database_now
from nightread.errors import NoticeFailed, SettingsError
from nightread.settings import read_settings
from tests.db_factories import add_run, at_once, fetch_run
from tests.services import run_webhook
from tests.web_page import add_night
from worker.report.notice import notify_ended, notify_run

NAME = "Jane Doe 1950-01-01"


@pytest.fixture
def webhook():
    with run_webhook() as server:
        yield server


@pytest.fixture
def settings(webhook):
    return read_settings(notify_urls=f"json://127.0.0.1:{webhook.server_port}/hook")


@pytest.fixture
def night(engine):
    return add_night(engine, [0.5, 0.9, ScanStatus.REJECTED], name=NAME)


def trip(engine, run_id, guard="rejected"):
    write(engine, lambda connection: connection.execute(
        update(runs).where(runs.c.id == run_id).values(guards={}, guard=guard, guard_text="62 % are rejected")
    ))  # fmt: skip


def test_the_webhook_is_told_once_of_the_end_of_a_run(engine, night, settings, webhook):
    assert notify_ended(engine, settings) == 1
    assert notify_ended(engine, settings) == 0
    (told,) = webhook.told
    assert told["title"] == "Nightread: run finished"
    assert told["type"] == "info"
    assert "3 found = 2 scored + 1 rejected + 0 failed" in told["message"]
    assert "Rejected: 1 damaged" in told["message"]
    assert fetch_run(engine, night).notified_at is not None


def test_names_and_paths_are_told_only_if_asked(engine, night, settings, webhook):
    notify_ended(engine, settings)
    notify_run(engine, settings.model_copy(update={"notify_details": True}), night)
    without, with_details = (json.dumps(told) for told in webhook.told)
    assert "Jane" not in without
    assert "/scans" not in without
    assert NAME in with_details
    assert "/scans" in with_details


def test_a_guard_that_tripped_is_an_alarm(engine, night, settings, webhook):
    trip(engine, night)
    notify_ended(engine, settings)
    (told,) = webhook.told
    assert told["title"] == "Nightread: a night looks wrong (rejected)"
    assert told["type"] == "warning"
    assert "62 % are rejected" in told["message"]


def test_with_guard_only_runs_that_tripped_one_are_told(engine, night, settings, webhook):
    settings = settings.model_copy(update={"notify_on": "guard"})
    trip(engine, add_night(engine, [0.5]))
    assert notify_ended(engine, settings) == 1
    assert notify_ended(engine, settings) == 0
    assert webhook.told[0]["type"] == "warning"
    assert fetch_run(engine, night).notified_at is not None


def test_a_run_that_is_open_old_or_not_judged_yet_is_not_told(engine, settings, webhook):
    add_run(engine, 1)
    old, unjudged = add_night(engine, [0.5]), add_night(engine, [0.5])
    long_ago = update(runs).where(runs.c.id == old).values(finished_at=database_now(-100_000))
    write(engine, lambda connection: connection.execute(long_ago))
    write(engine, lambda connection: connection.execute(
        update(runs).where(runs.c.id == unjudged).values(guards={"max_rejected": 0.5})
    ))  # fmt: skip
    assert notify_ended(engine, settings) == 0
    assert webhook.told == []


def test_what_was_not_delivered_is_tried_again(engine, night, settings, webhook, caplog):
    webhook.answer = 500
    assert notify_ended(engine, settings) == 0
    assert "a notice was not delivered to address 1 of 1" in caplog.text
    assert fetch_run(engine, night).notified_at is None
    webhook.answer = 200
    assert notify_ended(engine, settings) == 1
    webhook.answer = 500
    with pytest.raises(NoticeFailed):
        notify_run(engine, settings, night)


def test_processes_that_tell_at_once_tell_once(engine, night, settings, webhook):
    assert sum(at_once([lambda: notify_ended(engine, settings)] * 4)) == 1
    assert len(webhook.told) == 1


def test_without_an_address_nobody_is_told(engine, night):
    assert notify_ended(engine, read_settings()) == 0
    assert fetch_run(engine, night).notified_at is None


@pytest.mark.parametrize(
    ("urls", "said"), [("", "is empty"), ("json://127.0.0.1 nonsense", "address 2 of 2 cannot be")]
)
def test_addresses_that_cannot_be_used_are_named_without_their_text(engine, night, urls, said):
    with pytest.raises(SettingsError, match=said) as refused:
        notify_run(engine, read_settings(notify_urls=urls), night)
    assert "nonsense" not in str(refused.value)


def test_a_cancelled_run_is_told_too(engine, night, settings, webhook):
    cancelled = update(runs).where(runs.c.id == night).values(status=RunStatus.CANCELLED)
    write(engine, lambda connection: connection.execute(cancelled))
    notify_ended(engine, settings)
    assert webhook.told[0]["title"] == "Nightread: run cancelled"
