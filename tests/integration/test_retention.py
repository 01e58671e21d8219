"""Old runs are deleted with all that belongs to them, and nothing else is."""

from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import IntegrityError

import db.retention
from db.consistency import check_ledger
from db.contents import find_stored
from db.engine import reading, write
from db.job_results import store_results
from db.retention import Pruned, count_prunable, find_cutoff, prune
from db.runs import close_finished_runs, retry_run
from db.tables import jobs, measurements, predictions, runs, scans, tallies, worklist_rows
from db.tallies import RunCounts, read_tallies
from db.types import RunStatus, ScanStatus, database_now
from nightread.errors import PredictionGone
from tests.db_factories import (
    MODEL_DIGEST,
    add_run,
    claim,
    count,
    fetch_run,
    fetch_scans,
    in_background,
    job_ids,
    new_measurement,
    new_prediction,
    open_scans,
    scored,
    sha256_of,
    wait_until_blocked,
)

DAY_S = 86_400.0
TABLES = (runs, scans, jobs, tallies, worklist_rows, predictions, measurements)


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    monkeypatch.setattr(db.retention, "_ROWS_PER_STEP", 2)


def add_night(engine, scores, *, days_ago=0.0, first=1, job_size=64, failed=0):
    """Add a run whose scans have these scores, over 0.5 positive; contents are numbered from `first`."""
    run_id = add_run(engine, len(scores) + failed, job_size=job_size)
    numbers = iter(range(first, first + len(scores)))
    values = iter(scores)
    for job_id in job_ids(engine, run_id):
        held = claim(engine, job_id)
        outcomes, new = [], []
        for scan in open_scans(engine, job_id):
            score = next(values, None)
            if score is None:
                outcomes.append(scored(scan, status=ScanStatus.FAILED, sha256=None, reason_code="x", reason_text="y"))
                continue
            number = next(numbers)
            outcomes.append(scored(scan, sha256=sha256_of(number)))
            decision = "pneumonia" if score > 0.5 else "normal"
            new.append(new_prediction(number, score=score, decision=decision))
        measured = [new_measurement(int(row.sha256, 16)) for row in new]
        write(engine, lambda connection, *stored: store_results(connection, held, outcomes, new, measured))  # noqa: B023
    write(engine, close_finished_runs)
    if days_ago:
        age(engine, run_id, days_ago)
    return run_id


def age(engine, run_id, days):
    write(engine, lambda connection: connection.execute(
        update(runs).where(runs.c.id == run_id).values(finished_at=database_now(-days * DAY_S))
    ))  # fmt: skip


def prune_older(engine, days, *, keep_positives=False):
    with reading(engine) as connection:
        cutoff = find_cutoff(connection, days * DAY_S)
        expected = count_prunable(connection, cutoff, keep_positives=keep_positives)
    pruned = prune(engine, cutoff, keep_positives=keep_positives)
    assert pruned == expected  # the dry run tells what then happens
    return pruned


def sizes(engine):
    with reading(engine) as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in TABLES
        }


def faults(engine):
    with reading(engine) as connection:
        return [rule.rule for rule in check_ledger(connection) if rule.broken and rule.is_fault]


