"""Runs are created, found, counted, closed, cancelled and retried; every scan stays accounted for."""

import csv
import itertools
import json
import os
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from pyarrow import parquet
from sqlalchemy import func, select, text, update

import db.bulk
import db.cancellation
import db.runs
import db.tallies
from cli.output.result_rows import write_rows
from db.cancellation import cancel_run
from db.engine import reading, write
from db.job_results import store_results
from db.owner import Owner
from db.results import OperatingPoint, ResultFilter, count_decisions, count_reasons, find_providers, stream_results
from db.runs import (
    NewScan,
    close_finished_runs,
    create_run,
    divide_into_jobs,
    find_run,
    list_runs,
    retry_run,
)
from db.tables import jobs, runs, scans
from db.tallies import RunCounts
from db.types import JobStatus, RunStatus, ScanStatus, database_now
from db.views import results
from nightread.errors import DatabaseError, UnknownRun
from nightread.scan.files import decode_path, encode_path
from tests.db_factories import (
    add_run,
    at_once,
    claim,
    count,
    fetch_job,
    fetch_run,
    fetch_scans,
    in_background,
    job_ids,
    new_model,
    new_prediction,
    new_run,
    new_scans,
    open_scans,
    scored,
    shift_time,
    wait_until_blocked,
)

REFUSED = NewScan("/scans/locked", 0, ScanStatus.REJECTED, "permission-denied", "no permission to look into it")


def find(engine, reference):
    with reading(engine) as connection:
        return find_run(connection, reference)


def cancel(engine, run_id):
    return cancel_run(engine, run_id, "cancelled", "stopped by a person")


def retry(engine, run_id, job_size=64, **settings):
    return write(engine, lambda connection: retry_run(
        connection, run_id, job_size, embedded=False, settings=settings
    ))  # fmt: skip


def close(engine):
    return write(engine, close_finished_runs)


def score_all(engine, job_id):
    """Score the open scans of a job; returns whether the claim stayed current."""
    held = claim(engine, job_id)
    if held is None:
        return False
    outcomes = [scored(scan) for scan in open_scans(engine, job_id)]
    ours = write(engine, lambda connection: store_results(connection, held, outcomes, []))
    close(engine)
    return ours


