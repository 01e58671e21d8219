"""The guards of runs in the database: each ended run is judged once, and a schedule's usual size is learned."""

import pytest
from sqlalchemy import update

from db.cancellation import cancel_run
from db.engine import reading, write
from db.guards import find_night_sizes, find_unjudged, store_guard
from db.job_results import store_results
from db.runs import NewScan
from db.tables import REASON_TEXT_LENGTH, runs
from db.types import RunStatus, ScanStatus
from tests.db_factories import add_job, add_run, claim, fetch_job, fetch_run, open_scans, scored
from worker.runs import guards as guards_module
from worker.runs.guards import Guards, end_runs, judge_run


def add_ended(engine, found=1, limits=None, **fields):
    """Insert a run that has ended, since each of its scans failed when it was listed."""
    scans = [NewScan(f"/scans/{number}", 0, ScanStatus.FAILED, "x", "y") for number in range(found)]
    return add_run(engine, scans, guards=(limits or Guards()).to_json(), **fields)


def store(engine, run_id, guard="passed", text=""):
    return write(engine, lambda connection: store_guard(connection, run_id, guard, text))


def find_all_unjudged(engine):
    with reading(engine) as connection:
        return list(find_unjudged(connection))


class TestStoring:
    def test_finished_runs_with_guards_are_judged_and_each_once(self, engine):
        unjudged, judged = add_ended(engine), add_ended(engine)
        add_run(engine, [NewScan("/scans/x", 0, ScanStatus.FAILED, "x", "y")])  # without guards
        opened, cancelled = (add_run(engine, 1, guards=Guards().to_json()) for _ in range(2))
        cancel_run(engine, cancelled, "cancelled", "x")
        assert store(engine, judged)
        assert find_all_unjudged(engine) == [unjudged]
        assert [store(engine, run_id) for run_id in (judged, opened, cancelled)] == [False] * 3

    def test_the_first_judgement_stays_and_is_one_runs_alone(self, engine):
        run_id, other = add_ended(engine), add_ended(engine)
        assert store(engine, run_id, "too-few", "x" * 400)
        assert not store(engine, run_id, "passed")
        run = fetch_run(engine, run_id)
        assert (run.guard, run.guard_text) == ("too-few", "x" * REASON_TEXT_LENGTH)
        assert store(engine, other)
        assert (fetch_run(engine, other).guard, fetch_run(engine, other).guard_text) == ("passed", None)

    def test_the_usual_size_is_that_of_the_newest_nights_that_held_scans(self, engine):
        for found in (9, 1, 2):
            add_ended(engine, found, schedule="ward")
        add_ended(engine, 0, schedule="ward")
        add_ended(engine, 4, schedule="another")
        add_run(engine, 5, schedule="ward")
        run_id = add_ended(engine, 3, schedule="ward")
        with reading(engine) as connection:
            assert find_night_sizes(connection, "ward", run_id, 2) == [2, 1]
            assert find_night_sizes(connection, "ward", run_id, 14) == [2, 1, 9]

    def test_the_usual_size_counts_scans_that_were_pruned(self, engine):
        run_id = add_ended(engine, 9, schedule="ward")
        write(engine, lambda connection: connection.execute(
            update(runs).where(runs.c.id == run_id).values(found=2, pruned=7)
        ))  # fmt: skip
        with reading(engine) as connection:
            assert find_night_sizes(connection, "ward", "another", 14) == [9]


class TestJudging:
    @pytest.mark.parametrize(
        ("found", "limits", "guard", "is_told"),
        [(3, {}, "passed", False), (3, {"least": 5}, "too-few", True), (0, {}, "empty", False)],
    )
    def test_a_run_keeps_what_its_guards_found(self, engine, caplog, found, limits, guard, is_told):
        run_id = add_ended(engine, found, Guards(**limits))
        run = judge_run(engine, run_id)
        assert (run.guard, run.guard_text is None) == (guard, guard == "passed")
        assert ("does not look like a night" in caplog.text) is is_told
        caplog.clear()
        assert judge_run(engine, run_id) == run
        assert caplog.text == ""

    def test_an_open_run_and_one_without_guards_are_left_alone(self, engine):
        opened, without = add_run(engine, 1, guards=Guards(least=5).to_json()), add_run(engine, 0)
        assert [judge_run(engine, run_id).guard for run_id in (opened, without)] == [None, None]

    def test_several_guards_that_trip_are_all_told_and_the_first_names_the_run(self, engine):
        run = judge_run(engine, add_ended(engine, 3, Guards(least=5, max_failed="0")))
        assert run.guard == "too-few"
        assert "; 3 of 3 scans are failed" in run.guard_text

    @pytest.mark.parametrize(("alarm", "drifted", "guard"), [
        (True, "unlike", "drift"), (True, "", "passed"), (False, "unlike", "passed"),
    ])  # fmt: skip
    def test_drift_trips_where_it_is_an_alarm(self, engine, monkeypatch, alarm, drifted, guard):
        monkeypatch.setattr(guards_module, "_find_drift", lambda *_: drifted)
        assert judge_run(engine, add_ended(engine, 1, Guards(drift_alarm=alarm))).guard == guard

    @pytest.mark.parametrize(("is_learned", "guard"), [(True, "too-few"), (False, "passed")])
    def test_a_night_far_smaller_than_the_last_ones_trips(self, engine, is_learned, guard):
        for _ in range(5):
            add_ended(engine, 6, schedule="ward")
        run_id = add_ended(engine, 1, Guards(is_learned=is_learned), schedule="ward")
        assert judge_run(engine, run_id).guard == guard

    def test_whoever_closes_a_run_judges_it_and_counts_its_folders(self, engine):
        job_id = add_job(engine, guards=Guards(least=5).to_json())
        held, outcomes = claim(engine, job_id), [scored(scan) for scan in open_scans(engine, job_id)]
        write(engine, lambda connection: store_results(connection, held, outcomes, []))
        end_runs(engine)
        run = fetch_run(engine, fetch_job(engine, job_id).run_id)
        assert (run.status, run.guard) == (RunStatus.FINISHED, "too-few")
        assert run.counted_at is not None
