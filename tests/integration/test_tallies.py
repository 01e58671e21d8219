"""A run's tally and worklist agree with its scans; without a tally the scans are counted."""

import itertools
import random
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import delete, func, select, update

from db.cancellation import cancel_run
from db.engine import reading, write
from db.job_results import store_results
from db.owner import Owner
from db.results import Order, ResultFilter
from db.runs import NewScan, close_finished_runs, retry_run
from db.tables import jobs, runs, scans, tallies, worklist_rows
from db.tallies import CONTENTS_LOCK, RunCounts, RunTally, read_tallies
from db.types import JobStatus, ScanStatus, database_now
from db.worklist import read_page, read_progress
from tests.db_factories import (
    add_run,
    at_once,
    claim,
    count,
    job_ids,
    new_prediction,
    new_scans,
    open_scans,
    scored,
)
from tests.web_page import add_night

REFUSED = NewScan("/scans/locked", 0, ScanStatus.REJECTED, "permission-denied", "no permission to look into it")


def read_tally(engine, run_id):
    with reading(engine) as connection:
        return read_tallies(connection, [run_id])[run_id]


def read_all(engine, wanted, tally, size):
    """Return the rows of all pages."""
    rows, after = [], None
    while True:
        with reading(engine) as connection:
            page = read_page(connection, wanted, size, after, tally)
        rows += page.rows
        if page.last is None:
            return rows
        after = page.last


def forget_tally(engine, run_id):
    """Leave a run without its tally."""
    write(engine, lambda connection: connection.execute(delete(tallies).where(tallies.c.run_id == run_id)))


def end_as_the_release_before(engine, run_id):
    """End the scans of a run without updating its tally."""
    ended = {"status": ScanStatus.FAILED, "reason_code": "x", "reason_text": "x", "finished_at": database_now()}
    write(engine, lambda connection: connection.execute(update(scans).where(scans.c.run_id == run_id).values(ended)))
    write(engine, lambda connection: connection.execute(
        update(jobs).where(jobs.c.run_id == run_id).values(status=JobStatus.DONE)
    ))  # fmt: skip
    write(engine, close_finished_runs)