class TestWriting:
    @pytest.mark.parametrize(("found", "in_jobs"), [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])])
    def test_scans_are_dealt_to_jobs_of_at_most_the_job_size_in_their_order(self, engine, found, in_jobs):
        run_id = add_run(engine, found, job_size=3)
        assert [len(open_scans(engine, job_id)) for job_id in job_ids(engine, run_id)] == in_jobs
        assert [scan.path for scan in fetch_scans(engine, run_id)] == [scan.path for scan in new_scans(found)]
        assert count(engine, run_id) == RunCounts(queued=found)
        assert fetch_run(engine, run_id).found == found

    def test_a_run_without_scans_is_finished_at_once(self, engine):
        run = fetch_run(engine, add_run(engine, 0))
        assert run.status is RunStatus.FINISHED
        assert run.finished_at is not None

    def test_what_listing_refused_is_terminal_at_once_and_takes_no_place_in_a_job(self, engine):
        run_id = add_run(
            engine, [REFUSED, *new_scans(2), NewScan("/scans/z", 0, ScanStatus.FAILED, "x", "y")], job_size=2
        )
        assert count(engine, run_id) == RunCounts(queued=2, rejected=1, failed=1)
        assert [len(open_scans(engine, job_id)) for job_id in job_ids(engine, run_id)] == [2]
        refused = fetch_scans(engine, run_id)[0]
        assert (refused.job_id, refused.reason_code) == (None, "permission-denied")
        assert refused.finished_at is not None

    def test_its_times_are_stored_alike_so_that_sqlite_compares_them(self, sqlite_engine):
        add_run(sqlite_engine, 2, job_size=1)
        tables = " UNION ALL ".join(f"SELECT created_at FROM {table}" for table in ("runs", "jobs", "scans"))
        with reading(sqlite_engine) as connection:
            lengths = connection.execute(text(f"SELECT DISTINCT length(created_at) FROM ({tables})")).scalars().all()
        assert len(lengths) == 1

    def test_scans_that_may_still_be_written_get_jobs_of_their_own_which_wait(self, engine):
        growing = [NewScan(f"/scans/z{number}", 1, is_unsettled=True) for number in range(3)]
        found = [growing[0], *new_scans(2), *growing[1:]]
        run_id = add_run(engine, found, job_size=2, settle_s=3600.0)
        jobs_of_run = [fetch_job(engine, job_id) for job_id in job_ids(engine, run_id)]
        waiting = [job for job in jobs_of_run if job.not_before is not None]
        assert [len(open_scans(engine, job.id)) for job in waiting] == [2, 1]
        assert [(job.not_before - job.created_at).total_seconds() for job in waiting] == [3600.0] * 2
        (ready,) = [job for job in jobs_of_run if job.not_before is None]
        assert [scan.path for scan in open_scans(engine, ready.id)] == [scan.path for scan in new_scans(2)]
        assert [fetch_scans(engine, run_id)[place].job_id == ready.id for place in range(5)] == [
            False, True, True, False, False,
        ]  # fmt: skip

    def test_without_a_time_to_settle_all_scans_are_dealt_alike(self, engine):
        run_id = add_run(engine, [NewScan("/scans/z", 1, is_unsettled=True), *new_scans(1)])
        (job_id,) = job_ids(engine, run_id)
        assert fetch_job(engine, job_id).not_before is None

    def test_a_run_whose_every_scan_was_refused_is_finished_at_once(self, engine):
        run_id = add_run(engine, [REFUSED])
        assert fetch_run(engine, run_id).status is RunStatus.FINISHED
        assert job_ids(engine, run_id) == []

    def test_writing_a_run_again_after_a_lost_answer_makes_no_second_one(self, engine):
        run = new_run()
        for _ in range(2):
            assert write(engine, lambda connection: create_run(connection, run, new_scans(2))) == run.id
        with reading(engine) as connection:
            assert connection.execute(select(func.count()).select_from(runs)).scalar() == 1
        assert count(engine, run.id) == RunCounts(queued=2)

    @pytest.mark.parametrize("found", [1, 4, 5, 6])
    def test_scans_that_take_several_statements_keep_their_order(self, engine, monkeypatch, found):
        monkeypatch.setattr(db.bulk, "_ROWS_PER_COPY", 2)
        run_id = add_run(engine, found, job_size=3)
        assert [scan.path for scan in fetch_scans(engine, run_id)] == [scan.path for scan in new_scans(found)]
        assert count(engine, run_id) == RunCounts(queued=found)

    def test_a_server_that_goes_while_the_scans_are_written_makes_one_run_all_the_same(self, postgres_engine):
        tries = []

        def list_slowly():
            for number, scan in enumerate(new_scans(3_000)):
                if tries == [1, 1] and number == 1_000:  # the second time through, as the rows are sent
                    with postgres_engine.connect() as connection:
                        connection.execute(text(
                            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                            "WHERE datname = current_database() AND query LIKE 'COPY scans%'"
                        ))  # fmt: skip
                yield scan

        class Listed:
            def __iter__(self):
                tries.append(1)
                return list_slowly()

        run = new_run()
        write(postgres_engine, lambda connection: create_run(connection, run, Listed()))
        assert len(tries) == 4
        assert count(postgres_engine, run.id) == RunCounts(queued=3_000)

    def test_a_path_twice_leaves_nothing_of_the_run_behind(self, engine):
        with pytest.raises(Exception, match=r"(?i)unique"):
            add_run(engine, [*new_scans(2), *new_scans(1)])
        with reading(engine) as connection:
            assert connection.execute(select(func.count()).select_from(runs)).scalar() == 0

    def test_a_model_of_the_same_name_and_version_but_another_digest_is_refused(self, engine):
        add_run(engine)
        with pytest.raises(DatabaseError, match=r"cnn@1 with another digest.*another version"):
            add_run(engine, model=new_model(digest="e" * 64))
        add_run(engine, model=new_model(digest="e" * 64, version="2"))

    def test_runs_written_at_once_with_a_new_model_all_succeed(self, engine):
        ids = at_once([lambda: add_run(engine, 3) for _ in range(6)])
        assert {count(engine, run_id).found for run_id in ids} == {3}

    @pytest.mark.parametrize(
        "name",
        [
            b"a\nb\r\tc.png", b"it's \"so\".png", b"\xff\xfe.png", "\U0001f9b4 R\u00f6ntgen \u202e.png".encode(),
            rb"back\slash \xff \\n \u0041.png", b"100%_sure?;--.png", b"x" * 255, b"\xff" * 255, b" ",
        ],
        ids=lambda name: ascii(name[:12]),
    )  # fmt: skip
    def test_any_file_name_comes_back_as_it_was(self, engine, name):
        path = os.fsdecode(b"/scans/" + name)
        run_id = add_run(engine, [NewScan(encode_path(path), 1)])
        (stored,) = fetch_scans(engine, run_id)
        assert decode_path(stored.path) == path
        with reading(engine) as connection:
            (row,) = stream_results(connection, ResultFilter(run_id))
        assert row["path"] == encode_path(path)

    @pytest.mark.parametrize(("scans", "most"), [(0, 64), (1, 64), (64, 64), (65, 64), (1200, 64), (1200, 10), (9, 1)])
    def test_jobs_hold_every_scan_and_get_smaller_towards_the_end_of_a_run(self, scans, most):
        sizes = list(divide_into_jobs(scans, most))
        assert sum(sizes) == scans
        assert max(sizes, default=0) <= most
        assert sizes == sorted(sizes, reverse=True)

    def test_what_others_wait_for_at_the_end_of_a_run_is_short(self):
        assert list(divide_into_jobs(1200, 64))[-7:] == [58, 39, 26, 17, 16, 16, 4]
        assert list(divide_into_jobs(40, 64)) == [40]  # there is nothing to wait for: one has it all

    def test_a_large_run_is_written_in_parts(self, postgres_engine):
        run_id = add_run(postgres_engine, 20_000)
        assert count(postgres_engine, run_id) == RunCounts(queued=20_000)
        assert len(job_ids(postgres_engine, run_id)) == len(list(divide_into_jobs(20_000, 64)))


