"""A job from claim to commit, with real files, the shipped model and both databases, without Celery."""

import hmac
import shutil
import threading

import pytest
from sqlalchemy import select

from db.cancellation import cancel_run
from db.engine import reading, write
from db.jobs import renew_lease
from db.results import ResultFilter, stream_results
from db.runs import retry_run
from db.tables import STAGES, predictions
from db.tallies import RunCounts
from db.types import JobStatus, RunStatus, ScanStatus
from nightread.errors import DatabaseError, DatabaseUnavailable
from nightread.failpoints import arm
from nightread.inference import content as content_module
from nightread.inference.scorer import Scorer
from nightread.reasons import Reason
from tests.db_factories import (
    add_job,
    at_once,
    claim,
    count,
    expire_lease,
    fetch_job,
    fetch_run,
    fetch_scans,
    job_ids,
    shift_time,
)
from tests.factories import encode_jpeg, small_chest, write_dicom
from tests.worker_factories import add_job_of, add_run_of, run_process, write_scans
from worker.jobs import job as job_module
from worker.jobs import pipeline
from worker.jobs.heartbeat import Heartbeat
from worker.jobs.job import backoff_s, score_job


@pytest.fixture
def process(engine):
    with run_process(engine) as process:
        yield process


@pytest.fixture
def session_runs(monkeypatch):
    """Number of scans of each inference, without the parity checks when a model is opened."""
    runs = []
    infer_batch = Scorer.infer_batch

    def score(scorer, batch):
        if hasattr(scorer, "parity"):
            runs.append(len(batch))
        return infer_batch(scorer, batch)

    monkeypatch.setattr(Scorer, "infer_batch", score)
    return runs


def run_id_of(process, job_id):
    return fetch_job(process.engine, job_id).run_id


def results_of(process, run_id):
    with reading(process.engine) as connection:
        return list(stream_results(connection, ResultFilter(run_id)))


def bring_forward(process, job_id):
    shift_time(process.engine, job_id, "not_before", -1)


def while_scoring(monkeypatch, action):
    """Call a function in the middle of each job: after its claim, before its results are stored."""
    score_scans = job_module.score_scans

    def score(*arguments, **options):
        result = score_scans(*arguments, **options)
        action()
        return result

    monkeypatch.setattr(job_module, "score_scans", score)


class Killed(BaseException):
    """The end of a worker's process: nothing of its code runs any more."""


def kill_while_scoring(monkeypatch, scan_id):
    """Kill every worker that scores a certain scan."""
    score_scans = job_module.score_scans

    def score(open_scans, *arguments, **options):
        if scan_id in {scan.id for scan in open_scans}:
            raise Killed
        return score_scans(open_scans, *arguments, **options)

    monkeypatch.setattr(job_module, "score_scans", score)


def list_open_jobs(process, run_id):
    jobs = job_ids(process.engine, run_id)
    return [job_id for job_id in jobs if fetch_job(process.engine, job_id).status is not JobStatus.DONE]


def add_scored_run(process, folder):
    run_id = add_run_of(process, folder)
    for job_id in job_ids(process.engine, run_id):
        score_job(process, job_id)
    return run_id


