"""A job is held by one worker at a time, and each scan ends exactly once whatever happens to workers."""

import uuid
from dataclasses import replace

import pytest
from sqlalchemy import func, select, update

import db.cancellation
from db.cancellation import cancel_run
from db.contents import find_stored
from db.due_jobs import (
    Waiting,
    count_just_published,
    count_leases,
    count_waiting_jobs,
    mark_unpublished,
    take_due_jobs,
)
from db.engine import reading, write
from db.job_results import store_results
from db.jobs import claim_job, confirm_claim, reclaim_job, release_job, renew_lease, split_job, uncount_attempt
from db.tables import predictions, runs, scans
from db.tallies import RunCounts
from db.types import JobStatus, Priority, RunStatus, ScanStatus, database_now
from nightread.failpoints import Point
from tests.db_factories import (
    LEASE_S,
    MODEL_DIGEST,
    add_job,
    add_run,
    at_once,
    claim,
    count,
    expire_lease,
    fetch_job,
    fetch_run,
    fetch_scans,
    in_background,
    job_ids,
    new_prediction,
    open_scans,
    scored,
    sha256_of,
    shift_time,
    wait_until_blocked,
)


def store(engine, held, outcomes=(), found=(), **options):
    return write(engine, lambda connection: store_results(connection, held, outcomes, found, **options))


def renew(engine, held):
    return write(engine, lambda connection: renew_lease(connection, held, 60))


def take(engine, limit=100, republish_s=60.0, **options):
    return write(engine, lambda connection: take_due_jobs(connection, limit, republish_s, **options))


def count_predictions(engine):
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(predictions)).scalar()


class TestClaiming:
    def test_of_many_workers_at_once_one_gets_the_job(self, engine):
        job_id = add_job(engine)
        held = at_once([lambda n=n: claim(engine, job_id, f"worker-{n}") for n in range(8)])
        (winner,) = [one for one in held if one is not None]
        job = fetch_job(engine, job_id)
        assert (job.status, job.attempts, job.crashes, job.lease_token) == (JobStatus.LEASED, 1, 0, winner.token)
        assert fetch_run(engine, job.run_id).status is RunStatus.RUNNING

    def test_the_first_claim_begins_its_own_run_alone(self, engine):
        other = add_run(engine)
        held = claim(engine, add_job(engine))
        assert [fetch_run(engine, run_id).status for run_id in (held.run_id, other)] == [
            RunStatus.RUNNING, RunStatus.QUEUED,
        ]  # fmt: skip

    def test_while_its_lease_lives_nobody_else_gets_it_not_even_its_holder(self, engine):
        job_id = add_job(engine)
        assert claim(engine, job_id) is not None
        assert claim(engine, job_id) is None
        assert claim(engine, job_id, "worker-2") is None

    def test_once_its_lease_has_run_out_the_next_one_gets_it_with_a_new_token_and_one_crash_more(self, engine):
        job_id = add_job(engine)
        first = claim(engine, job_id)
        expire_lease(engine, job_id)
        second = claim(engine, job_id, "worker-2")
        assert (second.attempts, second.crashes) == (2, 1)
        assert second.token > first.token
        assert fetch_job(engine, job_id).lease_holder == "worker-2"

    def test_of_many_workers_at_once_one_takes_over_a_lost_lease(self, engine):
        job_id = add_job(engine)
        claim(engine, job_id)
        expire_lease(engine, job_id)
        held = at_once([lambda n=n: claim(engine, job_id, f"worker-{n}") for n in range(6)])
        assert [one.crashes for one in held if one is not None] == [1]

    def test_a_lease_lasts_as_long_as_asked_by_the_databases_clock(self, engine):
        job_id = add_job(engine)
        assert claim(engine, job_id, lease_s=0.0) is not None
        shift_time(engine, job_id, "lease_expires_at", -0.001)
        assert claim(engine, job_id, lease_s=3600.0) is not None
        shift_time(engine, job_id, "published_at", 3590)
        with reading(engine) as connection:
            assert count_leases(connection) == 1
        job = fetch_job(engine, job_id)
        assert 0 < (job.lease_expires_at - job.published_at).total_seconds() <= 10

    def test_a_claim_whose_answer_was_lost_is_kept_by_its_holder_alone(self, engine):
        job_id = add_job(engine)
        held = claim(engine, job_id, "worker-1")
        for claimed, holder, is_kept in (
            (held, "worker-1", True),
            (held, "worker-2", False),
            (replace(held, token=held.token + 1), "worker-1", False),
        ):
            kept = write(engine, lambda connection, c=claimed, h=holder: confirm_claim(connection, c, h, LEASE_S))
            assert kept is is_kept
        job = fetch_job(engine, job_id)
        assert (job.attempts, job.crashes, job.lease_token) == (1, 0, held.token)

    def test_a_job_that_was_put_off_waits_for_its_time(self, engine):
        job_id = add_job(engine)
        assert store(engine, claim(engine, job_id), retry_in_s=3600)
        assert claim(engine, job_id) is None
        shift_time(engine, job_id, "not_before", -1)
        again = claim(engine, job_id)
        assert (again.attempts, again.crashes) == (2, 0)
        assert fetch_job(engine, job_id).not_before is None

    def test_a_job_of_an_embedded_run_is_claimed_by_its_own_process_alone(self, engine):
        job_id = add_job(engine, embedded=True)
        assert claim(engine, job_id) is None
        assert fetch_job(engine, job_id).status is JobStatus.QUEUED
        assert write(engine, lambda connection: claim_job(connection, job_id, "itself", LEASE_S, embedded=True))

    def test_an_embedded_run_keeps_no_other_run_s_job_from_workers(self, engine):
        add_job(engine, embedded=True)
        assert claim(engine, add_job(engine)) is not None

    def test_what_is_done_or_unknown_cannot_be_claimed(self, engine):
        job_id = add_job(engine)
        assert store(engine, claim(engine, job_id))
        assert claim(engine, job_id) is None
        assert claim(engine, "0" * 32) is None
        assert claim(engine, "'; DROP TABLE jobs; --") is None

    def test_a_claim_does_not_wait_for_a_run_that_is_being_cancelled(self, postgres_engine):
        run_id = add_run(postgres_engine, 2, job_size=1)
        job_id = job_ids(postgres_engine, run_id)[0]
        with postgres_engine.begin() as connection:
            connection.exec_driver_sql("SELECT 1 FROM runs FOR NO KEY UPDATE")
            assert in_background(lambda: claim(postgres_engine, job_id)).result(10) is not None

    def test_a_claim_begins_its_run_although_another_transaction_refers_to_it(self, postgres_engine):
        job_id = add_job(postgres_engine)
        with postgres_engine.begin() as referring:
            referring.exec_driver_sql("SELECT 1 FROM runs FOR KEY SHARE")  # as a foreign key does
            held = claim(postgres_engine, job_id)
        assert fetch_run(postgres_engine, held.run_id).status is RunStatus.RUNNING