class TestFinding:
    def test_the_newest_run_is_found_where_no_name_is_given(self, engine):
        with pytest.raises(UnknownRun, match="there is no run yet: start one with `nightread score FOLDER`"):
            find(engine, None)
        add_run(engine)
        newest = add_run(engine)
        assert find(engine, None).id == newest
        with pytest.raises(UnknownRun, match="the name of the run is empty"):
            find(engine, "")

    def test_a_run_is_found_by_id_prefix_and_name(self, engine):
        run_id = add_run(engine, name="ward-a")
        add_run(engine, name="ward-b")
        for reference in (run_id, run_id[:6], run_id[:6].upper(), "ward-a"):
            found = find(engine, reference)
            assert (found.id, found.name, found.model) == (run_id, "ward-a", "cnn@1")

    def test_of_several_runs_of_one_name_the_newest_is_found(self, engine):
        add_run(engine, name="ward-a")
        newest = add_run(engine, name="ward-a")
        add_run(engine, name="ward-b")
        assert find(engine, "ward-a").id == newest

    def test_the_newest_run_of_a_schedule_is_found_by_the_schedule_unless_a_run_has_that_name(self, engine):
        add_run(engine, name="ward-a 2026-11-28", schedule="ward-a", night="2026-11-28")
        newest = add_run(engine, name="ward-a 2026-11-29", schedule="ward-a", night="2026-11-29")
        assert find(engine, "ward-a").id == newest
        named = add_run(engine, name="ward-a")
        add_run(engine, name="ward-a 2026-11-30", schedule="ward-a", night="2026-11-30")
        assert find(engine, "ward-a").id == named

    def test_a_whole_id_is_found_even_where_another_run_has_it_as_its_name(self, engine):
        run_id = add_run(engine)
        add_run(engine, name=run_id)
        assert find(engine, run_id).id == run_id

    def test_a_prefix_of_several_runs_is_refused(self, engine):
        for digit in "12":
            add_run(engine, id=f"abc{digit}" + uuid.uuid4().hex[4:])
        with pytest.raises(UnknownRun, match="several runs begin with 'abc': give more of the id"):
            find(engine, "abc")
        assert find(engine, "abc1").id.startswith("abc1")

    @pytest.mark.parametrize("reference", ["%", "_", "night%", "%%", "\\", "\\%", "'", "x" * 300])
    def test_wildcards_in_a_reference_stand_for_themselves(self, engine, reference):
        add_run(engine)
        with pytest.raises(UnknownRun, match=r"there is no run .*`nightread runs` lists them"):
            find(engine, reference)

    def test_runs_are_listed_newest_first_up_to_the_limit(self, engine):
        ids = [add_run(engine, name=f"night-{number}") for number in range(3)]
        with reading(engine) as connection:
            assert [run.id for run in list_runs(connection, 2)] == ids[:0:-1]
            assert [run.id for run in list_runs(connection, 9, name="IGH", statuses=[RunStatus.QUEUED])] == ids[::-1]
            assert list_runs(connection, 9, name="n%t") == list_runs(connection, 9, statuses=[RunStatus.FINISHED]) == []
            first = list_runs(connection, 9)[-1].created_at
            assert len(list_runs(connection, 9, since=first)) == 3
            assert list_runs(connection, 9, since=first + timedelta(days=1)) == []