class TestScoring:
    def test_a_job_ends_with_a_prediction_of_each_scan_and_closes_its_run(self, process, tmp_path, session_runs):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 4))
        report = score_job(process, job_id)
        assert (report.ended, report.put_off, report.split) == (4, 0, False)
        run = fetch_run(process.engine, run_id_of(process, job_id))
        assert run.status is RunStatus.FINISHED
        assert count(process.engine, run.id) == RunCounts(scored=4)
        rows = results_of(process, run.id)
        assert all(0 <= row["score"] <= 1 for row in rows)
        assert [row["study"] is not None for row in rows] == [False, False, True, False]
        assert {row["provider"] for row in rows} == {"CPUExecutionProvider"}
        assert sum(session_runs) == 4  # in parts, one for each thread
        with reading(process.engine) as connection:
            assert set(connection.execute(select(predictions.c.worker)).scalars()) == {process.name}

    def test_a_job_keeps_its_seconds_by_stage_and_its_batches(self, process, tmp_path, session_runs):
        folder = write_scans(tmp_path / "night", 4)
        (folder / "cut").write_bytes((folder / "scan-000").read_bytes()[:900])
        job_id = add_job_of(process, folder)
        score_job(process, job_id)
        job = fetch_job(process.engine, job_id)
        assert all(getattr(job, f"{stage}_s") > 0 for stage in STAGES)
        assert (job.batches, job.batched_scans) == (len(session_runs), sum(session_runs))
        again = add_job_of(process, folder)  # everything is stored by now: it is read and hashed, and no more
        score_job(process, again)
        job = fetch_job(process.engine, again)
        assert (job.prepare_s, job.infer_s, job.batches) == (0, 0, 0)
        assert job.hash_s > 0

    def test_a_job_that_is_put_off_adds_its_seconds_up(self, process, tmp_path, session_runs):
        folder = write_scans(tmp_path / "night", 3)
        job_id = add_job_of(process, folder)
        (folder / "scan-000").rename(tmp_path / "away")
        score_job(process, job_id)
        first = fetch_job(process.engine, job_id)
        (tmp_path / "away").rename(folder / "scan-000")
        bring_forward(process, job_id)
        score_job(process, job_id)
        last = fetch_job(process.engine, job_id)
        assert last.read_s > first.read_s
        assert (first.batched_scans, last.batched_scans) == (2, 3)
        assert last.batches == len(session_runs)

    def test_a_stopping_worker_keeps_what_it_has_scored_and_queues_the_rest_at_once(
        self, process, tmp_path, monkeypatch
    ):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 3))
        score_scans = job_module.score_scans

        def stop_after_one(open_scans, *arguments, **options):
            process.is_stopping = True
            return score_scans(open_scans[:1], *arguments, **options | {"is_stopping": lambda: False})

        monkeypatch.setattr(job_module, "score_scans", stop_after_one)
        assert score_job(process, job_id).ended == 1
        job = fetch_job(process.engine, job_id)
        assert (job.status, job.attempts, job.crashes) == (JobStatus.QUEUED, 0, 0)
        assert count(process.engine, job.run_id) == RunCounts(queued=2, scored=1)
        assert claim(process.engine, job_id) is not None

    def test_a_worker_that_stops_after_a_job_s_last_scan_ends_the_job(self, process, tmp_path, monkeypatch):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 2))
        self.stop_after_the_last_scan(process, monkeypatch)
        assert score_job(process, job_id).ended == 2
        assert fetch_job(process.engine, job_id).status is JobStatus.DONE

    def test_a_scan_whose_file_is_away_waits_although_the_worker_stops(self, process, tmp_path, monkeypatch):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 2))
        self.stop_after_the_last_scan(process, monkeypatch)
        next((tmp_path / "night").iterdir()).unlink()
        assert score_job(process, job_id).put_off == 1
        assert fetch_job(process.engine, job_id).attempts == 1
        assert claim(process.engine, job_id) is None

    @staticmethod
    def stop_after_the_last_scan(process, monkeypatch):
        score_scans = job_module.score_scans

        def stop(*arguments, **options):
            result = score_scans(*arguments, **options)
            process.is_stopping = True
            return result

        monkeypatch.setattr(job_module, "score_scans", stop)

    def test_a_job_that_has_crashed_once_is_scored_scan_by_scan_in_the_sandbox(self, process, tmp_path, monkeypatch):
        seen = []
        score_scans = job_module.score_scans

        def look(*arguments, isolated, **options):
            seen.append(isolated)
            return score_scans(*arguments, isolated=isolated, **options)

        monkeypatch.setattr(job_module, "score_scans", look)
        jobs_ = [add_job_of(process, write_scans(tmp_path / name, 1)) for name in ("sound", "crashed")]
        held = claim(process.engine, jobs_[1])
        assert held is not None
        expire_lease(process.engine, jobs_[1])
        for job_id in jobs_:
            score_job(process, job_id)
        assert seen == [False, True]

    def test_a_second_delivery_changes_nothing(self, process, tmp_path, session_runs):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 2))
        assert score_job(process, job_id) is not None
        before = fetch_scans(process.engine, run_id_of(process, job_id))
        assert score_job(process, job_id) is None
        assert fetch_scans(process.engine, run_id_of(process, job_id)) == before
        assert sum(session_runs) == 2

    def test_two_deliveries_at_once_score_once(self, process, tmp_path, session_runs):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 2))
        reports = at_once([lambda: score_job(process, job_id)] * 3)
        assert sorted(report is not None for report in reports) == [False, False, True]
        assert sum(session_runs) == 2

    def test_the_same_folder_again_runs_no_inference_and_has_the_same_scores(self, process, tmp_path, session_runs):
        folder = write_scans(tmp_path / "night", 3)
        first, second = add_job_of(process, folder), add_job_of(process, folder)
        score_job(process, first)
        session_runs.clear()
        score_job(process, second)
        assert session_runs == []
        assert count(process.engine, run_id_of(process, second)) == RunCounts(scored=3, reused=3)
        one, two = (results_of(process, run_id_of(process, job_id)) for job_id in (first, second))
        assert [(row["score"], row["study"]) for row in one] == [(row["score"], row["study"]) for row in two]

    def test_a_run_over_files_of_all_kinds_is_accounted_for(self, process, tmp_path):
        folder = write_scans(tmp_path / "night", 2)
        (folder / "cut.jpg").write_bytes((folder / "scan-000").read_bytes()[:2000])
        (folder / "text.png").write_text("no image")
        shutil.copy(folder / "scan-000", folder / "zz-copy")
        run_id = add_run_of(process, folder)
        for job_id in job_ids(process.engine, run_id):
            score_job(process, job_id)
        counts = count(process.engine, run_id)
        assert (counts.scored, counts.rejected, counts.failed, counts.reused) == (3, 2, 0, 1)
        assert fetch_run(process.engine, run_id).found == counts.terminal == 5

    def test_real_scans_are_scored_like_the_same_scans_in_other_batches(self, sqlite_engine, real_data, tmp_path):
        scans = [file for file in sorted((real_data / "nightly").rglob("*")) if file.is_file()][:6]
        folder = tmp_path / "night"
        folder.mkdir()
        for number, scan in enumerate(scans):
            (folder / f"{number}{scan.suffix}").symlink_to(scan)
        scores = []
        for batch_size in (4, 1):
            with run_process(sqlite_engine, batch_size=batch_size, scan_roots=f"{folder}:{real_data}") as process:
                job_id = add_job_of(process, folder)
                assert score_job(process, job_id).ended == len(scans)
                scores.append([row["score"] for row in results_of(process, run_id_of(process, job_id))])
                write(sqlite_engine, lambda connection: connection.execute(predictions.delete()))
        assert None not in scores[0]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)