class TestRenewing:
    def test_the_holder_keeps_its_lease_and_one_that_was_taken_over_does_not(self, engine):
        job_id = add_job(engine)
        first = claim(engine, job_id)
        assert renew(engine, first)
        expire_lease(engine, job_id)
        assert renew(engine, first)  # nobody has taken it meanwhile
        assert claim(engine, job_id, "worker-2") is None
        expire_lease(engine, job_id)
        second = claim(engine, job_id, "worker-2")
        assert not renew(engine, first)
        assert renew(engine, second)

    def test_nothing_is_renewed_once_the_job_is_done_or_cancelled(self, engine):
        done, cancelled = add_job(engine), add_job(engine)
        held = claim(engine, done)
        store(engine, held)
        assert not renew(engine, held)
        held = claim(engine, cancelled)
        cancel_run(engine, held.run_id, "cancelled", "x")
        assert not renew(engine, held)

    def test_workers_with_a_live_lease_are_counted_once_each(self, engine):
        run_id = add_run(engine, 4, job_size=1)
        one, two, three, _ = job_ids(engine, run_id)
        claim(engine, one, "worker-1")
        claim(engine, two, "worker-1")
        claim(engine, three, "worker-2")
        expire_lease(engine, three)
        other = add_job(engine)
        claim(engine, other, "worker-3")
        with reading(engine) as connection:
            assert count_leases(connection, run_id) == 1
            assert count_leases(connection) == 2