class TestPruning:
    def test_an_old_run_goes_with_everything_that_belongs_to_it_and_a_young_one_stays(self, engine):
        add_night(engine, [0.1, 0.9, 0.2, 0.3, 0.4], days_ago=100, failed=2, job_size=2)
        young = add_night(engine, [0.1, 0.9], first=50, days_ago=80)
        pruned = prune_older(engine, 90)
        assert (pruned.runs, pruned.scans, pruned.kept, pruned.predictions) == (1, 7, 0, 5)
        assert sizes(engine) == {
            "runs": 1, "scans": 2, "jobs": 1, "worklist_rows": 2, "predictions": 2, "measurements": 2,
            "tallies": sizes(engine)["tallies"],
        }  # fmt: skip
        assert count(engine, young) == RunCounts(scored=2)
        assert faults(engine) == []

    def test_nothing_old_deletes_nothing(self, engine):
        add_night(engine, [0.1], days_ago=1)
        assert prune_older(engine, 2) == Pruned()

    def test_an_open_run_is_never_old(self, engine):
        run_id = add_run(engine, 1)
        age(engine, run_id, 100)
        assert prune_older(engine, 1) == Pruned()

    def test_a_content_that_a_young_run_refers_to_keeps_its_score(self, engine):
        add_night(engine, [0.1, 0.9], days_ago=100)
        add_night(engine, [0.9], first=2)
        assert prune_older(engine, 90).predictions == 1
        with reading(engine) as connection:
            left = find_stored(connection, [sha256_of(1), sha256_of(2)], MODEL_DIGEST, "1", 1).predicted
        assert left == {sha256_of(2)}

    def test_positives_are_kept_with_their_run_whose_counts_are_theirs(self, engine):
        run_id = add_night(engine, [0.1, 0.9, 0.2, 0.3, 0.8], days_ago=100, failed=1, job_size=2)
        pruned = prune_older(engine, 90, keep_positives=True)
        assert (pruned.runs, pruned.scans, pruned.kept, pruned.jobs) == (0, 4, 2, 1)
        assert count(engine, run_id) == RunCounts(scored=2)
        run = fetch_run(engine, run_id)
        assert (run.found, run.pruned) == (2, 4)
        with reading(engine) as connection:
            kept = read_tallies(connection, [run_id])[run_id]
            assert kept.is_kept
            assert kept.decisions == {"pneumonia": 2}
            assert connection.execute(select(func.count()).select_from(worklist_rows)).scalar_one() == 2
        assert faults(engine) == []
        again = prune_older(engine, 90, keep_positives=True)
        assert (again.scans, again.kept) == (0, 2)
        assert fetch_run(engine, run_id).pruned == 4

    def test_an_interruption_leaves_counts_that_add_up_and_the_next_one_continues(self, engine, monkeypatch):
        run_id = add_night(engine, [0.1] * 5, days_ago=100)

        def die(point):
            if len(fetch_scans(engine, run_id)) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(db.retention, "failpoint", die)
        with pytest.raises(KeyboardInterrupt):
            prune(engine, *cutoff_of(engine, 90), keep_positives=False)
        assert count(engine, run_id) == RunCounts(scored=3)
        assert fetch_run(engine, run_id).found == 3
        assert faults(engine) == []
        monkeypatch.undo()
        assert prune_older(engine, 90).runs == 1
        assert sizes(engine)["predictions"] == 0

    def test_a_run_that_is_retried_meanwhile_is_left_alone(self, engine, monkeypatch):
        run_id = add_night(engine, [0.1, 0.2], failed=1, days_ago=100)

        def retry_first(engine, work):
            if fetch_run(engine, run_id).status is RunStatus.FINISHED:
                write(engine, lambda connection: retry_run(connection, run_id, 64, embedded=False, settings={}))
            return write(engine, work)

        monkeypatch.setattr(db.retention, "write", retry_first)
        assert prune(engine, *cutoff_of(engine, 90), keep_positives=False) == Pruned()
        assert count(engine, run_id) == RunCounts(queued=1, scored=2)

    def test_progress_ends_at_its_total(self, engine):
        add_night(engine, [0.1] * 3, days_ago=100)
        seen = []
        prune(engine, *cutoff_of(engine, 90), keep_positives=False, on_progress=lambda *now: seen.append(now))
        assert seen[-1] == (3, 3)


def cutoff_of(engine, days):
    with reading(engine) as connection:
        return (find_cutoff(connection, days * DAY_S),)