DEVICE = {
    "ViewPosition": "PA", "BodyPartExamined": "CHEST", "StationName": "ROOM-3", "Manufacturer": "Maker",
    "AcquisitionDateTime": "20261128231502", "AccessionNumber": "A-4711", "PresentationLUTShape": "INVERSE",
}  # fmt: skip
KEY = "0123456789abcdef"


class TestAcquisition:
    def score(self, process, folder):
        job_id = add_job_of(process, folder)
        score_job(process, job_id)
        return results_of(process, run_id_of(process, job_id))

    @pytest.mark.parametrize("key", ["", KEY])
    def test_a_scan_keeps_its_acquisition_whether_scored_reused_or_refused(self, engine, tmp_path, key):
        night = tmp_path / "night"
        write_dicom(night / "1.dcm", small_chest(1), **DEVICE)
        write_dicom(night / "2.dcm", small_chest(2), **{**DEVICE, "ViewPosition": "LL"})
        (night / "3.jpg").write_bytes(encode_jpeg(small_chest(3)))
        names = ("status", "reason", "view_position", "body_part", "station", "manufacturer", "brightness_rule",
                 "contradictions", "series")  # fmt: skip
        device = ("CHEST", "ROOM-3", "Maker")
        series = "1.2.826.0.1.3680043.8.498.3"
        expected = [
            ("scored", None, "PA", *device, "full-range", "presentation-lut-shape", series),
            ("rejected", "not-frontal", "LL", *device, None, None, series),
            ("scored", None, None, None, None, None, "full-range", None, None),
        ]
        with run_process(engine, accession_key=key, gate=False) as process:
            for _ in range(2):
                rows = self.score(process, night)
                assert [tuple(row[name] for name in names) for row in rows] == expected
                assert [str(row["acquired_at"]) for row in rows] == ["2026-11-28 23:15:02"] * 2 + ["None"]
                hashed = hmac.new(key.encode(), b"A-4711", "sha256").hexdigest() if key else None
                assert [row["accession_hash"] for row in rows] == [hashed, hashed, None]
        assert rows[0]["reused"]