class TestClosing:
    def test_a_run_ends_with_its_last_job(self, engine):
        run_id = add_run(engine, 4, job_size=2)
        first, second = job_ids(engine, run_id)
        assert score_all(engine, first)
        assert fetch_run(engine, run_id).status is RunStatus.RUNNING
        assert score_all(engine, second)
        run = fetch_run(engine, run_id)
        assert run.status is RunStatus.FINISHED
        assert run.finished_at >= run.created_at
        assert count(engine, run_id) == RunCounts(scored=4)

    def test_a_run_ends_where_its_last_two_jobs_end_at_once(self, engine):
        run_id = add_run(engine, 2, job_size=1)
        first, second = job_ids(engine, run_id)
        at_once([lambda: score_all(engine, first), lambda: score_all(engine, second)])
        assert fetch_run(engine, run_id).status is RunStatus.FINISHED

    def test_neither_of_two_open_transactions_sees_the_others_end_but_the_close_after_both_does(
        self, postgres_engine, monkeypatch
    ):
        slots = itertools.count()  # drawn, they may be the same: then the second waits for the first
        monkeypatch.setattr(db.tallies, "_choose_slot", lambda connection: next(slots))
        run_id = add_run(postgres_engine, 2, job_size=1)
        first, second = (claim(postgres_engine, job_id) for job_id in job_ids(postgres_engine, run_id))
        with postgres_engine.connect() as one, postgres_engine.connect() as two:
            for connection, held in ((one, first), (two, second)):
                outcomes = [scored(scan) for scan in open_scans(postgres_engine, held.job_id)]
                assert store_results(connection, held, outcomes, [])
            assert close_finished_runs(one) == close_finished_runs(two) == 0
            one.commit()
            two.commit()
        assert close(postgres_engine) == 1
        assert close(postgres_engine) == 0

    def test_a_run_that_is_retried_while_it_is_being_closed_stays_open(self, postgres_engine):
        run_id = add_run(postgres_engine, 1)
        (job_id,) = job_ids(postgres_engine, run_id)
        held = claim(postgres_engine, job_id)
        failed = [
            scored(open_scans(postgres_engine, job_id)[0], status=ScanStatus.FAILED, reason_code="x", reason_text="y")
        ]
        write(postgres_engine, lambda connection: store_results(connection, held, failed, []))
        with postgres_engine.begin() as retrying:
            retry_run(retrying, run_id, 64, embedded=False, settings={})
            closing = in_background(lambda: close(postgres_engine))
            wait_until_blocked(postgres_engine)
        assert closing.result(30) == 0
        assert fetch_run(postgres_engine, run_id).status is RunStatus.QUEUED

    def test_closing_does_not_wait_for_a_transaction_that_refers_to_a_run(self, postgres_engine):
        run_id = add_run(postgres_engine, 1)
        (job_id,) = job_ids(postgres_engine, run_id)
        held = claim(postgres_engine, job_id)
        outcomes = [scored(scan) for scan in open_scans(postgres_engine, job_id)]
        write(postgres_engine, lambda connection: store_results(connection, held, outcomes, []))
        with postgres_engine.begin() as referring:
            referring.exec_driver_sql("SELECT 1 FROM runs FOR KEY SHARE")  # as a foreign key does
            assert in_background(lambda: close(postgres_engine)).result(10) == 1

    def test_a_cancelled_run_stays_cancelled(self, engine):
        run_id = add_run(engine, 2)
        cancel(engine, run_id)
        assert close(engine) == 0
        assert fetch_run(engine, run_id).status is RunStatus.CANCELLED


