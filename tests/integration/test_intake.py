"""Intake of runs: files that still change, files that are known, keys, lists, long paths, and guards of their end."""

import logging
import os
import time

import pytest

from db.engine import reading
from db.runs import list_runs
from nightread import logs
from nightread.reasons import Reason
from nightread.settings import read_settings
from tests.db_factories import fetch_job, fetch_run, fetch_scans, job_ids, shift_time
from tests.factories import small_chest, write_jpeg
from tests.worker_factories import run_process, write_scans
from worker.errors import NothingNew, NothingToScore, WrongKey
from worker.jobs.job import score_job
from worker.runs.enqueue import retry_run, write_run
from worker.runs.guards import Guards, end_runs
from worker.runs.request import Request


@pytest.fixture
def process(engine):
    with run_process(engine, embedded=False) as process:
        yield process


def take_in(process, *paths, listed=None, **asked):
    bundle = process.open_default()
    request = Request(**asked)
    return write_run(process.engine, process.settings, bundle, paths, request, embedded=False, listed=listed).run_id


def work(process, run_id):
    """Score what is due of a run, and judge it if it has ended."""
    for job_id in job_ids(process.engine, run_id):
        score_job(process, job_id)
    end_runs(process.engine)
    return fetch_run(process.engine, run_id)


def age(folder, seconds=3600.0):
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)
    return folder


def outcomes(process, run_id):
    return [(str(row.status), row.reason_code) for row in fetch_scans(process.engine, run_id)]