class TestArchives:
    def test_scans_of_an_archive_are_scored_like_files_and_retried_by_their_path(self, engine, tmp_path):
        plain = write_scans(tmp_path / "plain", 3)
        night = tmp_path / "night"
        night.mkdir()
        for kind in ("zip", "gztar"):
            shutil.make_archive(night / "night", kind, plain)
        with run_process(engine, archives=True) as process:
            scored = {row["sha256"]: row["score"] for row in results_of(process, add_scored_run(process, plain))}
            away = night.rename(tmp_path / "away")
            away.rename(night)
            run_id = add_run_of(process, night)
            night.rename(away)
            for job_id in job_ids(process.engine, run_id):
                score_job(process, job_id)  # the share is missing
            away.rename(night)
        with run_process(engine, max_attempts=1) as process:  # its own setting does not matter
            for job_id in job_ids(process.engine, run_id):
                shift_time(process.engine, job_id, "not_before", -1)
                score_job(process, job_id)
            rows = results_of(process, run_id)
        assert all("/night/night.tar.gz!" in row["path"] for row in rows[:3])
        assert sorted((row["sha256"], row["score"]) for row in rows) == sorted([*scored.items()] * 2)

    def test_without_archives_the_row_names_the_option(self, process, tmp_path):
        night = tmp_path / "night"
        night.mkdir()
        shutil.make_archive(night / "night", "zip", write_scans(tmp_path / "plain", 1))
        run_id = add_run_of(process, night)
        (job_id,) = job_ids(process.engine, run_id)
        score_job(process, job_id)
        (row,) = results_of(process, run_id)
        assert (row["status"], row["reason"]) == ("rejected", "unsupported-format")
        assert "--archives" in row["reason_text"]


class TestPassingFaults:
    def test_what_is_missing_is_put_off_and_scored_once_it_is_back(self, process, tmp_path):
        folder = write_scans(tmp_path / "night", 3)
        job_id = add_job_of(process, folder)
        (folder / "scan-001").rename(tmp_path / "away")
        report = score_job(process, job_id)
        assert (report.ended, report.put_off) == (2, 1)
        job = fetch_job(process.engine, job_id)
        assert job.status is JobStatus.QUEUED
        assert job.not_before is not None
        assert fetch_run(process.engine, job.run_id).status is RunStatus.RUNNING
        assert score_job(process, job_id) is None  # not yet
        (tmp_path / "away").rename(folder / "scan-001")
        bring_forward(process, job_id)
        assert score_job(process, job_id).ended == 1
        assert count(process.engine, job.run_id) == RunCounts(scored=3)
        assert fetch_run(process.engine, job.run_id).status is RunStatus.FINISHED
        assert [row.attempts for row in fetch_scans(process.engine, job.run_id)] == [1, 2, 1]

    def test_what_stays_missing_fails_with_its_reason_once_all_attempts_are_used_up(self, process, tmp_path):
        folder = write_scans(tmp_path / "night", 2)
        job_id = add_job_of(process, folder)
        (folder / "scan-001").unlink()
        reports = []
        for _ in range(process.settings.max_attempts):
            bring_forward(process, job_id)
            reports.append(score_job(process, job_id))
        assert [report.put_off for report in reports] == [1, 1, 0]
        run_id = run_id_of(process, job_id)
        missing = fetch_scans(process.engine, run_id)[1]
        assert (missing.status, missing.reason_code, missing.attempts) == (ScanStatus.FAILED, "missing-file", 3)
        assert fetch_run(process.engine, run_id).status is RunStatus.FINISHED

    def test_a_scan_that_failed_is_scored_by_a_retry(self, process, tmp_path):
        folder = write_scans(tmp_path / "night", 1)
        job_id = add_job_of(process, folder)
        run_id = run_id_of(process, job_id)
        (folder / "scan-000").rename(tmp_path / "away")
        for _ in range(3):
            bring_forward(process, job_id)
            score_job(process, job_id)
        (tmp_path / "away").rename(folder / "scan-000")
        write(process.engine, lambda connection: retry_run(connection, run_id, 64, embedded=False, settings={}))
        (again,) = [other for other in job_ids(process.engine, run_id) if other != job_id]
        score_job(process, again)
        assert count(process.engine, run_id) == RunCounts(scored=1)

    def test_waiting_grows_from_seconds_to_five_minutes(self):
        assert [backoff_s(attempts) for attempts in (1, 2, 3, 8, 9, 10_000)] == [2, 4, 8, 256, 300, 300]


