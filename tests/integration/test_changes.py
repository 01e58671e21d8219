"""A program that reads changes gets each of them exactly once, whoever commits when and wherever it crashes."""

import random
import threading

import pytest
from sqlalchemy import select

from db.cancellation import cancel_run
from db.changes import NOW, START, Changes
from db.engine import reading, write
from db.job_results import store_results
from db.results import ResultFilter
from db.runs import retry_run
from db.tables import scans
from nightread.errors import NightreadError
from tests.db_factories import add_run, claim, job_ids, new_prediction, new_scans, open_scans, scored
from tests.web_page import add_night


def ask(engine, word, **wanted):
    """Return scan ids with labels, and the cursor for the next time."""
    changes = Changes(engine, ResultFilter(**wanted), word)
    rows = [(row["scan_id"], row["label"]) for row in changes]
    return rows, changes.cursor


def end_job(engine, job_id):
    held, open_ = claim(engine, job_id), open_scans(engine, job_id)
    found = [new_prediction(scan.id) for scan in open_]
    write(engine, lambda connection: store_results(connection, held, list(map(scored, open_)), found))


def test_each_row_comes_once_and_queued_ones_later(engine):
    run_id = add_run(engine, 3, job_size=1)
    first, second, third = job_ids(engine, run_id)
    end_job(engine, first)
    rows, word = ask(engine, START)
    assert len(rows) == 1
    assert ask(engine, word)[0] == []
    end_job(engine, second)
    end_job(engine, third)
    later, word = ask(engine, word)
    assert len(later) == 2
    assert ask(engine, word)[0] == []


def test_from_now_on_means_nothing_that_is_there_already(engine):
    add_night(engine, [0.9])
    rows, word = ask(engine, NOW)
    assert rows == []
    add_night(engine, [0.9, 0.1])
    assert len(ask(engine, word)[0]) == 2


def test_a_scan_that_is_retried_is_a_change_again(engine):
    run_id = add_run(engine, 2, job_size=2)
    cancel_run(engine, run_id, "cancelled", "x")
    rows, word = ask(engine, START)
    assert len(rows) == 2
    write(engine, lambda connection: retry_run(connection, run_id, 64, embedded=False, settings={}))
    assert ask(engine, word)[0] == []
    end_job(engine, job_ids(engine, run_id)[0])
    assert [label for _, label in ask(engine, word)[0]] == ["pneumonia", "pneumonia"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_of_any_size_hold_every_row_once(engine, limit):
    add_night(engine, [{"a": 0.25, "b": 0.75}, 0.5, 0.5])
    word, seen = START, []
    for _ in range(12):
        rows, word = ask(engine, word, limit=limit)
        assert len(rows) <= limit
        seen += rows
        if len(seen) == 2:
            add_night(engine, [0.1], found=new_scans(1))  # changes while it pages
    assert len(seen) == len(set(seen))
    with reading(engine) as connection:
        assert {scan_id for scan_id, _ in seen} == set(connection.execute(select(scans.c.id)).scalars())


def test_a_transaction_that_commits_after_later_ones_is_not_missed(postgres_engine):
    slow, fast = job_ids(postgres_engine, add_run(postgres_engine, 2, job_size=1))
    held, open_ = claim(postgres_engine, slow), open_scans(postgres_engine, slow)
    with postgres_engine.begin() as connection:
        store_results(connection, held, list(map(scored, open_)), [new_prediction(scan.id) for scan in open_])
        end_job(postgres_engine, fast)
        early, word = ask(postgres_engine, START)
        paged, in_pages = ask(postgres_engine, START, limit=1)
    late, word = ask(postgres_engine, word)
    assert len(early) == len(late) == 1
    assert early != late
    assert ask(postgres_engine, word)[0] == []
    rest, in_pages = ask(postgres_engine, in_pages, limit=1)
    assert {*paged, *rest} == {*early, *late}
    assert ask(postgres_engine, in_pages, limit=1)[0] == []


def test_readers_that_crash_anywhere_get_each_change_once_while_workers_write(engine):
    """The reader keeps rows and cursor together, and dies before it has kept them."""
    ids = job_ids(engine, add_run(engine, 60, job_size=2))
    workers = [
        threading.Thread(target=lambda part=ids[n::3]: [end_job(engine, job_id) for job_id in part]) for n in range(3)
    ]
    for worker in workers:
        worker.start()
    kept, word, chance = [], START, random.Random(1)
    while True:
        is_over = not any(worker.is_alive() for worker in workers)
        changes = Changes(engine, ResultFilter(limit=chance.choice([None, 1, 5])), word)
        rows, crash_after = [], chance.choice([None, 0, 1, 3])
        for row in changes:
            if crash_after is not None and len(rows) == crash_after:
                break
            rows.append((row["scan_id"], row["label"]))
        else:
            kept, word = kept + rows, changes.cursor
            if is_over and not rows:
                break
    assert len(kept) == len(set(kept)) == 60


@pytest.mark.parametrize("word", ["", "x", "e30=", "bnVsbA==", "W10=", "Start"])
def test_what_is_no_cursor_is_refused_with_what_is_one(engine, word):
    with pytest.raises(NightreadError, match="give the one that the last reading ended with, or `start`"):
        ask(engine, word)