class TestOpenScans:
    def test_they_come_in_their_order_although_a_row_has_moved(self, engine):
        job_id, other = add_job(engine, 3), add_job(engine)
        found = open_scans(engine, job_id)
        for place in (other, job_id):  # an index holds the row anew
            moved = update(scans).where(scans.c.id == found[0].id).values(job_id=place)
            write(engine, lambda connection, moved=moved: connection.execute(moved))
        assert open_scans(engine, job_id) == found


class TestStoring:
    def test_predictions_scans_and_the_jobs_end_are_stored_together(self, engine):
        job_id = add_job(engine, 3)
        held = claim(engine, job_id)
        one, two, three = open_scans(engine, job_id)
        outcomes = [
            scored(three, study_uid="1.2", series_uid="1.3", instance_uid="1.4", reused=True), scored(one),
            scored(two, status=ScanStatus.REJECTED, sha256=None, reason_code="damaged", reason_text="cut short"),
        ]  # fmt: skip
        assert store(engine, held, outcomes, [new_prediction(one.id), new_prediction(three.id)])
        rows = fetch_scans(engine, held.run_id)
        assert [row.status for row in rows] == [ScanStatus.SCORED, ScanStatus.REJECTED, ScanStatus.SCORED]
        assert [(row.attempts, row.finished_at is not None) for row in rows] == [(1, True)] * 3
        assert (rows[2].study_uid, rows[2].series_uid, rows[2].instance_uid, rows[2].reused) == (
            "1.2",
            "1.3",
            "1.4",
            True,
        )
        job = fetch_job(engine, job_id)
        assert (job.status, job.lease_holder, job.lease_expires_at) == (JobStatus.DONE, None, None)
        assert job.finished_at is not None
        assert count_predictions(engine) == 2

    def test_a_row_that_the_database_refuses_leaves_everything_as_it_was(self, engine):
        job_id = add_job(engine, 1)
        held = claim(engine, job_id)
        (scan,) = open_scans(engine, job_id)
        with pytest.raises(Exception, match=r"(?i)check"):
            store(engine, held, [scored(scan, sha256=None)], [new_prediction()])
        assert count_predictions(engine) == 0
        assert renew(engine, held)

    def test_storing_twice_changes_nothing(self, engine):
        job_id = add_job(engine, 2)
        held = claim(engine, job_id)
        found = open_scans(engine, job_id)
        arguments = [scored(scan) for scan in found], [new_prediction(scan.id) for scan in found]
        assert store(engine, held, *arguments)
        before = fetch_scans(engine, held.run_id), fetch_job(engine, job_id)
        assert not store(engine, held, *arguments)
        assert (fetch_scans(engine, held.run_id), fetch_job(engine, job_id)) == before
        assert count_predictions(engine) == 2

    def test_a_fenced_off_holder_keeps_its_predictions_and_changes_no_scan(self, engine):
        job_id = add_job(engine, 1)
        slow = claim(engine, job_id)
        (scan,) = open_scans(engine, job_id)
        expire_lease(engine, job_id)
        fast = claim(engine, job_id, "worker-2")
        assert not store(engine, slow, [scored(scan)], [new_prediction(scan.id)])
        assert count(engine, slow.run_id) == RunCounts(queued=1)
        with reading(engine) as connection:
            assert find_stored(connection, [sha256_of(scan.id)], MODEL_DIGEST, "1", 1).predicted == {sha256_of(scan.id)}
        assert store(engine, fast, [scored(scan, reused=True)])
        assert count(engine, slow.run_id) == RunCounts(scored=1, reused=1)

    def test_a_fenced_off_holder_puts_no_job_off(self, engine):
        job_id = add_job(engine, 1)
        slow = claim(engine, job_id)
        expire_lease(engine, job_id)
        claim(engine, job_id, "worker-2")
        assert not store(engine, slow, retry_in_s=0.0)
        assert fetch_job(engine, job_id).lease_holder == "worker-2"

    def test_a_holder_whose_lease_ran_out_unnoticed_may_still_store(self, engine):
        job_id = add_job(engine, 1)
        held = claim(engine, job_id)
        expire_lease(engine, job_id)
        assert store(engine, held, [scored(scan) for scan in open_scans(engine, job_id)])
        assert count(engine, held.run_id) == RunCounts(scored=1)

    def test_of_a_holder_and_its_successor_at_once_one_stores(self, engine):
        for _ in range(3):
            job_id = add_job(engine, 1)
            slow, scan = claim(engine, job_id), open_scans(engine, job_id)[0]
            expire_lease(engine, job_id)

            def take_over(job_id=job_id, scan=scan):
                held = claim(engine, job_id, "worker-2")
                return held is not None and store(engine, held, [scored(scan)])

            assert sum(at_once([take_over, lambda slow=slow, scan=scan: store(engine, slow, [scored(scan)])])) == 1
            assert count(engine, slow.run_id) == RunCounts(scored=1)

    def test_a_terminal_status_is_never_overwritten(self, engine):
        job_id = add_job(engine, 2)
        held = claim(engine, job_id)
        one, two = open_scans(engine, job_id)
        write(engine, lambda connection: connection.execute(
            update(scans).where(scans.c.id == one.id).values(
                status=ScanStatus.REJECTED, reason_code="damaged", reason_text="x", finished_at=database_now(),
            )
        ))  # fmt: skip
        failed = scored(two, status=ScanStatus.FAILED, sha256=None, reason_code="storage-error", reason_text="x")
        assert store(engine, held, [scored(one), failed])
        assert [row.reason_code for row in fetch_scans(engine, held.run_id)] == ["damaged", "storage-error"]

    def test_the_first_prediction_of_a_content_stays(self, engine):
        job_id = add_job(engine, 1)
        twice = [new_prediction(7, score=0.5), new_prediction(7, score=0.75), new_prediction(7, label="edema")]
        assert store(engine, claim(engine, job_id), (), twice)
        assert store(engine, claim(engine, add_job(engine)), (), [new_prediction(7, score=1.0)])
        with reading(engine) as connection:
            assert connection.execute(
                select(predictions.c.label, predictions.c.score).order_by(predictions.c.label)
            ).all() == [("edema", 0.25), ("pneumonia", 0.5)]  # fmt: skip

    def test_writers_that_meet_in_opposite_order_neither_deadlock_nor_fail(self, engine, caplog):
        held = [claim(engine, add_job(engine)) for _ in range(4)]
        forward = [new_prediction(number) for number in range(200)]
        orders = [forward, forward[::-1], forward[100:] + forward[:100], forward[::-1]]
        stored = at_once(
            [
                lambda one=one, order=order: store(engine, one, (), order)
                for one, order in zip(held, orders, strict=True)
            ]
        )
        assert stored == [True] * 4
        assert count_predictions(engine) == 200
        assert "retried" not in caplog.text

    def test_a_job_that_is_put_off_goes_back_with_its_remaining_scans_alone(self, engine):
        job_id = add_job(engine, 3)
        held = claim(engine, job_id)
        one, two, three = open_scans(engine, job_id)
        assert take(engine) == []
        assert store(engine, held, [scored(two)], retry_in_s=3600)
        job = fetch_job(engine, job_id)
        assert (job.status, job.published_at) == (JobStatus.QUEUED, None)
        assert (job.lease_holder, job.lease_expires_at) == (None, None)
        assert open_scans(engine, job_id) == [one, three]
        assert take(engine) == []
        shift_time(engine, job_id, "not_before", -1)
        assert take(engine) == [job_id]
        again = claim(engine, job_id)
        assert store(engine, again, [scored(one), scored(three)])
        assert [row.attempts for row in fetch_scans(engine, held.run_id)] == [2, 1, 2]

    def test_a_content_counts_as_predicted_once_every_label_is_there(self, engine):
        store(engine, claim(engine, add_job(engine)), (), [
            new_prediction(1, label="a"), new_prediction(1, label="b"), new_prediction(2, label="a"),
            new_prediction(3, label="a"), new_prediction(3, label="b", preprocessing="2"),
        ])  # fmt: skip
        digests = [sha256_of(number) for number in range(5)]
        with reading(engine) as connection:
            assert find_stored(connection, digests, MODEL_DIGEST, "1", 2).predicted == {sha256_of(1)}
            assert find_stored(connection, digests, "e" * 64, "1", 2).predicted == set()
            assert find_stored(connection, [], MODEL_DIGEST, "1", 2).predicted == set()