class TestCrashes:
    def crash(self, process, job_id):
        """Claim a job like a worker that crashes right after."""
        held = claim(process.engine, job_id)
        expire_lease(process.engine, job_id)
        return held

    def test_one_poison_scan_is_isolated_and_fails_while_the_others_are_scored(self, process, tmp_path, monkeypatch):
        run_id = add_run_of(process, write_scans(tmp_path / "night", 5))
        kill_while_scoring(monkeypatch, fetch_scans(process.engine, run_id)[3].id)
        deaths = 0
        while jobs := list_open_jobs(process, run_id):
            for job_id in jobs:
                try:
                    assert score_job(process, job_id) is not None
                except Killed:
                    deaths += 1
                    expire_lease(process.engine, job_id)
        rows = fetch_scans(process.engine, run_id)
        assert [row.reason_code for row in rows] == [None, None, None, "worker-crash", None]
        assert count(process.engine, run_id) == RunCounts(scored=4, failed=1)
        assert fetch_run(process.engine, run_id).status is RunStatus.FINISHED
        assert deaths <= process.settings.max_attempts + 3  # and one for each halving of five

    def test_a_job_is_not_split_before_its_deaths_are_used_up(self, process, tmp_path):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 2))
        for _ in range(process.settings.max_attempts - 1):
            self.crash(process, job_id)
        report = score_job(process, job_id)
        assert (report.ended, report.split) == (2, False)

    def test_an_error_that_nobody_foresaw_gives_the_job_back_at_once_and_counts_as_a_crash(
        self, process, tmp_path, monkeypatch
    ):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 1))
        run_id = run_id_of(process, job_id)

        def fail(*_):
            raise RuntimeError("CUDA is gone")

        monkeypatch.setattr(Scorer, "infer_batch", fail)
        for crashes in range(1, process.settings.max_attempts + 1):
            with pytest.raises(RuntimeError, match="CUDA is gone"):
                score_job(process, job_id)
            job = fetch_job(process.engine, job_id)
            assert (job.status, job.crashes, job.lease_holder) == (JobStatus.QUEUED, crashes, None)
            assert job.published_at is None
            bring_forward(process, job_id)
        assert score_job(process, job_id).ended == 1
        (scan,) = fetch_scans(process.engine, run_id)
        assert scan.reason_code == "worker-crash"
        assert "CUDA" not in scan.reason_text

    def test_a_database_that_goes_away_leaves_the_job_to_its_lease(self, process, tmp_path, monkeypatch):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 1))

        def go_away(*_, **__):
            raise DatabaseUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(job_module, "store_results", go_away)
            patch.setattr(job_module, "release_job", go_away)
            with pytest.raises(DatabaseUnavailable):
                score_job(process, job_id)
        job = fetch_job(process.engine, job_id)
        assert (job.status, job.crashes) == (JobStatus.LEASED, 0)
        expire_lease(process.engine, job_id)
        assert score_job(process, job_id).ended == 1

    @pytest.mark.parametrize("embedded", [True, False])
    def test_a_database_that_fails_for_a_moment_puts_the_job_off_and_is_nobodys_crash(
        self, engine, tmp_path, monkeypatch, embedded
    ):
        with run_process(engine, embedded=embedded) as process:
            job_id = add_job_of(process, write_scans(tmp_path / "night", 2))

            def go_away(*_, **__):
                raise DatabaseUnavailable("away")

            with monkeypatch.context() as patch:
                patch.setattr(pipeline, "find_stored", go_away)
                with pytest.raises(DatabaseUnavailable):
                    score_job(process, job_id)
            job = fetch_job(engine, job_id)
            assert (job.status, job.attempts, job.crashes) == (JobStatus.QUEUED, 0, 0)
            assert score_job(process, job_id) is None  # not yet
            bring_forward(process, job_id)
            assert score_job(process, job_id).ended == 2

    def test_a_database_that_fails_again_and_again_uses_up_no_attempt_of_a_scan_whose_file_is_away(
        self, engine, tmp_path, monkeypatch
    ):
        with run_process(engine, max_attempts=2) as process:
            job_id = add_job_of(process, write_scans(tmp_path / "night", 1))
            (scan,) = (tmp_path / "night").iterdir()

            def go_away(*_, **__):
                raise DatabaseUnavailable("away")

            with monkeypatch.context() as patch:
                patch.setattr(pipeline, "find_stored", go_away)
                for _ in range(3):
                    with pytest.raises(DatabaseUnavailable):
                        score_job(process, job_id)
                    bring_forward(process, job_id)
            scan.rename(tmp_path / "away")
            assert score_job(process, job_id).put_off == 1
            (tmp_path / "away").rename(scan)
            bring_forward(process, job_id)
            assert score_job(process, job_id).ended == 1
            assert count(engine, run_id_of(process, job_id)) == RunCounts(scored=1)

    def test_a_message_that_names_a_job_of_an_embedded_run_is_refused(self, engine, tmp_path):
        with run_process(engine, embedded=False) as process:
            run_id = add_run_of(process, write_scans(tmp_path / "night", 1), embedded=True)
            (job_id,) = job_ids(engine, run_id)
            assert not job_module.attend_job(process, job_id)
            assert fetch_job(engine, job_id).attempts == 0

    def test_an_embedded_run_s_own_process_may_be_told_of_its_job_again(self, engine, tmp_path):
        with run_process(engine, embedded=True) as process:
            run_id = add_run_of(process, write_scans(tmp_path / "night", 1), embedded=True)
            (job_id,) = job_ids(engine, run_id)
            assert [job_module.attend_job(process, job_id) for _ in range(2)] == [True, True]

    def test_a_message_that_names_no_job_is_refused_beside_one_that_does(self, engine):
        with run_process(engine, embedded=False) as process:
            job_id = add_job(engine)
            claim(engine, job_id, "worker-2")
            assert [job_module.attend_job(process, each) for each in (job_id, "0" * 32)] == [True, False]

    def test_many_messages_that_name_no_job_fill_no_log(self, engine, caplog):
        with run_process(engine, embedded=False) as process:
            assert not any(job_module.attend_job(process, f"{number:032}") for number in range(9))
        told = [line.rpartition("; ")[2] for line in caplog.messages if "names job" in line]
        assert told == [f"{count} so far by this process" for count in (1, 2, 4, 8)]

    def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_done_twice(self, process, tmp_path, session_runs):
        """Faults at the claim, at the results and at the end of the run."""
        run_id = add_run_of(process, write_scans(tmp_path / "night", 2))
        (job_id,) = job_ids(process.engine, run_id)
        arm("write-after-commit:raise:1,write-after-commit:raise:3,write-after-commit:raise:5")
        try:
            assert score_job(process, job_id) is not None
        finally:
            arm("")
        job = fetch_job(process.engine, job_id)
        assert (job.status, job.attempts, job.crashes, job.lease_token) == (JobStatus.DONE, 1, 0, 1)
        assert count(process.engine, run_id) == RunCounts(scored=2)
        assert fetch_run(process.engine, run_id).status is RunStatus.FINISHED
        assert sum(session_runs) == 2

    def test_a_claim_that_was_never_committed_is_made_again(self, process, tmp_path):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 1))
        arm("write-before-commit:raise:1")
        try:
            assert score_job(process, job_id).ended == 1
        finally:
            arm("")
        job = fetch_job(process.engine, job_id)
        assert (job.status, job.attempts, job.lease_token) == (JobStatus.DONE, 1, 1)

    def test_a_database_that_is_away_is_waited_for_so_that_the_job_is_given_back(self, engine, tmp_path, monkeypatch):
        with run_process(engine, embedded=False) as process:
            (job_id,) = job_ids(engine, add_run_of(process, write_scans(tmp_path / "night", 1), embedded=False))
            faults = iter([DatabaseUnavailable("away")] * 3)

            def write_later(*given):
                if fault := next(faults, None):
                    raise fault
                return write(*given)

            def claim_only(*_):
                monkeypatch.setattr(job_module, "write", write_later)
                raise DatabaseUnavailable("away")

            monkeypatch.setattr(job_module, "_score_claimed", claim_only)
            monkeypatch.setattr(job_module, "_ROOM_POLL_S", 0.01)
            with pytest.raises(DatabaseUnavailable):
                score_job(process, job_id)
            job = fetch_job(engine, job_id)
            assert (job.status, job.crashes, job.lease_holder) == (JobStatus.QUEUED, 0, None)

    def test_an_error_of_the_database_ends_the_delivery_and_leaves_the_job_to_its_lease(
        self, process, tmp_path, monkeypatch
    ):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 1))

        def fail(*_):
            raise DatabaseError("a fault that nobody can mend here")

        monkeypatch.setattr(job_module, "_score_claimed", fail)
        with pytest.raises(DatabaseError, match="nobody can mend"):
            score_job(process, job_id)
        assert fetch_job(process.engine, job_id).status is JobStatus.LEASED

    def test_a_job_whose_scans_have_all_ended_is_done_without_opening_a_model(self, process, tmp_path, monkeypatch):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 1))
        monkeypatch.setattr(process, "find_scorer", None)
        monkeypatch.setattr(job_module, "load_open_scans", lambda *_: [])
        assert score_job(process, job_id).ended == 0
        assert fetch_job(process.engine, job_id).status is JobStatus.DONE