class TestCancelling:
    def test_before_any_claim_every_scan_becomes_failed_and_no_job_can_be_claimed(self, engine):
        run_id = add_run(engine, 3, job_size=2)
        assert cancel(engine, run_id) == 3
        assert count(engine, run_id) == RunCounts(failed=3)
        assert {scan.reason_code for scan in fetch_scans(engine, run_id)} == {"cancelled"}
        assert [claim(engine, job_id) for job_id in job_ids(engine, run_id)] == [None, None]
        run = fetch_run(engine, run_id)
        assert run.status is RunStatus.CANCELLED
        assert run.finished_at is not None

    def test_while_leased_the_late_results_change_no_scan(self, engine):
        run_id = add_run(engine, 2)
        (job_id,) = job_ids(engine, run_id)
        held, found = claim(engine, job_id), open_scans(engine, job_id)
        assert cancel(engine, run_id) == 2
        job = fetch_job(engine, job_id)
        assert job.lease_token > held.token
        assert (job.lease_holder, job.lease_expires_at) == (None, None)
        outcomes = [scored(scan) for scan in found]
        late = [new_prediction(scan.id) for scan in found]
        assert not write(engine, lambda connection: store_results(connection, held, outcomes, late))
        assert count(engine, run_id) == RunCounts(failed=2)
        assert fetch_run(engine, run_id).status is RunStatus.CANCELLED

    @pytest.mark.parametrize(("options", "crashes"), [({}, 0), ({"crashed": True}, 1)])
    def test_a_holder_that_has_died_counts_as_a_crash_of_its_job_alone(self, engine, options, crashes):
        run_id = add_run(engine, 2, job_size=1)
        held, waiting = job_ids(engine, run_id)
        claim(engine, held)
        cancel_run(engine, run_id, "cancelled", "x", **options)
        assert [fetch_job(engine, job_id).crashes for job_id in (held, waiting)] == [crashes, 0]
        assert fetch_job(engine, held).finished_at is not None

    def test_after_the_end_nothing_changes(self, engine):
        run_id = add_run(engine, 2)
        score_all(engine, *job_ids(engine, run_id))
        before = fetch_run(engine, run_id)
        assert cancel(engine, run_id) == 0
        assert fetch_run(engine, run_id) == before
        assert count(engine, run_id) == RunCounts(scored=2)

    def test_what_was_scored_before_stays_scored(self, engine):
        run_id = add_run(engine, 3, job_size=1)
        score_all(engine, job_ids(engine, run_id)[0])
        assert cancel(engine, run_id) == 2
        assert count(engine, run_id) == RunCounts(scored=1, failed=2)

    def test_a_scan_stays_scored_whose_job_waits_for_others(self, engine):
        run_id = add_run(engine, 2)
        (job_id,) = job_ids(engine, run_id)
        held, (first, _) = claim(engine, job_id), open_scans(engine, job_id)
        write(engine, lambda connection: store_results(connection, held, [scored(first)], [], retry_in_s=60.0))
        assert cancel(engine, run_id) == 1
        assert count(engine, run_id) == RunCounts(scored=1, failed=1)
        assert [scan.status for scan in fetch_scans(engine, run_id)] == [ScanStatus.SCORED, ScanStatus.FAILED]

    @pytest.fixture
    def one_job_a_step(self, monkeypatch):
        monkeypatch.setattr(db.cancellation, "_JOBS_PER_STEP", 1)

    def test_a_large_run_ends_in_steps_each_of_which_adds_up(self, engine, one_job_a_step, monkeypatch):
        run_id = add_run(engine, 3, job_size=1)
        seen = []

        def look(engine, work):
            done = write(engine, work)
            seen.append((count(engine, run_id).failed, fetch_run(engine, run_id).status))
            return done

        monkeypatch.setattr(db.cancellation, "write", look)
        assert cancel(engine, run_id) == 3
        assert seen == [(1, RunStatus.QUEUED), (2, RunStatus.QUEUED), (3, RunStatus.CANCELLED)]

    def test_the_newest_jobs_end_first_since_workers_claim_the_oldest(self, engine, one_job_a_step, monkeypatch):
        run_id = add_run(engine, 3, job_size=1)
        one, two, three = sorted(job_ids(engine, run_id))
        shift_time(engine, one, "created_at", 30)
        left = []

        def look(engine, work):
            done = write(engine, work)
            left.append([job_id for job_id in (one, two, three) if fetch_job(engine, job_id).status == "queued"])
            return done

        monkeypatch.setattr(db.cancellation, "write", look)
        cancel(engine, run_id)
        assert left == [[two, three], [two], []]

    def test_a_run_whose_last_job_a_worker_ends_between_two_steps_is_cancelled(
        self, engine, one_job_a_step, monkeypatch
    ):
        run_id = add_run(engine, 2, job_size=1)
        first, second = job_ids(engine, run_id)
        steps = []

        def score_between(engine, work):
            done = write(engine, work)
            if not steps:
                steps.append(score_all(engine, first) or score_all(engine, second))
            return done

        monkeypatch.setattr(db.cancellation, "write", score_between)
        assert cancel(engine, run_id) == 1
        assert steps == [True]
        assert count(engine, run_id) == RunCounts(scored=1, failed=1)
        assert fetch_run(engine, run_id).status is RunStatus.CANCELLED

    def test_a_run_that_is_being_retried_is_cancelled_with_its_new_jobs(self, postgres_engine):
        run_id = add_run(postgres_engine, 2)
        cancel(postgres_engine, run_id)
        with postgres_engine.begin() as retrying:
            retry_run(retrying, run_id, 64, embedded=False, settings={})
            cancelling = in_background(lambda: cancel(postgres_engine, run_id))
            wait_until_blocked(postgres_engine)
        assert cancelling.result(30) == 2
        assert fetch_run(postgres_engine, run_id).status is RunStatus.CANCELLED

    def test_a_job_that_its_worker_ends_meanwhile_keeps_its_end(self, postgres_engine):
        run_id = add_run(postgres_engine, 1)
        (job_id,) = job_ids(postgres_engine, run_id)
        held, found = claim(postgres_engine, job_id), open_scans(postgres_engine, job_id)
        with postgres_engine.begin() as storing:
            assert store_results(storing, held, [scored(scan) for scan in found], [])
            cancelling = in_background(lambda: cancel(postgres_engine, run_id))
            wait_until_blocked(postgres_engine)
        assert cancelling.result(30) == 0
        assert fetch_job(postgres_engine, job_id).lease_token == held.token
        assert count(postgres_engine, run_id) == RunCounts(scored=1)

    def test_other_runs_go_on(self, engine):
        other = add_run(engine, 1)
        cancel(engine, add_run(engine, 1))
        assert fetch_run(engine, other).status is RunStatus.QUEUED
        assert score_all(engine, *job_ids(engine, other))