class TestGivingBack:
    def test_only_the_named_job_of_a_dead_process_is_taken_back(self, engine):
        first, second = add_job(engine), add_job(engine)
        for job_id in (first, second):
            claim(engine, job_id, "worker-1")
        assert write(engine, lambda connection: reclaim_job(connection, first, "worker-1", 0.0))
        assert [fetch_job(engine, job_id).status for job_id in (first, second)] == [JobStatus.QUEUED, JobStatus.LEASED]

    def test_a_job_that_is_given_back_is_due_for_a_message_at_once(self, engine):
        job_id = add_job(engine)
        for give_back in (
            lambda held: store(engine, held, retry_in_s=0.0),
            lambda held: write(engine, lambda connection: release_job(connection, held, 0.0, is_crash=True)),
        ):
            assert write(engine, lambda connection: take_due_jobs(connection, 10, 3600)) == [job_id]
            assert give_back(claim(engine, job_id))
        assert write(engine, lambda connection: take_due_jobs(connection, 10, 3600)) == [job_id]

    def test_an_attempt_that_a_stopping_worker_cuts_short_is_not_counted(self, engine):
        job_id = add_job(engine)
        for _ in range(2):
            held = claim(engine, job_id)
            assert store(engine, held, retry_in_s=0.0)
        other = add_job(engine)
        claim(engine, other)
        write(engine, lambda connection: uncount_attempt(connection, job_id))
        assert [fetch_job(engine, each).attempts for each in (job_id, other)] == [1, 1]

    def test_a_job_that_is_given_back_counts_a_crash_and_waits(self, engine):
        job_id = add_job(engine)
        held = claim(engine, job_id)
        assert write(engine, lambda connection: release_job(connection, held, 3600, is_crash=True))
        assert claim(engine, job_id) is None
        shift_time(engine, job_id, "not_before", -1)
        assert take(engine) == [job_id]
        assert claim(engine, job_id).crashes == 1

    def test_what_was_no_crash_counts_as_no_attempt_either(self, engine):
        job_id = add_job(engine)
        held = claim(engine, job_id)
        assert write(engine, lambda connection: release_job(connection, held, 0, is_crash=False))
        job = fetch_job(engine, job_id)
        assert (job.status, job.attempts, job.crashes) == (JobStatus.QUEUED, 0, 0)
        again = claim(engine, job_id)
        assert again.token != held.token
        assert not write(engine, lambda connection: release_job(connection, held, 0, is_crash=False))
        assert fetch_job(engine, job_id).attempts == 1

    def test_a_job_that_is_no_longer_ours_is_not_given_back(self, engine):
        job_id = add_job(engine)
        held = claim(engine, job_id)
        expire_lease(engine, job_id)
        claim(engine, job_id, "worker-2")
        assert not write(engine, lambda connection: release_job(connection, held, 0, is_crash=True))
        assert fetch_job(engine, job_id).crashes == 1

    def test_the_job_of_a_dead_holder_is_taken_back_as_a_crash_before_its_lease_has_run_out(self, engine):
        job_id = add_job(engine)
        held = claim(engine, job_id)
        assert write(engine, lambda connection: reclaim_job(connection, job_id, "worker-1", 3600))
        assert claim(engine, job_id) is None  # it waits
        shift_time(engine, job_id, "not_before", -1)
        assert take(engine) == [job_id]
        again = claim(engine, job_id)
        assert (again.attempts, again.crashes) == (2, 1)
        assert not write(engine, lambda connection: store_results(connection, held, [], []))  # should it live after all

    def test_a_job_that_the_dead_holder_had_not_claimed_can_be_taken_at_once(self, engine):
        job_id = add_job(engine)
        assert take(engine) == [job_id]
        assert take(engine) == []  # a message is on its way
        assert not write(engine, lambda connection: reclaim_job(connection, job_id, "worker-1", 3600))
        assert take(engine) == [job_id]
        assert claim(engine, job_id).crashes == 0

    def test_nothing_is_taken_back_that_another_holds_or_that_is_done(self, engine):
        held_by_another, done = add_job(engine), add_job(engine)
        claim(engine, held_by_another, "worker-2")
        held = claim(engine, done)
        outcomes = [scored(scan) for scan in open_scans(engine, done)]
        assert write(engine, lambda connection: store_results(connection, held, outcomes, []))
        for job_id in (held_by_another, done):
            assert not write(engine, lambda connection, job_id=job_id: reclaim_job(connection, job_id, "worker-1", 0))
        assert fetch_job(engine, held_by_another).status is JobStatus.LEASED
        assert fetch_job(engine, done).status is JobStatus.DONE