def test_the_line_of_a_job_names_its_run_and_counts(process, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(logs._add_context)
    run_id = take_in(process, write_scans(tmp_path / "ward", 2))
    work(process, run_id)
    (line,) = [record for record in caplog.records if "deferred" in record.message]
    assert (line.run, line.message) == (run_id, "2 scans done, 0 deferred")


class TestSettle:
    def test_a_file_that_still_changes_is_read_later_in_the_same_run(self, process, tmp_path):
        folder = age(write_scans(tmp_path / "night", 2))
        half = folder / "scan-002"
        half.write_bytes(write_scans(tmp_path / "whole", 1).joinpath("scan-000").read_bytes()[:500])
        run_id = take_in(process, folder, settle_s=60)
        settled, later = job_ids(process.engine, run_id)
        assert fetch_job(process.engine, settled).not_before is None
        assert fetch_job(process.engine, later).not_before is not None

        assert work(process, run_id).finished_at is None
        shift_time(process.engine, later, "not_before", -1)  # a minute later, and it has grown meanwhile
        assert work(process, run_id).finished_at is None
        assert outcomes(process, run_id) == [("scored", None), ("scored", None), ("queued", None)]
        write_jpeg(half, small_chest(7))
        age(folder)
        shift_time(process.engine, later, "not_before", -1)
        assert work(process, run_id).guard == "passed"
        assert outcomes(process, run_id) == [("scored", None)] * 3

    def test_a_file_that_never_settles_ends_failed(self, process, tmp_path, monkeypatch):
        monkeypatch.setattr("worker.jobs.job._SETTLE_TRIES", 1)
        run_id = take_in(process, write_scans(tmp_path / "night", 1), settle_s=60)
        (job_id,) = job_ids(process.engine, run_id)
        shift_time(process.engine, job_id, "not_before", -1)
        work(process, run_id)
        assert outcomes(process, run_id) == [("failed", Reason.STILL_CHANGING)]


class TestOnlyNew:
    def test_what_is_known_is_left_out_and_what_has_changed_is_taken(self, process, tmp_path):
        folder = write_scans(tmp_path / "night", 3)
        (folder / "empty.jpg").touch()
        work(process, take_in(process, folder))
        with pytest.raises(NothingNew, match="4 scans were scored before"):
            take_in(process, folder, only_new=True)

        age(folder, 7200)  # touched: three have the same content
        write_jpeg(folder / "scan-000", small_chest(50))
        write_jpeg(folder / "new.jpg", small_chest(51))
        run_id = take_in(process, folder, only_new=True)
        names = [row.path.rpartition("/")[2] for row in fetch_scans(process.engine, run_id)]
        assert names == ["empty.jpg", "new.jpg", "scan-000"]  # of an empty file there is no content to compare
        assert fetch_run(process.engine, run_id).skipped == {"already-scored": 2}

    def test_what_waits_in_another_run_is_left_out_and_what_has_failed_is_taken_again(self, process, tmp_path):
        folder = write_scans(tmp_path / "night", 2)
        first = take_in(process, folder)
        with pytest.raises(NothingNew):
            take_in(process, folder, only_new=True)
        (folder / "scan-000").rename(tmp_path / "away")
        (job_id,) = job_ids(process.engine, first)
        for _ in range(3):
            shift_time(process.engine, job_id, "not_before", -1)
            work(process, first)
        (tmp_path / "away").rename(folder / "scan-000")
        again = take_in(process, folder, only_new=True)
        assert [row.path.rpartition("/")[2] for row in fetch_scans(process.engine, again)] == ["scan-000"]


class TestKey:
    def test_a_repeated_request_finds_its_run(self, process, tmp_path):
        folder = write_scans(tmp_path / "night", 2)
        run_ids = {take_in(process, folder, key="2026-11-29/ward-a") for _ in range(5)}
        assert len(run_ids) == 1
        with pytest.raises(WrongKey, match="over other paths"):
            take_in(process, write_scans(tmp_path / "other", 1), key="2026-11-29/ward-a")
        with reading(process.engine) as connection:
            assert len(list_runs(connection, 10)) == 1

    def test_an_empty_folder_does_not_use_a_key_up(self, process, tmp_path):
        folder = tmp_path / "night"
        folder.mkdir()
        with pytest.raises(NothingToScore, match="--allow-empty"):
            take_in(process, folder, key="k")
        with reading(process.engine) as connection:
            (empty,) = list_runs(connection, 10)
        assert (empty.found, empty.guard, empty.key) == (0, "empty", None)
        write_scans(folder, 1)
        assert fetch_run(process.engine, take_in(process, folder, key="k")).found == 1


class TestGuardsOfARun:
    def test_a_night_of_rejected_scans_is_marked_and_judged_anew_after_a_retry(self, process, tmp_path):
        folder = tmp_path / "night"
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.jpg").write_bytes(b"no picture")
        run = work(process, take_in(process, folder))
        assert (run.guard, run.guard_text) == (
            "one-reason", "all 3 scans are rejected for one reason, not-an-image",
        )  # fmt: skip

    def test_a_folder_among_several_that_held_nothing_is_told_by_its_place(self, process, tmp_path):
        (tmp_path / "empty").mkdir()
        run_id = take_in(process, write_scans(tmp_path / "night", 1), tmp_path / "empty")
        run = work(process, run_id)
        assert (run.guard, run.guard_text) == ("empty-source", "of 2 sources, number 2 held no scan")

    def test_a_run_that_is_retried_is_judged_by_its_new_end(self, process, tmp_path, redis_url):
        folder = write_scans(tmp_path / "night", 1)
        kept = (folder / "scan-000").rename(tmp_path / "kept")
        (folder / "scan-000").symlink_to(kept)  # leads out of the folder, which is the only root
        write_scans(folder / "more", 1)
        run_id = take_in(process, folder, guards=Guards(max_failed="0"))
        (folder / "more" / "scan-000").rename(tmp_path / "away")
        (job_id,) = job_ids(process.engine, run_id)
        for _ in range(3):
            shift_time(process.engine, job_id, "not_before", -1)
            run = work(process, run_id)
        assert run.guard == "failed"
        (tmp_path / "away").rename(folder / "more" / "scan-000")
        retry_run(process.engine, read_settings(broker_url=redis_url), run_id)
        assert fetch_run(process.engine, run_id).guard is None
        assert work(process, run_id).guard == "passed"


def test_a_list_gives_each_of_its_paths_a_row_whatever_is_wrong_with_it(process, tmp_path):
    folder = write_scans(tmp_path / "night", 2)
    listed = [folder / "scan-000", folder / "missing.jpg", folder / ("x" * 255) / ("y" * 5000)]
    run_id = take_in(process, folder, listed=listed)
    assert outcomes(process, run_id) == [
        ("queued", None), ("failed", Reason.MISSING_FILE), ("rejected", Reason.PATH_TOO_LONG),
    ]  # fmt: skip


def test_an_over_long_path_is_one_row_with_a_digest_and_the_others_are_enqueued(process, tmp_path):
    folder = write_scans(tmp_path / "night", 1)
    deep = folder.joinpath(*["d" * 250] * 12)
    for name in ("a.jpg", "b.jpg"):
        write_jpeg(deep / name)
    rows = fetch_scans(process.engine, take_in(process, folder))
    assert sorted((str(row.status), row.reason_code or "") for row in rows) == [
        ("queued", ""), ("rejected", Reason.PATH_TOO_LONG), ("rejected", Reason.PATH_TOO_LONG),
    ]  # fmt: skip
    assert len({row.path for row in rows}) == 3


def test_a_folder_under_two_names_is_stored_under_the_shared_one_and_read_under_its_own(engine, tmp_path):
    with run_process(engine, embedded=False, path_map=f"/shared={tmp_path}/here") as process:
        run_id = take_in(process, write_scans(tmp_path / "here" / "night", 2))
        assert [row.path for row in fetch_scans(engine, run_id)] == [f"/shared/night/scan-00{n}" for n in (0, 1)]
    (tmp_path / "here").rename(tmp_path / "there")
    with run_process(engine, embedded=False, path_map=f"/shared={tmp_path}/there") as elsewhere:
        assert work(elsewhere, run_id).guard == "passed"
        assert outcomes(elsewhere, run_id) == [("scored", None)] * 2