class TestRetrying:
    def test_failed_scans_are_queued_as_new_jobs_and_scored_ones_are_left_alone(self, engine):
        run_id = add_run(engine, 5, job_size=1)
        score_all(engine, job_ids(engine, run_id)[0])
        cancel(engine, run_id)
        old = set(job_ids(engine, run_id))
        assert retry(engine, run_id, 3, pid=7) == 4
        new = [job_id for job_id in job_ids(engine, run_id) if job_id not in old]
        assert [len(open_scans(engine, job_id)) for job_id in new] == [3, 1]
        run = fetch_run(engine, run_id)
        assert (run.status, run.finished_at, run.settings) == (RunStatus.QUEUED, None, {"pid": 7})
        assert all(score_all(engine, job_id) for job_id in new)
        assert count(engine, run_id) == RunCounts(scored=5)
        assert fetch_run(engine, run_id).status is RunStatus.FINISHED

    def test_jobs_of_a_retry_take_the_scans_in_the_order_they_were_found(self, postgres_engine):
        engine = postgres_engine
        run_id = add_run(engine, 6, job_size=1)
        for job_id in job_ids(engine, run_id)[::-1]:  # so that the newest rows are those of the first scans
            held = claim(engine, job_id)
            failed = [
                scored(scan, status=ScanStatus.FAILED, reason_code="x", reason_text="y")
                for scan in open_scans(engine, job_id)
            ]
            write(engine, lambda connection, held=held, failed=failed: store_results(connection, held, failed, []))

        def retry_without_indexes(connection):
            for kind in ("indexscan", "indexonlyscan", "bitmapscan"):
                connection.execute(text(f"SET LOCAL enable_{kind} = off"))
            return retry_run(connection, run_id, 4, embedded=False, settings={})

        assert write(engine, retry_without_indexes) == 6
        taken = [scan.job_id for scan in fetch_scans(engine, run_id)]
        assert taken == [taken[0]] * 4 + [taken[4]] * 2
        assert taken[0] != taken[4]

    def test_a_retried_run_is_judged_sent_and_counted_anew(self, engine):
        run_id = add_run(engine, 1)
        cancel(engine, run_id)
        now = database_now()
        ended = update(runs).where(runs.c.id == run_id).values(
            guard="failed", guard_text="x", notified_at=now, counted_at=now, sending="held", sending_not_before=now,
        )  # fmt: skip
        write(engine, lambda connection: connection.execute(ended))
        retry(engine, run_id)
        run = fetch_run(engine, run_id)
        assert [run.guard, run.guard_text, run.notified_at, run.counted_at, run.sending, run.sending_not_before] == (
            [None] * 6
        )

    def test_a_retried_run_belongs_to_who_retries_it(self, engine):
        run_id = add_run(engine, 1, embedded=True, owner=Owner("host", 7, "100"))
        for embedded, owner in ((False, None), (True, Owner("other", 8, "200"))):
            cancel(engine, run_id)
            write(engine, lambda connection, embedded=embedded, owner=owner: retry_run(
                connection, run_id, 1, embedded=embedded, settings={}, owner=owner
            ))  # fmt: skip
            run = fetch_run(engine, run_id)
            told = (owner.host, owner.pid, owner.started) if owner else (None, None, None)
            assert (run.embedded, run.host, run.pid, run.process_started) == (embedded, *told)

    def test_scans_of_a_job_that_crashed_its_worker_get_a_job_of_their_own(self, engine):
        run_id = add_run(engine, 4, job_size=2)
        crashed, sound = job_ids(engine, run_id)
        claim(engine, crashed)
        poison = open_scans(engine, crashed)
        cancel_run(engine, run_id, "worker-crash", "x", crashed=True)
        assert retry(engine, run_id, 64) == 4
        new = [job for job in (fetch_job(engine, job_id) for job_id in job_ids(engine, run_id)) if job.status != "done"]
        assert {job.crashes: len(open_scans(engine, job.id)) for job in new} == {0: 2, 1: 2}
        assert [open_scans(engine, job.id) for job in new if job.crashes] == [poison]
        assert sound not in {job.id for job in new}

    def test_a_second_retry_finds_nothing(self, engine):
        run_id = add_run(engine, 2)
        cancel(engine, run_id)
        assert [retry(engine, run_id), retry(engine, run_id)] == [2, 0]

    def test_two_retries_at_once_queue_each_scan_once(self, engine):
        run_id = add_run(engine, 6)
        cancel(engine, run_id)
        assert sorted(at_once([lambda: retry(engine, run_id), lambda: retry(engine, run_id)])) == [0, 6]
        assert count(engine, run_id) == RunCounts(queued=6)

    def test_a_retry_waits_for_the_cancellation_whose_scans_it_queues_again(self, postgres_engine):
        run_id = add_run(postgres_engine, 2)
        with postgres_engine.begin() as cancelling:
            db.cancellation._cancel_step(
                cancelling, run_id=run_id, reason=("cancelled", "x"), crashed=False, has_begun=False
            )
            retrying = in_background(lambda: retry(postgres_engine, run_id))
            wait_until_blocked(postgres_engine)
        assert retrying.result(30) == 2

    def test_a_run_without_failed_scans_is_left_as_it_is(self, engine):
        run_id = add_run(engine, [REFUSED, *new_scans(1)])
        score_all(engine, *job_ids(engine, run_id))
        before = fetch_run(engine, run_id)
        assert retry(engine, run_id) == 0
        assert fetch_run(engine, run_id) == before

    def test_while_the_run_goes_on_the_open_jobs_are_left_to_their_holders(self, engine):
        run_id = add_run(engine, [*new_scans(1), NewScan("/scans/z", 0, ScanStatus.FAILED, "x", "y")])
        (job_id,) = job_ids(engine, run_id)
        held, found = claim(engine, job_id), open_scans(engine, job_id)
        assert retry(engine, run_id) == 1
        assert write(engine, lambda connection: store_results(connection, held, [scored(found[0])], []))
        assert close(engine) == 0
        (left,) = [other for other in job_ids(engine, run_id) if fetch_job(engine, other).status is JobStatus.QUEUED]
        assert fetch_job(engine, left).crashes == 0
        assert score_all(engine, left)
        assert count(engine, run_id) == RunCounts(scored=2)

    def test_a_worker_from_before_the_cancellation_does_not_touch_the_retried_scans(self, engine):
        run_id = add_run(engine, 1)
        (job_id,) = job_ids(engine, run_id)
        held, found = claim(engine, job_id), open_scans(engine, job_id)
        cancel(engine, run_id)
        retry(engine, run_id)
        assert not write(engine, lambda connection: store_results(connection, held, [scored(found[0])], []))
        assert count(engine, run_id) == RunCounts(queued=1)

    def test_cancelling_retrying_and_claiming_at_once_leaves_no_run_ended_with_open_scans(self, engine):
        run_id = add_run(engine, 8, job_size=1)
        for _ in range(4):
            at_once(
                [lambda: cancel(engine, run_id), lambda: retry(engine, run_id), lambda: close(engine)]
                + [lambda job_id=job_id: score_all(engine, job_id) for job_id in job_ids(engine, run_id)[-3:]]
            )
            run, counts = fetch_run(engine, run_id), count(engine, run_id)
            assert counts.found == 8
            is_open = run.status in {RunStatus.QUEUED, RunStatus.RUNNING}
            assert is_open == (run.finished_at is None)
            if not is_open:
                assert counts.queued == 0


