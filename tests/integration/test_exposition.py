"""Metrics add up to the rows, and Prometheus can read them."""

import re
import socket
import urllib.request
from datetime import UTC, datetime
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, func, insert, select, update

from db.cancellation import cancel_run
from db.deliveries import NewDelivery, add_deliveries, claim_due, mark_failed, mark_sent
from db.engine import make_engine, reading, write
from db.job_results import JobStages, store_results
from db.metrics import RATE_WINDOW_S, read_metrics
from db.tables import jobs, runs, scans, schedule_nights, schedules, tallies
from db.types import NightStatus, ScanStatus, database_now
from nightread.errors import SettingsError
from tests.db_factories import add_run, claim, expire_lease, job_ids, shift_time
from tests.factories import ROOT
from tests.web_page import add_night
from worker import exposition
from worker.exposition import LedgerCollector, serve_metrics, write_metrics


def read(engine):
    """Return the samples of the text by name and labels."""
    return {
        (sample.name.removeprefix("nightread_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(write_metrics(engine))
        for sample in family.samples
    }


def count_rows(engine):
    query = select(scans.c.status, func.coalesce(scans.c.reason_code, ""), func.count())
    with reading(engine) as connection:
        rows = connection.execute(query.group_by(scans.c.status, scans.c.reason_code)).all()
    return {(status.value, reason): count for status, reason, count in rows}


@pytest.mark.parametrize("has_tally", [True, False])
def test_scans_by_status_and_reason_add_up_to_the_rows(engine, has_tally):
    add_night(engine, [0.5, 0.9, ScanStatus.REJECTED, ScanStatus.FAILED, None])
    cancel_run(engine, add_run(engine, 3), "cancelled", "x")
    add_run(engine, 2)
    if not has_tally:
        write(engine, lambda connection: connection.execute(delete(tallies)))
    found = read(engine)
    told = {key[1:]: value for key, value in found.items() if key[0] == "scans" and value}
    with_reason_first = {(reason, status): count for (status, reason), count in count_rows(engine).items()}
    assert told == with_reason_first


@pytest.mark.parametrize("sent", [b"", b"GET /metrics", b"\xff\r\n\r\n"])
def test_a_connection_that_asks_for_nothing_is_ended_without_a_word(sqlite_engine, monkeypatch, capfd, sent):
    monkeypatch.setattr(exposition, "READ_S", 0.1)
    port = serve_metrics(LedgerCollector(sqlite_engine), "127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(sent)
        while connection.recv(65_536):
            pass
    assert "Traceback" not in capfd.readouterr().err


def test_jobs_are_told_by_what_they_wait_for(engine):
    run_id = add_run(engine, 5, job_size=1)
    due, leased, expired, later, old = job_ids(engine, run_id)
    claim(engine, leased)
    claim(engine, expired)
    expire_lease(engine, expired)
    shift_time(engine, later, "not_before", 100)
    shift_time(engine, old, "created_at", -1000)
    found = read(engine)
    states = {state: found["jobs", state] for state in ("due", "backoff", "leased", "expired")}
    assert states == {"due": 2, "backoff": 1, "leased": 1, "expired": 1}
    assert found["jobs_due",] == 3
    assert 1000 <= found["oldest_due_job_seconds",] < 1100
    assert found["workers",] == 1
    assert found["job_attempts",] == 2
    assert due


def test_the_rate_is_that_of_the_last_minutes(engine):
    add_night(engine, [0.5, 0.9, ScanStatus.REJECTED])
    assert read(engine)["scans_per_second",] == pytest.approx(3 / RATE_WINDOW_S)
    long_ago = update(jobs).values(finished_at=database_now(-RATE_WINDOW_S - 1))
    write(engine, lambda connection: connection.execute(long_ago))
    assert read(engine)["scans_per_second",] == 0


def test_stages_and_batches_are_the_sums_of_the_jobs(engine):
    for seconds in (0.5, 0.25):
        held = claim(engine, job_ids(engine, add_run(engine, 1))[0])
        stages = JobStages({"read": seconds, "decode": 2 * seconds}, batches=2.0, batched_scans=5)
        write(engine, partial(store_results, claim=held, outcomes=[], new_predictions=[], stages=stages))
    found = read(engine)
    assert [found["job_stage_seconds", stage] for stage in ("read", "decode", "infer")] == [0.75, 1.5, 0]
    assert 0 < found["job_stage_seconds", "commit"] < 60
    assert (found["job_batches",], found["job_batched_scans",]) == (4, 10)


def test_the_last_success_of_a_schedule_is_a_run_that_finished_and_tripped_no_guard(engine):
    good = add_night(engine, [0.5])
    bad = add_night(engine, [0.5])
    ended = datetime(2026, 11, 28, 4, tzinfo=UTC)

    def prepare(connection):
        for name in ("ward-a", "ward-b"):
            connection.execute(
                insert(schedules).values(
                    name=name, folders=["/scans"], at_time="02:00", timezone="UTC", options={}, created_by="a@b",
                    created_at=database_now(),
                )
            )  # fmt: skip
        for night, run_id in (("2026-11-28", good), ("2026-11-29", bad)):
            connection.execute(
                insert(schedule_nights).values(
                    schedule="ward-a", night=night, due_at=ended, status=NightStatus.STARTED, run_id=run_id,
                    attempts=1, changed_at=ended,
                )
            )  # fmt: skip
        connection.execute(update(runs).where(runs.c.id == good).values(finished_at=ended))
        connection.execute(update(runs).where(runs.c.id == bad).values(guard="max-rejected"))

    write(engine, prepare)
    found = read(engine)
    assert found["schedule_last_success_timestamp_seconds", "ward-a"] == ended.timestamp()
    assert found["schedule_last_success_timestamp_seconds", "ward-b"] == 0
    assert found["schedule_nights", "ward-a", "started"] == 2
    assert {1.0} == {found.get(("runs", "max-rejected", "finished")), found.get(("runs", "", "finished"))}


def test_deliveries_that_were_not_made_are_counted(engine):
    new = [NewDelivery(f"2.25.{number}", "1.2", "report") for number in range(3)]
    run_id = add_night(engine, [0.5])

    def add(connection):
        add_deliveries(connection, run_id, "PACS@127.0.0.1:104", new)
        for number, done in enumerate(
            claim_due(connection, "PACS@127.0.0.1:104", [one.instance_uid for one in new], 9)
        ):
            if number:
                mark_failed(connection, done.id, "refused", None)
            else:
                mark_sent(connection, done.id)

    assert read(engine)["unsent_deliveries", "dead"] == 0
    write(engine, add)
    found = read(engine)
    assert (found["unsent_deliveries", "waiting"], found["unsent_deliveries", "dead"]) == (0, 2)


def test_a_database_that_is_away_is_told_and_nothing_else():
    (only,) = read(make_engine("postgresql://nobody@127.0.0.1:1/none")).items()
    assert only == (("database_up",), 0.0)


def test_the_server_answers_each_scrape_from_the_database(engine):
    port = serve_metrics(LedgerCollector(engine), "127.0.0.1", 0)

    def scrape():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return answer.read().decode()

    assert 'nightread_scans{reason="",status="queued"} 0.0' in scrape()
    add_run(engine, 2, name="ward of Jane Doe")
    second = scrape()
    assert 'nightread_scans{reason="",status="queued"} 2.0' in second
    assert "Jane" not in second
    assert "/scans" not in second
    with pytest.raises(SettingsError, match=f"metrics cannot be served at 127.0.0.1:{port}: Address already in use"):
        serve_metrics(LedgerCollector(engine), "127.0.0.1", port)


@pytest.mark.parametrize("file", ["alerts.yml", "dashboard.json"])
def test_rules_and_dashboard_name_metrics_that_exist(sqlite_engine, file):
    with reading(sqlite_engine) as connection:
        served = {"nightread_database_up"} | {f"nightread_{metric.name}" for metric in read_metrics(connection)}
    named = set(re.findall(r"\bnightread_\w+", (ROOT / "deploy/monitoring" / file).read_text()))
    assert named
    assert named <= served