class TestSplitting:
    @pytest.mark.parametrize(("size", "halves"), [(2, [1, 1]), (5, [2, 3])])
    def test_the_halves_hold_all_open_scans_in_their_order(self, engine, size, halves):
        job_id = add_job(engine, size)
        held, found = claim(engine, job_id), open_scans(engine, job_id)
        made = write(engine, lambda connection: split_job(connection, held, found, 2))
        assert [len(open_scans(engine, half)) for half in made] == halves
        assert [scan for half in made for scan in open_scans(engine, half)] == found
        assert open_scans(engine, job_id) == []
        assert fetch_job(engine, job_id).status is JobStatus.DONE
        jobs_made = [fetch_job(engine, half) for half in made]
        assert [(job.status, job.crashes, job.attempts) for job in jobs_made] == [(JobStatus.QUEUED, 2, 0)] * 2
        assert sorted(take(engine)) == sorted(made)
        assert {row.attempts for row in fetch_scans(engine, held.run_id)} == {1}

    def test_a_holder_that_was_fenced_off_splits_nothing(self, engine):
        job_id = add_job(engine, 2)
        held, found = claim(engine, job_id), open_scans(engine, job_id)
        expire_lease(engine, job_id)
        claim(engine, job_id, "worker-2")
        assert write(engine, lambda connection: split_job(connection, held, found, 2)) == []
        assert open_scans(engine, job_id) == found