class TestReuseMeanwhile:
    def test_a_scan_that_reuses_a_score_which_was_just_deleted_is_not_stored(self, engine):
        add_night(engine, [0.1], days_ago=100)
        run_id = add_run(engine, 1)
        (job_id,) = job_ids(engine, run_id)
        held, (scan,) = claim(engine, job_id), open_scans(engine, job_id)
        reused = scored(scan, sha256=sha256_of(1), reused=True)
        prune_older(engine, 90)
        with pytest.raises(PredictionGone):
            write(engine, lambda connection: store_results(connection, held, [reused], []))
        assert count(engine, run_id) == RunCounts(queued=1)

    def test_a_scan_that_reuses_a_score_first_keeps_it(self, postgres_engine):
        engine = postgres_engine
        add_night(engine, [0.1], days_ago=100)
        run_id = add_run(engine, 1)
        (job_id,) = job_ids(engine, run_id)
        held, (scan,) = claim(engine, job_id), open_scans(engine, job_id)
        reused = scored(scan, sha256=sha256_of(1), reused=True)
        with engine.begin() as storing:
            store_results(storing, held, [reused], [])
            pruning = in_background(lambda: prune(engine, *cutoff_of(engine, 90), keep_positives=False))
            wait_until_blocked(engine)
        assert pruning.result(30).predictions == 0
        assert faults(engine) == []


class TestDeletingByHand:
    def test_scans_jobs_runs_leave_no_row_of_the_run_behind(self, engine):
        run_id = add_night(engine, [0.1, 0.9])
        for table in (scans, jobs):
            write(engine, lambda connection, table=table: connection.execute(
                delete(table).where(table.c.run_id == run_id)
            ))  # fmt: skip
        write(engine, lambda connection: connection.execute(delete(runs).where(runs.c.id == run_id)))
        left = sizes(engine)
        assert {left[name] for name in ("runs", "scans", "jobs", "worklist_rows", "tallies")} == {0}
        assert faults(engine) == []
        pruned = prune_older(engine, 90)
        assert (pruned.predictions, pruned.measurements) == (2, 2)

    @pytest.mark.parametrize("table", [runs, jobs])
    def test_a_row_that_others_refer_to_is_refused(self, engine, table):
        add_night(engine, [0.1])
        with pytest.raises(IntegrityError):
            write(engine, lambda connection: connection.execute(delete(table)))


class TestChecking:
    @pytest.mark.parametrize(
        ("statement", "rule"),
        [
            ("UPDATE runs SET found = found + 1", "reconciliation"),
            ("UPDATE tallies SET kind = 'rejected' WHERE kind = 'scored'", "reconciliation"),
            ("UPDATE runs SET status = 'finished' WHERE status = 'queued'", "ended-runs"),
            ("UPDATE jobs SET status = 'done' WHERE status = 'queued'", "ended-jobs"),
            ("DELETE FROM predictions", "scores"),
            ("UPDATE worklist_rows SET scan_id = scan_id + 999", "worklist"),
        ],
    )
    def test_a_broken_rule_is_found(self, engine, statement, rule):
        add_night(engine, [0.1])
        add_run(engine, 1)
        assert faults(engine) == []
        write(engine, lambda connection: connection.execute(text(statement)))
        assert rule in faults(engine)

    def test_unused_scores_are_no_fault(self, engine):
        add_night(engine, [0.1])
        write(engine, lambda connection: connection.execute(delete(scans)))
        write(engine, lambda connection: connection.execute(update(runs).values(found=0)))
        write(engine, lambda connection: connection.execute(delete(tallies)))
        write(engine, lambda connection: connection.execute(delete(worklist_rows)))
        with reading(engine) as connection:
            broken = {rule.rule: rule.is_fault for rule in check_ledger(connection) if rule.broken}
        assert broken == {"unused-predictions": False, "unused-measurements": False}


def test_the_cutoff_is_by_the_databases_clock(engine):
    with reading(engine) as connection:
        now = find_cutoff(connection, 0)
        assert timedelta(days=89.9) < now - find_cutoff(connection, 90 * DAY_S) < timedelta(days=90.1)