class TestTally:
    def test_a_new_run_is_all_queued_but_for_what_listing_refused(self, engine):
        tally = read_tally(engine, add_run(engine, [REFUSED, *new_scans(3)]))
        assert tally.is_kept
        assert tally.counts == RunCounts(queued=3, rejected=1)
        assert tally.reasons["rejected"] == {"permission-denied": 1}

    def test_decisions_labels_and_providers_are_those_of_the_rows(self, engine):
        tally = read_tally(engine, add_night(engine, [0.9, {"effusion": 0.1, "pneumonia": 0.8}, ScanStatus.FAILED]))
        assert tally.decisions == {"pneumonia": 2, "normal": 1}
        assert tally.labels == {"pneumonia": 2, "effusion": 1}
        assert tally.providers == ["CPUExecutionProvider"]
        assert tally.reasons == {"rejected": {}, "failed": {"damaged": 1}}

    def test_a_prediction_that_was_there_already_counts_for_the_run_that_reuses_it(self, engine):
        add_night(engine, [0.9])
        run_id = add_run(engine, 1)
        (job_id,) = job_ids(engine, run_id)
        held, (scan,) = claim(engine, job_id), open_scans(engine, job_id)
        with reading(engine) as connection:
            sha256 = connection.execute(select(scans.c.sha256).where(scans.c.sha256.is_not(None))).scalar()
        reused = scored(scan, sha256=sha256, reused=True)
        write(engine, lambda connection: store_results(connection, held, [reused], []))
        assert read_tally(engine, run_id).decisions == {"pneumonia": 1}
        assert count(engine, run_id) == RunCounts(scored=1, reused=1)

    @pytest.mark.parametrize("reuses", [True, False])
    def test_contents_that_are_reused_are_kept_from_pruning_until_the_commit(self, postgres_engine, reuses):
        add_night(postgres_engine, [0.9])
        (job_id,) = job_ids(postgres_engine, add_run(postgres_engine, 1))
        held, (scan,) = claim(postgres_engine, job_id), open_scans(postgres_engine, job_id)
        with reading(postgres_engine) as connection:
            sha256 = connection.execute(select(scans.c.sha256).where(scans.c.sha256.is_not(None))).scalar()
        lock = select(func.pg_try_advisory_xact_lock(CONTENTS_LOCK))  # the one that pruning waits for
        with postgres_engine.begin() as storing, postgres_engine.begin() as pruning:
            store_results(storing, held, [scored(scan, sha256=sha256, reused=reuses)], [])
            assert pruning.execute(lock).scalar() is not reuses

    def test_retrying_a_run_leaves_others_as_they_are(self, engine):
        retried, other = (add_night(engine, [ScanStatus.FAILED, 0.9]) for _ in range(2))

        def read_other():
            with reading(engine) as connection:
                return [
                    [
                        tuple(row)
                        for row in connection.execute(select(table).where(column == other).order_by(table.c.id))
                    ]
                    for table, column in ((runs, runs.c.id), (scans, scans.c.run_id), (jobs, jobs.c.run_id))
                ]

        before = read_other()
        owner = Owner("another-host", 1, "1")
        retry = partial(retry_run, run_id=retried, job_size=1, embedded=True, settings={"gate": False}, owner=owner)
        assert write(engine, retry) == 1
        assert read_other() == before
        assert count(engine, other) == RunCounts(scored=1, failed=1)

    def test_cancelling_and_retrying_move_the_counts(self, engine):
        run_id = add_run(engine, 3, job_size=1)
        cancel_run(engine, run_id, "cancelled", "x")
        assert count(engine, run_id) == RunCounts(failed=3)
        write(engine, lambda connection: retry_run(connection, run_id, 64, embedded=False, settings={}))
        assert count(engine, run_id) == RunCounts(queued=3)
        assert read_tally(engine, run_id).reasons["failed"] == {}
        assert read_tally(engine, run_id).is_kept  # one that does not add up is not believed, and the scans are counted

    def test_workers_that_end_jobs_at_once_lose_no_count(self, engine):
        run_id = add_run(engine, 40, job_size=2)
        ready = [(claim(engine, job_id), open_scans(engine, job_id)) for job_id in job_ids(engine, run_id)]

        def end(held, open_):
            found = [new_prediction(scan.id) for scan in open_]
            return write(engine, lambda connection: store_results(connection, held, list(map(scored, open_)), found))

        assert all(at_once([lambda one=one: end(*one) for one in ready]))
        assert count(engine, run_id) == RunCounts(scored=40)

    def test_a_transaction_that_fails_counts_nothing(self, engine):
        run_id = add_run(engine, 2)
        (job_id,) = job_ids(engine, run_id)
        held, open_ = claim(engine, job_id), open_scans(engine, job_id)

        def fail_at_the_end(connection):
            store_results(connection, held, list(map(scored, open_)), [])
            raise RuntimeError

        with pytest.raises(RuntimeError):
            write(engine, fail_at_the_end)
        assert count(engine, run_id) == RunCounts(queued=2)

    def test_a_late_worker_whose_job_was_taken_over_counts_nothing(self, engine):
        run_id = add_run(engine, 1)
        (job_id,) = job_ids(engine, run_id)
        slow, (scan,) = claim(engine, job_id, lease_s=-1), open_scans(engine, job_id)
        held = claim(engine, job_id, "worker-2")
        for claimed in (held, slow):
            write(engine, lambda connection, claimed=claimed: store_results(connection, claimed, [scored(scan)], []))
        assert count(engine, run_id) == RunCounts(scored=1)


