"""The end of a run is told to each address of the settings, and holds no name and no path unless asked."""

import json
import os
import subprocess
import sys

import pytest
from sqlalchemy import select, update

from db.deliveries import deliveries, find_back_off
from db.engine import reading, write
from db.tables import runs
from db.types import DeliveryStatus, RunStatus, ScanStatus, database_now
from nightread.errors import NoticeFailed, SettingsError
from nightread.settings import read_settings
from tests.db_factories import add_run, at_once, fetch_run
from tests.factories import ROOT
from tests.services import find_free_port, run_webhook
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


def read_deliveries(engine):
    with reading(engine) as connection:
        return connection.execute(select(deliveries).order_by(deliveries.c.id)).all()


def end_waiting(engine):
    """Let leases and back-off of all notices end."""
    write(engine, lambda connection: connection.execute(update(deliveries).values(not_before=database_now(-1))))


def notify_in_a_process(engine, settings, failpoint):
    """Tell as a worker does, in a process that a failpoint kills."""
    code = (
        "from db.engine import make_engine\nfrom nightread.settings import read_settings\n"
        "from worker.report.notice import notify_ended\nsettings = read_settings()\n"
        "notify_ended(make_engine(settings.database_url.get_secret_value()), settings)"
    )
    env = os.environ | {
        "NIGHTREAD_DATABASE_URL": engine.url.set(drivername=engine.dialect.name).render_as_string(False),
        "NIGHTREAD_NOTIFY_URLS": settings.notify_urls.get_secret_value(), "NIGHTREAD_FAILPOINT": failpoint,
    }  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, timeout=100, check=False).returncode


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


def test_what_was_not_delivered_is_tried_again_after_a_back_off(engine, night, settings, webhook, caplog):
    webhook.answer = 500
    assert notify_ended(engine, settings) == 0
    assert "was not delivered to address 1 of 1 of NIGHTREAD_NOTIFY_URLS: next attempt in 10 s" in caplog.text
    assert fetch_run(engine, night).notified_at is None
    assert notify_ended(engine, settings) == 0
    assert len(webhook.told) == 1, "it backs off"
    webhook.answer = 200
    end_waiting(engine)
    assert notify_ended(engine, settings) == 1
    assert fetch_run(engine, night).notified_at is not None
    webhook.answer = 500
    with pytest.raises(NoticeFailed, match="address 1 of 1"):
        notify_run(engine, settings, night)


def test_a_notice_is_given_up_after_a_day_of_attempts(engine, night, settings, webhook, caplog):
    assert sum(find_back_off(attempt, 32) for attempt in range(1, 32)) == pytest.approx(86_400, rel=0.1)
    webhook.answer = 500
    notify_ended(engine, settings)
    write(engine, lambda connection: connection.execute(update(deliveries).values(attempts=31)))
    end_waiting(engine)
    assert notify_ended(engine, settings) == 0
    assert caplog.text.endswith("given up\n")
    (row,) = read_deliveries(engine)
    assert (row.status, row.attempts, row.kind) == (DeliveryStatus.DEAD, 32, "notice")
    webhook.answer = 200
    end_waiting(engine)
    assert notify_ended(engine, settings) == 0
    assert fetch_run(engine, night).notified_at is None


def test_an_address_that_has_taken_a_notice_gets_it_once_though_another_does_not(engine, night, settings, webhook):
    with run_webhook() as away:
        away.answer = 503
        both = f"{settings.notify_urls.get_secret_value()} json://127.0.0.1:{away.server_port}/secret"
        settings = read_settings(notify_urls=both)
        assert notify_ended(engine, settings) == 1
        assert fetch_run(engine, night).notified_at is None
        away.answer = 200
        end_waiting(engine)
        assert notify_ended(engine, settings) == 1
        assert (len(webhook.told), len(away.told)) == (1, 2)
    assert fetch_run(engine, night).notified_at is not None
    assert "secret" not in str(read_deliveries(engine))


@pytest.mark.parametrize(("failpoint", "heard"), [("notify-before:kill", 0), ("notify-after:kill", 1)])
def test_the_notice_of_a_killed_process_is_sent_by_another(engine, night, settings, webhook, failpoint, heard):
    assert notify_in_a_process(engine, settings, failpoint) == -9
    assert len(webhook.told) == heard
    assert fetch_run(engine, night).notified_at is None, "nobody may be told of it yet"
    assert notify_ended(engine, settings) == 0, "its lease holds"
    end_waiting(engine)
    assert notify_ended(engine, settings) == 1
    assert len(webhook.told) == heard + 1, "at least once"
    assert fetch_run(engine, night).notified_at is not None


def test_a_run_that_ends_again_is_told_of_again(engine, night, settings, webhook):
    assert notify_ended(engine, settings) == 1
    again = update(runs).where(runs.c.id == night).values(notified_at=None, finished_at=database_now(1))
    write(engine, lambda connection: connection.execute(again))  # as `retry` and the end of its jobs do
    assert notify_ended(engine, settings) == 1
    assert len(webhook.told) == 2


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


@pytest.mark.parametrize("url", ["nonsense://hunter2", "slack://hunter2", "json://user:hunter2@[::1"])
def test_address_that_cannot_be_read_is_in_no_log(engine, night, caplog, url):
    with pytest.raises(SettingsError, match="address 1 of 1 cannot be read"):
        notify_run(engine, read_settings(notify_urls=url), night)
    assert "hunter2" not in caplog.text


def test_webhook_that_redirects_has_not_taken_a_notice(engine, night, settings, webhook):
    webhook.answer = 302
    with pytest.raises(NoticeFailed):
        notify_run(engine, settings, night)


def test_webhook_whose_reply_never_ends_has_not_taken_a_notice(engine, night, settings, webhook, monkeypatch, caplog):
    monkeypatch.setattr("worker.report.notice._LIMIT_S", 1)
    webhook.is_endless = True
    assert notify_ended(engine, settings) == 0
    assert "address 1 of 1 of NIGHTREAD_NOTIFY_URLS: its reply did not end within 1 s" in caplog.text
    assert read_deliveries(engine)[0].status is DeliveryStatus.WAITING


def test_log_has_the_cause_of_a_lost_connection_and_not_the_address(engine, night, caplog):
    with pytest.raises(NoticeFailed, match="the log has the cause"):
        notify_run(engine, read_settings(notify_urls=f"json://u:hunter2@127.0.0.1:{find_free_port()}/hunter2"), night)
    assert "cause: [Errno 111] Connection refused" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_cancelled_run_is_told_too(engine, night, settings, webhook):
    cancelled = update(runs).where(runs.c.id == night).values(status=RunStatus.CANCELLED)
    write(engine, lambda connection: connection.execute(cancelled))
    notify_ended(engine, settings)
    assert webhook.told[0]["title"] == "Nightread: run cancelled"