class TestModels:
    @pytest.fixture
    def orphan(self, process, tmp_path):
        """A job whose model this worker does not have."""
        from tests.db_factories import add_run, new_model

        run_id = add_run(process.engine, 2, model=new_model(name="elsewhere"), sources=[str(tmp_path)])
        return job_ids(process.engine, run_id)[0]

    def test_a_job_whose_model_is_not_here_is_put_off_for_a_worker_that_has_it(self, process, orphan, caplog):
        report = score_job(process, orphan)
        assert (report.ended, report.put_off) == (0, 2)
        job = fetch_job(process.engine, orphan)
        assert (job.status, job.crashes) == (JobStatus.QUEUED, 0)
        assert "no model bundle elsewhere@1" in caplog.text
        assert count(process.engine, job.run_id) == RunCounts(queued=2)

    def test_after_many_tries_its_scans_fail_with_the_reason(self, process, orphan):
        for _ in range(job_module._MODEL_TRIES):
            bring_forward(process, orphan)
            score_job(process, orphan)
        run_id = run_id_of(process, orphan)
        assert {row.reason_code for row in fetch_scans(process.engine, run_id)} == {"model-unavailable"}
        assert fetch_run(process.engine, run_id).status is RunStatus.FINISHED

    def test_another_bundle_of_the_same_name_is_not_used(self, process, tmp_path):
        from tests.db_factories import add_run, new_model

        card = process.open_default().card
        model = new_model(name=card.name, version=card.version)
        run_id = add_run(process.engine, 1, model=model, sources=[str(tmp_path)])
        assert score_job(process, job_ids(process.engine, run_id)[0]).put_off == 1


