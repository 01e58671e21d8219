"""Decisions by folder: the same whether kept or counted anew, whatever becomes of the run."""

from datetime import timedelta

import pytest
from sqlalchemy import select, update

import db.folder_counts
from db.consistency import check_ledger
from db.engine import read_clock, reading, write
from db.folder_counts import count_folders, find_uncounted, folder_counts
from db.retention import prune
from db.runs import NewScan, retry_run
from db.tables import runs
from db.types import ScanStatus, database_now
from db.views import folders, results
from tests.db_factories import add_run, claim, job_ids
from tests.web_page import add_night
from worker.runs.guards import end_runs

FOUND = [NewScan(f"/scans/{ward}/{number:05}.png", 1) for ward in ("ward-1", "ward-2/a") for number in range(3)]
SCORES = [0.9, 0.1, ScanStatus.REJECTED, 0.9, {"a": 0.2, "b": 0.7}, ScanStatus.FAILED]


@pytest.fixture
def night(engine):
    return add_night(engine, SCORES, found=FOUND)


def read(engine):
    """Return the decisions by folder."""
    rows = folders.c
    query = select(rows.folder, rows.label, rows.decision, rows.scans)
    with reading(engine) as connection:
        return sorted(tuple(row) for row in connection.execute(query))


def list_kept(engine):
    with reading(engine) as connection:
        return list(connection.execute(select(folder_counts.c.run_id).distinct()).scalars())


def find_broken(engine):
    with reading(engine) as connection:
        return [rule.rule for rule in check_ledger(connection) if rule.broken]


EXPECTED = [
    ("/scans/ward-1", "pneumonia", "normal", 1),
    ("/scans/ward-1", "pneumonia", "pneumonia", 1),
    ("/scans/ward-2/a", "a", "normal", 1),
    ("/scans/ward-2/a", "b", "pneumonia", 1),
    ("/scans/ward-2/a", "pneumonia", "pneumonia", 1),
]


def test_they_are_the_same_before_and_after_they_are_kept(engine, night):
    assert (read(engine), list_kept(engine)) == (EXPECTED, [])
    end_runs(engine)
    assert (read(engine), list_kept(engine)) == (EXPECTED, [night])
    with reading(engine) as connection:
        assert find_uncounted(connection, 10) == []
        days = set(connection.execute(select(folders.c.day)).scalars())
        assert days == {f"{time:%Y-%m-%d}" for time in connection.execute(select(results.c.time)).scalars()}
    assert find_broken(engine) == []


def test_of_a_run_that_is_open_what_is_scored_is_counted(engine):
    run_id = add_night(engine, [0.9, 0.1, None], found=FOUND[:3])
    assert not count_folders(engine, run_id)
    assert (read(engine), list_kept(engine)) == (EXPECTED[:2], [])


def retry_as_the_release_before(connection, run_id):
    """Open a run and end it again, without a word to the counts."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(finished_at=database_now(1.0)))


def retry(connection, run_id):
    assert retry_run(connection, run_id, 64, embedded=False, settings={}) == 1


@pytest.mark.parametrize("change", [retry, retry_as_the_release_before])
def test_what_was_kept_is_not_read_once_the_run_has_changed(engine, night, change):
    end_runs(engine)
    wrong = update(folder_counts).values(scans=99)
    write(engine, lambda connection: connection.execute(wrong))
    assert {scans for *_, scans in read(engine)} == {99}
    assert find_broken(engine) == ["folders"]
    write(engine, lambda connection: change(connection, night))
    assert read(engine) == EXPECTED
    assert find_broken(engine) == []


def test_of_a_pruned_run_the_scans_that_stay_are_counted(engine, night):
    end_runs(engine)
    with reading(engine) as connection:
        later = read_clock(connection) + timedelta(days=1)
    prune(engine, later, keep_positives=True)
    positive = [row for row in EXPECTED if row[1] == row[2]]
    assert read(engine) == positive
    end_runs(engine)
    assert read(engine) == positive
    assert list_kept(engine) == [night]
    prune(engine, later, keep_positives=False)
    assert (read(engine), list_kept(engine)) == ([], [])


def test_a_run_of_too_many_folders_is_counted_anew_each_time(engine, night, monkeypatch):
    monkeypatch.setattr(db.folder_counts, "_MOST_ROWS", 4)
    end_runs(engine)
    assert (read(engine), list_kept(engine)) == (EXPECTED, [])
    with reading(engine) as connection:
        assert find_uncounted(connection, 10) == [], "the sweep counts it again and again"


def test_nothing_is_kept_of_a_run_that_changes_while_it_is_counted(engine, night, monkeypatch):
    def change_first(engine, work):
        write(engine, lambda connection: retry(connection, night))
        return write(engine, work)

    monkeypatch.setattr(db.folder_counts, "write", change_first)
    assert not count_folders(engine, night)
    assert list_kept(engine) == []


def test_a_run_without_scores_is_counted_once(engine):
    run_id = add_run(engine, [NewScan("/scans/locked", 0, ScanStatus.REJECTED, "x", "x")])
    end_runs(engine)
    with reading(engine) as connection:
        assert connection.execute(select(runs.c.counted_at).where(runs.c.id == run_id)).scalar() is not None


def test_a_run_in_a_worker_s_hands_is_left_alone(engine):
    run_id = add_run(engine, 2)
    claim(engine, *job_ids(engine, run_id))
    end_runs(engine)
    assert list_kept(engine) == []