class TestWithoutTally:
    def test_a_run_of_the_release_before_is_counted_from_its_scans(self, engine):
        run_id = add_night(engine, [0.9, 0.1, ScanStatus.REJECTED])
        kept = read_tally(engine, run_id)
        forget_tally(engine, run_id)
        tally = read_tally(engine, run_id)
        assert not tally.is_kept
        assert replace(tally, is_kept=True, labels=kept.labels, changed_at=kept.changed_at) == kept
        assert tally.changed_at is not None

    def test_a_run_without_tally_gets_no_part_of_one(self, engine):
        run_id = add_run(engine, 3, job_size=1)
        forget_tally(engine, run_id)
        first, *_ = job_ids(engine, run_id)
        held, (scan,) = claim(engine, first), open_scans(engine, first)
        write(engine, lambda connection: store_results(connection, held, [scored(scan)], [new_prediction(scan.id)]))
        cancel_run(engine, run_id, "cancelled", "x")
        write(engine, lambda connection: retry_run(connection, run_id, 64, embedded=False, settings={}))
        with reading(engine) as connection:
            assert connection.execute(select(tallies)).all() == []
            assert connection.execute(select(worklist_rows.c.scan_id)).scalars().all() == [scan.id]  # results show it
        assert count(engine, run_id) == RunCounts(queued=2, scored=1)

    def test_a_tally_that_does_not_add_up_at_the_end_is_not_believed(self, engine):
        run_id = add_run(engine, 2)
        end_as_the_release_before(engine, run_id)
        assert not read_tally(engine, run_id).is_kept
        assert count(engine, run_id) == RunCounts(failed=2)

    def test_runs_with_and_without_are_read_together(self, engine):
        with_tally, without = add_run(engine, 1), add_run(engine, 2)
        forget_tally(engine, without)
        with reading(engine) as connection:
            read = read_tallies(connection, [without, with_tally])
        assert {run_id: (tally.is_kept, tally.counts.queued) for run_id, tally in read.items()} == {
            with_tally: (True, 1), without: (False, 2),
        }  # fmt: skip

    def test_how_long_ago_a_scan_ended_is_known_with_and_without(self, engine):
        run_id = add_night(engine, [0.5])
        with reading(engine) as connection:
            assert read_progress(connection).seconds_since_last_scan is not None
        forget_tally(engine, run_id)
        with reading(engine) as connection:
            assert read_progress(connection).seconds_since_last_scan is not None


class TestWorklist:
    FILTERS = tuple(
        {"statuses": statuses, "label": label, "decision": decision, "min_score": min_score}
        for statuses, label, decision, min_score in itertools.product(
            ((), (ScanStatus.SCORED,), (ScanStatus.REJECTED, ScanStatus.QUEUED)), (None, "effusion"), (None, "normal"),
            (None, 0.5),
        )
    )  # fmt: skip

    @pytest.mark.parametrize("size", [1, 3, 50])
    def test_pages_of_the_kept_worklist_are_those_of_the_sorted_run(self, engine, size):
        draw = random.Random(size)
        levels = [0.0, 0.25, 0.5, 0.75, 1.0]  # few, so that many scores are equal
        scores = [
            draw.choice([None, ScanStatus.REJECTED, ScanStatus.FAILED])
            if draw.random() < 0.3
            else {label: draw.choice(levels) for label in ("effusion", "pneumonia")}
            for _ in range(30)
        ]
        run_id = add_night(engine, scores)
        add_night(engine, [0.5, None], name="another")
        tally = read_tally(engine, run_id)
        assert tally.is_kept
        for filters in self.FILTERS:
            wanted = ResultFilter(run_id, order=Order.SCORE, **filters)
            expected = read_all(engine, wanted, RunTally(tally.counts), 1_000)
            assert read_all(engine, wanted, tally, size) == expected, filters

    def test_a_run_without_tally_shows_its_worklist_too(self, engine):
        run_id = add_night(engine, [0.25, 0.75, ScanStatus.REJECTED])
        forget_tally(engine, run_id)
        rows = read_all(engine, ResultFilter(run_id, order=Order.SCORE), read_tally(engine, run_id), 2)
        assert [row["score"] for row in rows] == [0.75, 0.25, None]