class TestLosingTheJob:
    def test_a_lease_that_is_lost_in_mid_job_leaves_the_scans_to_the_successor(self, process, tmp_path, monkeypatch):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 2))

        def take_over():
            expire_lease(process.engine, job_id)
            claim(process.engine, job_id, "worker-2", 60)

        while_scoring(monkeypatch, take_over)
        report = score_job(process, job_id)
        assert (report.ended, report.put_off) == (0, 0)
        job = fetch_job(process.engine, job_id)
        assert (job.status, job.lease_holder) == (JobStatus.LEASED, "worker-2")
        assert count(process.engine, job.run_id) == RunCounts(queued=2)
        monkeypatch.undo()
        expire_lease(process.engine, job_id)
        score_job(process, job_id)
        assert count(process.engine, job.run_id) == RunCounts(scored=2, reused=2)  # nothing was computed twice

    def test_a_heartbeat_that_finds_the_lease_lost_stops_the_work(self, process, tmp_path, monkeypatch, session_runs):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 2))
        monkeypatch.setattr(Heartbeat, "check", lambda heartbeat: raise_lost())
        report = score_job(process, job_id)
        assert (report.ended, report.put_off, session_runs) == (0, 0, [])

    def test_a_run_that_is_cancelled_in_mid_job_keeps_its_scans_cancelled(self, process, tmp_path, monkeypatch):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 2))
        run_id = run_id_of(process, job_id)
        while_scoring(
            monkeypatch,
            lambda: cancel_run(process.engine, run_id, Reason.CANCELLED.value, "stopped"),
        )
        assert score_job(process, job_id).ended == 0
        assert count(process.engine, run_id) == RunCounts(failed=2)
        assert fetch_run(process.engine, run_id).status is RunStatus.CANCELLED

    def test_the_heartbeat_renews_the_lease_while_the_job_is_worked_on(self, process, tmp_path):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 1))
        held = claim(process.engine, job_id, lease_s=0.1)
        renewed = threading.Event()
        with Heartbeat(process.engine, held, 0.1, renewed.set) as heartbeat:
            first = fetch_job(process.engine, job_id).lease_expires_at
            while fetch_job(process.engine, job_id).lease_expires_at == first:
                heartbeat.check()
            assert renewed.wait(30)
        assert not heartbeat._thread.is_alive()
        assert write(process.engine, lambda connection: renew_lease(connection, held, 60))

    def test_the_heartbeat_tells_that_the_lease_was_lost(self, process, tmp_path):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 1))
        held = claim(process.engine, job_id)
        expire_lease(process.engine, job_id)
        claim(process.engine, job_id, "worker-2")
        with Heartbeat(process.engine, held, 0.04) as heartbeat:
            heartbeat._thread.join(30)
            with pytest.raises(job_module.LeaseLost):
                heartbeat.check()

    def test_the_heartbeat_goes_on_where_the_database_is_away_for_a_moment_or_worse(
        self, process, tmp_path, monkeypatch, caplog
    ):
        job_id = add_job_of(process, write_scans(tmp_path / "night", 1))
        held = claim(process.engine, job_id)
        answers = iter([DatabaseUnavailable("away"), RuntimeError("unforeseen"), True, False])

        def answer(*_):
            given = next(answers)
            if isinstance(given, Exception):
                raise given
            return given

        monkeypatch.setattr("worker.jobs.heartbeat.write", answer)
        with Heartbeat(process.engine, held, 0.04) as heartbeat:
            heartbeat._thread.join(30)
        assert next(answers, "none left") == "none left"
        assert "not renewed: away" in caplog.text