class TestAsking:
    def test_counts_of_several_runs_reconcile(self, engine):
        first, second, empty = add_run(engine, [REFUSED, *new_scans(3)]), add_run(engine, 2), add_run(engine, 0)
        (job_id,) = job_ids(engine, first)
        held, (one, two, _) = claim(engine, job_id), open_scans(engine, job_id)
        write(engine, lambda connection: store_results(
            connection, held, [scored(one), scored(two, reused=True)], [new_prediction(two.id)], retry_in_s=0
        ))  # fmt: skip
        with reading(engine) as connection:
            counts = db.tallies.count_scans(connection, [first, second, empty])
        assert counts == {
            first: RunCounts(queued=1, scored=2, rejected=1, reused=1), second: RunCounts(queued=2), empty: RunCounts(),
        }  # fmt: skip
        assert counts[first].found == 4
        assert counts[first].terminal == 3

    def test_results_hold_a_row_a_label_of_each_scored_scan_and_one_row_of_each_other(self, engine):
        run_id = add_run(engine, [REFUSED, *new_scans(3)])
        (job_id,) = job_ids(engine, run_id)
        held, (one, two, _) = claim(engine, job_id), open_scans(engine, job_id)
        found = [
            new_prediction(one.id, label="a", score=0.9, decision="a"), new_prediction(one.id, label="b"),
            new_prediction(two.id, label="a"), new_prediction(two.id, label="b", model_digest="d" * 64),
        ]  # fmt: skip
        write(
            engine, lambda connection: store_results(connection, held, [scored(one), scored(two)], found, retry_in_s=0)
        )
        with reading(engine) as connection:
            rows = list(stream_results(connection, ResultFilter(run_id)))
            assert [(row["status"], row["label"], row["score"]) for row in rows] == [
                ("rejected", None, None), ("scored", "a", 0.9), ("scored", "b", 0.25), ("scored", "a", 0.25),
                ("scored", "b", 0.25), ("queued", None, None),
            ]  # fmt: skip
            assert {row["model"] for row in rows} == {"cnn@1"}
            assert [row["path"] for row in stream_results(connection, ResultFilter(run_id, label="b", limit=1))] == [
                one.path
            ]
            assert len(list(stream_results(connection, ResultFilter(run_id, min_score=0.9)))) == 1
            by_status = ResultFilter(run_id, statuses=[ScanStatus.REJECTED, ScanStatus.FAILED])
            assert [row["reason"] for row in stream_results(connection, by_status)] == ["permission-denied"]
            assert count_decisions(connection, run_id) == {"a": 1, "normal": 3}
            assert count_reasons(connection, run_id) == {"rejected": {"permission-denied": 1}, "failed": {}}
            assert find_providers(connection, run_id) == ["CPUExecutionProvider"]

    def test_decisions_are_derived_anew_at_an_operating_point_and_the_stored_ones_stay(self, engine):
        run_id = add_run(engine, [REFUSED, *new_scans(2)])
        (job_id,) = job_ids(engine, run_id)
        held, (one, two) = claim(engine, job_id), open_scans(engine, job_id)
        found = [
            new_prediction(one.id, label="a", score=0.5, decision="uncertain"), new_prediction(one.id, label="b"),
            new_prediction(two.id, label="a", score=0.4999, decision="uncertain"), new_prediction(two.id, label="b"),
        ]  # fmt: skip
        write(engine, lambda connection: store_results(connection, held, [scored(one), scored(two)], found))
        wanted = ResultFilter(run_id, decided_at=OperatingPoint("balanced", {"a": 0.5, "b": 0.1}, "absent"))
        with reading(engine) as connection:
            rows = list(stream_results(connection, wanted))
            only = list(stream_results(connection, replace(wanted, decision="absent", label="a")))
            stored = [row["decision"] for row in stream_results(connection, ResultFilter(run_id))]
        assert [row["decision"] for row in rows] == [None, "a", "b", "absent", "b"]
        assert {row["operating_point"] for row in rows} == {"balanced"}
        assert rows[0].keys() == {*results.c.keys(), "operating_point"}
        assert [(row["path"], row["decision"]) for row in only] == [(two.path, "absent")]
        assert stored == [None, "uncertain", "normal", "uncertain", "normal"]

    @pytest.mark.parametrize("form", ["csv", "json", "parquet"])
    def test_a_file_tells_the_operating_point_of_its_decisions(self, sqlite_engine, tmp_path, form):
        run_id = add_run(sqlite_engine, 1)
        (job_id,) = job_ids(sqlite_engine, run_id)
        held, (scan,) = claim(sqlite_engine, job_id), open_scans(sqlite_engine, job_id)
        found = [new_prediction(scan.id, label="a", score=0.5, decision="uncertain")]
        write(sqlite_engine, lambda connection: store_results(connection, held, [scored(scan)], found))
        path = tmp_path / f"night.{form}"
        with reading(sqlite_engine) as connection:
            point = OperatingPoint("balanced", {"a": 0.5}, "absent")
            write_rows(connection, ResultFilter(run_id, decided_at=point), form, path)
        (row,) = {
            "csv": lambda: list(csv.DictReader(path.read_text().splitlines())),
            "json": lambda: json.loads(path.read_text()),
            "parquet": lambda: parquet.read_table(path).to_pylist(),
        }[form]()
        assert (row["decision"], row["operating_point"], float(row["score"])) == ("a", "balanced", 0.5)

    def test_a_prediction_of_another_model_or_preprocessing_is_not_shown(self, engine):
        add_run(engine, model=new_model(digest="e" * 64, version="2"))
        run_id = add_run(engine, 1)
        (job_id,) = job_ids(engine, run_id)
        held, (scan,) = claim(engine, job_id), open_scans(engine, job_id)
        found = [
            new_prediction(scan.id), new_prediction(scan.id, model_digest="e" * 64, score=0.5),
            new_prediction(scan.id, preprocessing="0", score=0.75),
        ]  # fmt: skip
        write(engine, lambda connection: store_results(connection, held, [scored(scan)], found))
        with reading(engine) as connection:
            assert [row["score"] for row in stream_results(connection, ResultFilter(run_id))] == [0.25]

    def test_no_scan_and_no_job_is_left_open_by_a_closed_run(self, engine):
        run_id = add_run(engine, 3, job_size=2)
        for job_id in job_ids(engine, run_id):
            score_all(engine, job_id)
        with reading(engine) as connection:
            assert not connection.execute(select(scans.c.id).where(scans.c.status == ScanStatus.QUEUED)).all()
            assert not connection.execute(select(jobs.c.id).where(jobs.c.status != JobStatus.DONE)).all()