class TestTakingDueJobs:
    def test_runs_of_a_class_take_turns_the_older_first_up_to_the_limit_and_none_twice(self, engine):
        older, newer = add_run(engine, 2, job_size=1), add_run(engine, 2, job_size=1)
        assert take(engine, 0) == []
        first = take(engine, 2)
        assert [job_id in job_ids(engine, older) for job_id in first] == [True, False]
        second = take(engine, 9)
        assert {*first, *second} == {*job_ids(engine, older), *job_ids(engine, newer)}
        assert take(engine, 9) == []
        assert len(first + second) == 4

    def test_what_runs_that_share_cannot_divide_evenly_is_taken_too(self, engine):
        for _ in range(2):
            add_run(engine, 3, job_size=1)
        assert len(take(engine, 3)) == 3

    def test_a_run_whose_jobs_are_all_held_keeps_no_place_from_a_newer_one(self, engine):
        claim(engine, add_job(engine))
        newer = add_job(engine)
        assert take(engine, 1) == [newer]

    def test_the_oldest_run_comes_first_whatever_the_order_of_the_rows(self, engine):
        ids = [add_run(engine) for _ in range(3)]
        older = update(runs).where(runs.c.id == ids[1]).values(created_at=database_now(-60))
        write(engine, lambda connection: connection.execute(older))
        assert take(engine, 1) == job_ids(engine, ids[1])

    def test_of_the_jobs_of_a_run_the_oldest_is_sent_first(self, engine):
        ids = sorted(job_ids(engine, add_run(engine, 3, job_size=1)))
        shift_time(engine, ids[0], "created_at", 30)
        assert take(engine, 2) == ids[1:]
        assert take(engine) == ids[:1]

    def test_a_message_whose_job_was_claimed_is_no_longer_on_its_way(self, engine):
        job_id = add_job(engine)
        take(engine)
        for in_flight in (1, 0):
            with reading(engine) as connection:
                assert count_just_published(connection, 60, Priority.NORMAL) == in_flight
            claim(engine, job_id)

    def test_a_message_that_nobody_took_in_time_is_sent_again(self, engine):
        job_id = add_job(engine)
        assert take(engine, republish_s=60) == [job_id]
        assert take(engine, republish_s=60) == []
        shift_time(engine, job_id, "published_at", -61)
        assert take(engine, republish_s=60) == [job_id]

    def test_what_could_not_be_sent_is_due_at_once(self, engine):
        job_id = add_job(engine)
        taken = take(engine)
        write(engine, lambda connection: mark_unpublished(connection, taken))
        assert take(engine) == [job_id]

    def test_a_held_job_is_due_once_its_lease_has_run_out(self, engine):
        job_id = add_job(engine)
        claim(engine, job_id)
        assert take(engine) == []
        expire_lease(engine, job_id)
        assert take(engine) == [job_id]

    def test_what_is_done_is_never_due(self, engine):
        job_id = add_job(engine)
        store(engine, claim(engine, job_id))
        assert take(engine) == []

    def test_an_embedded_run_is_published_by_its_own_process_alone(self, engine):
        embedded, shared = add_run(engine, embedded=True), add_run(engine)
        assert take(engine) == job_ids(engine, shared)
        assert take(engine, run_id=embedded) == job_ids(engine, embedded)

    def test_publishers_at_once_never_take_the_same_job(self, engine):
        run_id = add_run(engine, 12, job_size=1)
        taken = at_once([lambda: take(engine, 5) for _ in range(4)])
        every = [job_id for part in taken for job_id in part]
        assert len(every) == len(set(every))
        every += take(engine)
        assert set(every) == set(job_ids(engine, run_id))

    def test_a_publisher_passes_over_what_another_is_taking(self, postgres_engine):
        ids = job_ids(postgres_engine, add_run(postgres_engine, 4, job_size=1))
        with postgres_engine.begin() as one:
            first = take_due_jobs(one, 3, 60)
            assert set(take(postgres_engine)) == set(ids) - set(first)

    def test_a_job_that_is_being_claimed_is_passed_over_without_waiting(self, postgres_engine):
        job_id = add_job(postgres_engine)
        with postgres_engine.begin() as claiming:
            claiming.exec_driver_sql("SELECT 1 FROM jobs FOR UPDATE")
            assert take(postgres_engine) == []
        assert take(postgres_engine) == [job_id]


