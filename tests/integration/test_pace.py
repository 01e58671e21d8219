"""What `status` says of an open run: rate, place in the queue, workers and an estimate of the end."""

import os
from datetime import UTC, datetime
from functools import partial

import pytest
from sqlalchemy import select, update

from db.cancellation import cancel_run
from db.engine import read_clock, reading, write
from db.job_results import store_results
from db.jobs import release_job
from db.pace import PACE_WINDOW_S, find_pace
from db.runs import find_run, retry_run
from db.tables import jobs, runs
from db.types import Priority
from tests.db_factories import add_run, claim, job_ids, new_prediction, open_scans, scored
from tests.program import last_json, make_environment, run


def pace_of(engine, run_id):
    with reading(engine) as connection:
        return find_pace(connection, find_run(connection, run_id))


def end_job(engine, job_id):
    held = claim(engine, job_id)
    found = open_scans(engine, job_id)
    rows = [new_prediction(scan.id) for scan in found]
    assert write(engine, lambda connection: store_results(connection, held, [scored(scan) for scan in found], rows))


def test_the_queue_is_told_by_class_and_then_by_age(engine):
    bulk = add_run(engine, 5, priority=Priority.BULK)
    first, second = add_run(engine, 10), add_run(engine, 20)
    urgent = add_run(engine, 1, priority=Priority.URGENT)
    add_run(engine, 100, embedded=True)
    found = {name: pace_of(engine, name) for name in (urgent, first, second, bulk)}
    assert [(pace.place, pace.before) for pace in found.values()] == [(1, 0), (2, 1), (3, 11), (4, 31)]
    assert {pace.runs for pace in found.values()} == {4}
    assert {(pace.rate, pace.left_s, pace.ends_at) for pace in found.values()} == {(0.0, None, None)}


def test_the_end_follows_from_the_rate_of_the_last_minute(engine):
    begun, waiting = add_run(engine, 30, job_size=10), add_run(engine, 12)
    for done in job_ids(engine, begun)[:1]:
        end_job(engine, done)
    claim(engine, job_ids(engine, begun)[1], "icu:7")
    pace = pace_of(engine, begun)
    assert 10 / PACE_WINDOW_S < pace.rate <= 10  # the run is younger than a minute
    assert pace.left_s == pytest.approx(20 / pace.rate)
    assert pace.workers == ["icu:7"]
    behind = pace_of(engine, waiting)
    assert (behind.rate, behind.before, behind.workers) == (0.0, 20, [])
    assert behind.left_s == pytest.approx((20 + 12) / (10 / PACE_WINDOW_S))


def test_the_minute_of_a_run_that_is_retried_begins_with_the_retry(engine):
    run_id = add_run(engine, 30, job_size=10)
    cancel_run(engine, run_id, "cancelled", "by hand")
    with engine.begin() as connection:
        for table in (runs, jobs):
            connection.execute(update(table).values(created_at=datetime(2020, 1, 1, tzinfo=UTC)))
        connection.execute(update(jobs).values(finished_at=datetime(2020, 1, 2, tzinfo=UTC)))
    write(engine, partial(retry_run, run_id=run_id, job_size=10, embedded=False, settings={}, owner=None))
    with reading(engine) as connection:
        queued = connection.execute(select(jobs.c.id).where(jobs.c.run_id == run_id, jobs.c.status == "queued"))
        first, *_ = queued.scalars()
    end_job(engine, first)
    assert 10 / PACE_WINDOW_S < pace_of(engine, run_id).rate <= 10


def test_scans_that_are_put_off_are_told_with_the_time_of_the_next_try(engine):
    run_id = add_run(engine, 30, job_size=10)
    first, second, _ = job_ids(engine, run_id)
    assert (pace_of(engine, run_id).waiting, pace_of(engine, run_id).next_try_at) == (0, None)
    for job, wait_s in ((first, 300), (second, 60)):
        held = claim(engine, job)
        write(engine, partial(release_job, claim=held, retry_in_s=wait_s, is_crash=False))
    pace = pace_of(engine, run_id)
    assert pace.waiting == 20
    with reading(engine) as connection:
        assert 50 < (pace.next_try_at - read_clock(connection)).total_seconds() <= 60


def test_an_embedded_run_waits_in_no_queue(engine):
    add_run(engine, 5)
    pace = pace_of(engine, add_run(engine, 2, embedded=True))
    assert (pace.place, pace.before, pace.left_s) == (None, 0, None)


def test_status_says_it_to_people_and_programs(sqlite_engine, sqlite_url, tmp_path):
    env = make_environment(tmp_path, database_url=sqlite_url) | {"TZ": "UTC"}
    begun = add_run(sqlite_engine, 200, job_size=20)
    add_run(sqlite_engine, 3, name="ward-b")
    done, held, *_ = job_ids(sqlite_engine, begun)
    end_job(sqlite_engine, done)
    claim(sqlite_engine, held, f"icu-{os.getpid()}:7")
    put_off = claim(sqlite_engine, job_ids(sqlite_engine, begun)[2])
    write(sqlite_engine, partial(release_job, claim=put_off, retry_in_s=90, is_crash=False))
    text = run("status", begun, env=env, cwd=tmp_path).stdout
    assert "scans/s; may end at 20" in text
    assert "place 1 of 2 in the queue, after 0 scans of other runs" in text
    assert "20 scans wait for the next try, at 20" in text
    assert f"worker icu-{os.getpid()}:7" in text
    waiting = run("status", "ward-b", env=env, cwd=tmp_path).stdout
    assert "last minute: none of its scans was scored; may end at" in waiting
    assert "no worker is at it" in waiting
    told = last_json(run("status", "ward-b", "--json", env=env, cwd=tmp_path))
    assert (told["queue_place"], told["queue_runs"], told["queue_scans_before"]) == (2, 2, 180)
    assert (told["workers"], told["worker_names"], told["scans_per_second_last_minute"]) == (0, [], 0.0)
    assert told["seconds_left"] > 0
    assert (told["scans_waiting"], told["next_try_at"]) == (0, None)
    assert told["ends_at"].endswith("+00:00")