def raise_lost():
    raise job_module.LeaseLost("taken over")


def test_a_job_reads_nothing_outside_the_folders_that_its_run_names(process, tmp_path):
    folder = write_scans(tmp_path / "night", 1)
    job_id = add_job_of(process, folder)
    (tmp_path / "secret").write_bytes((folder / "scan-000").read_bytes())
    (folder / "scan-000").unlink()
    (folder / "scan-000").symlink_to(tmp_path / "secret")
    score_job(process, job_id)
    (scan,) = fetch_scans(process.engine, run_id_of(process, job_id))
    assert (scan.status, scan.reason_code) == (ScanStatus.REJECTED, "outside-roots")


def test_pixels_that_end_the_decoder_end_one_scan(process, tmp_path, monkeypatch):
    folder = write_scans(tmp_path / "night", 2)
    decode, victim = content_module.read_for, (folder / "scan-000").read_bytes()

    def read_for(data, *arguments, **options):
        if data == victim:
            raise MemoryError
        return decode(data, *arguments, **options)

    monkeypatch.setattr(content_module, "read_for", read_for)
    job_id = add_job_of(process, folder)
    score_job(process, job_id)
    rows = fetch_scans(process.engine, run_id_of(process, job_id))
    assert [row.reason_code for row in rows] == ["out-of-memory", None]