def test_a_claim_that_waits_for_a_cancellation_finds_the_job_gone(postgres_engine, monkeypatch):
    job_id = add_job(postgres_engine)
    run_id = fetch_job(postgres_engine, job_id).run_id
    claims = []

    def claim_meanwhile(point):
        if point is Point.CANCEL_IN_TRANSACTION:
            claims.append(in_background(lambda: claim(postgres_engine, job_id)))
            wait_until_blocked(postgres_engine)

    monkeypatch.setattr(db.cancellation, "failpoint", claim_meanwhile)
    cancel_run(postgres_engine, run_id, "cancelled", "x")
    (claiming,) = claims
    assert claiming.result(30) is None


class TestWaiting:
    def test_what_a_worker_could_take_is_counted_with_the_longest_wait(self, engine):
        run_id = add_run(engine, 3, job_size=1)
        first, second, _ = job_ids(engine, run_id)
        shift_time(engine, first, "created_at", -100)
        claim(engine, second)
        found = count_waiting(engine)
        assert found.jobs == 2
        assert 100 <= found.longest_s < 200

    def test_a_lease_that_ran_out_waits_since_then_and_a_back_off_since_its_end(self, engine):
        run_id = add_run(engine, 2, job_size=1)
        for job_id in job_ids(engine, run_id):
            shift_time(engine, job_id, "created_at", -1000)
        first, second = job_ids(engine, run_id)
        claim(engine, first)
        shift_time(engine, first, "lease_expires_at", -50)
        shift_time(engine, second, "not_before", 60)
        found = count_waiting(engine)
        assert (found.jobs, 50 <= found.longest_s < 150) == (1, True)
        shift_time(engine, second, "not_before", -10)
        assert count_waiting(engine).jobs == 2

    def test_nothing_waits_where_nothing_is_due_or_all_is_embedded(self, engine):
        assert count_waiting(engine) == Waiting(0, 0.0)
        add_run(engine, 1, embedded=True)
        assert count_waiting(engine) == Waiting(0, 0.0)

    def test_jobs_for_which_a_message_was_sent_may_be_left_out(self, engine):
        (job_id,) = job_ids(engine, add_run(engine, 1))
        assert count_waiting(engine, unpublished_s=60).jobs == 1
        write(engine, lambda connection: take_due_jobs(connection, 10, 60))
        assert count_waiting(engine, unpublished_s=60).jobs == 0
        shift_time(engine, job_id, "published_at", -61)
        assert count_waiting(engine, unpublished_s=60).jobs == 1


def count_waiting(engine, **options):
    with reading(engine) as connection:
        return count_waiting_jobs(connection, **options)


def test_more_jobs_than_a_statement_has_parameters_are_marked(engine):
    job_id = add_job(engine)
    take(engine)
    others = [uuid.uuid4().hex for _ in range(65_600)]
    write(engine, lambda connection: mark_unpublished(connection, [*others, job_id]))
    assert take(engine) == [job_id]
