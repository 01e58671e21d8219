"""Embedded runs: every scan ends, interrupted and orphaned runs are closed, other runs are left alone."""

import errno
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import update

from db.cancellation import cancel_run
from db.engine import reading, write
from db.jobs import claim_job
from db.owner import Owner
from db.results import ResultFilter, stream_results
from db.runs import find_run, retry_run
from db.stored_scans import list_listed_files
from db.tables import jobs, runs
from db.tallies import RunCounts
from db.types import JobStatus, RunStatus, ScanStatus
from nightread.inference import content as content_module
from nightread.machine import name_machine, read_start
from nightread.settings import read_settings
from tests.db_factories import add_run, count, fetch_job, fetch_run, fetch_scans, job_ids, new_scans
from tests.factories import encode_jpeg, small_chest
from tests.worker_factories import add_run_of, fetch_info, run_process, write_scans
from worker.jobs import job as job_module
from worker.jobs import pipeline
from worker.runs import enqueue, forks
from worker.runs.embedded import begin_run, close_orphans, retry_here, run_embedded, score_paths
from worker.runs.enqueue import describe_owner, describe_settings
from worker.runs.forks import WORTH_A_FORK
from worker.runs.guards import Guards
from worker.runs.request import Request


@pytest.fixture
def process(engine):
    with run_process(engine, job_size=2, batch_size=2) as process:
        yield process


def nothing(counts):
    pass


def test_a_run_ends_with_every_scan_accounted_for_and_progress_told(process, tmp_path):
    folder = write_scans(tmp_path / "night", 5)
    (folder / "text.png").write_text("no image")
    run_id = add_run_of(process, folder, embedded=True)
    told = []
    run = run_embedded(process, run_id, told.append)
    assert (run.id, run.status, run.found) == (run_id, RunStatus.FINISHED, 6)
    assert told[-1] == count(process.engine, run_id) == RunCounts(scored=5, rejected=1)
    assert [counts.terminal for counts in told] == sorted(counts.terminal for counts in told)
    assert {counts.found for counts in told} == {6}


def test_score_paths_makes_a_run_and_sees_it_through(sqlite_url, tmp_path):
    folder, told = write_scans(tmp_path / "night", 3), []
    settings = read_settings(database_url=sqlite_url, device="cpu")  # a database without tables
    run = score_paths(settings, [folder], name="ward-a", on_progress=told.append)
    assert (run.name, run.status, run.found, run.embedded) == ("ward-a", RunStatus.FINISHED, 3, True)
    assert told[-1] == RunCounts(scored=3)


def test_retry_here_queues_failed_scans_for_this_process(process, tmp_path):
    run_id = add_run_of(process, write_scans(tmp_path / "night", 3), embedded=True)
    enqueue.cancel_run(process.engine, run_id)
    assert retry_here(process, fetch_info(process, run_id)) == 3
    run_embedded(process, run_id, nothing)
    assert count(process.engine, run_id) == RunCounts(scored=3)


def test_a_second_run_in_the_same_process_reuses_the_first(process, tmp_path):
    folder = write_scans(tmp_path / "night", 3)
    first, second = (add_run_of(process, folder, embedded=True) for _ in range(2))
    assert run_embedded(process, first, nothing).status is RunStatus.FINISHED
    assert run_embedded(process, second, nothing).status is RunStatus.FINISHED
    assert count(process.engine, second) == RunCounts(scored=3, reused=3)
    with reading(process.engine) as connection:
        one, two = (
            [row["score"] for row in stream_results(connection, ResultFilter(run_id))] for run_id in (first, second)
        )
    assert one == two


def test_an_interrupted_run_accounts_for_every_scan_and_can_be_retried(process, tmp_path):
    run_id = add_run_of(process, write_scans(tmp_path / "night", 6), embedded=True)

    def interrupt(counts):
        if counts.terminal:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_embedded(process, run_id, interrupt)
    counts = count(process.engine, run_id)
    assert counts.found == counts.terminal == 6
    assert counts.scored >= 2
    if counts.failed:  # else the job under way was the last one
        assert fetch_run(process.engine, run_id).status is RunStatus.CANCELLED
        codes = {row.reason_code for row in fetch_scans(process.engine, run_id) if row.status is ScanStatus.FAILED}
        assert codes == {"cancelled"}
    assert {fetch_job(process.engine, job_id).status for job_id in job_ids(process.engine, run_id)} == {JobStatus.DONE}

    settings = describe_settings(process.settings)
    write(process.engine, lambda connection: retry_run(connection, run_id, 2, embedded=True, settings=settings))
    run_embedded(process, run_id, nothing)
    assert count(process.engine, run_id).scored == 6


def test_a_run_interrupted_at_its_start_accounts_for_every_scan(process, tmp_path):
    run_id = add_run_of(process, write_scans(tmp_path / "night", 3), embedded=True)

    def interrupt(counts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_embedded(process, run_id, interrupt)
    counts = count(process.engine, run_id)
    assert counts.found == counts.terminal == 3


def test_the_jobs_of_a_cluster_in_the_same_database_are_left_alone(process, tmp_path):
    shared = add_run(process.engine, new_scans(2))
    other = add_run(process.engine, new_scans(1), embedded=True)
    run_id = add_run_of(process, write_scans(tmp_path / "night", 3), embedded=True)
    run_embedded(process, run_id, nothing)
    for left in (shared, other):
        (job,) = [fetch_job(process.engine, job_id) for job_id in job_ids(process.engine, left)]
        assert (job.status, job.attempts, job.published_at) == (JobStatus.QUEUED, 0, None)
        assert fetch_run(process.engine, left).status is RunStatus.QUEUED


def test_a_run_whose_worker_failed_to_close_it_ends_all_the_same(process, tmp_path, monkeypatch):
    monkeypatch.setattr(job_module, "end_runs", lambda engine: None)
    run_id = add_run_of(process, write_scans(tmp_path / "night", 1), embedded=True)
    assert run_embedded(process, run_id, nothing).status is RunStatus.FINISHED


def test_an_unexpected_error_does_not_stop_the_run(process, tmp_path, monkeypatch, caplog):
    score_scans, calls = job_module.score_scans, []

    def fail_once(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of the blue")
        return score_scans(*arguments, **options)

    monkeypatch.setattr(job_module, "score_scans", fail_once)
    monkeypatch.setattr(job_module, "backoff_s", lambda attempts: 0.0)
    run_id = add_run_of(process, write_scans(tmp_path / "night", 2), embedded=True)
    assert run_embedded(process, run_id, nothing).status is RunStatus.FINISHED
    assert count(process.engine, run_id) == RunCounts(scored=2)
    assert "out of the blue" in caplog.text


@pytest.mark.parametrize(
    ("device", "cores", "scans", "count"),
    [
        ("cpu", 2, 2 * WORTH_A_FORK, 2),
        ("cpu", 2, 2 * WORTH_A_FORK - 1, 0),
        ("cpu", 1, 100 * WORTH_A_FORK, 0),
        ("cuda", 2, 100 * WORTH_A_FORK, 0),
    ],
)
def test_a_large_run_on_a_cpu_is_worth_a_fork_per_core(device, cores, scans, count):
    assert forks.count_forks(device, cores, scans) == count


class TestWithoutForks:
    """Runs that threads score; tests/e2e/test_forks.py has those of forks."""

    @pytest.fixture
    def alone(self, monkeypatch):
        """A process that may fork, whatever threads the tests have, and a run that is large enough for it."""
        monkeypatch.setattr(forks, "_is_alone", lambda: True)
        monkeypatch.setattr(forks, "WORTH_A_FORK", 1)

    def test_a_process_with_other_threads_does_not_fork(self, process):
        process.open_default()
        stop = threading.Event()
        other = threading.Thread(target=stop.wait)
        other.start()
        try:
            assert forks.fork_workers(process, 100 * WORTH_A_FORK) == []
        finally:
            stop.set()
            other.join()

    def test_a_system_other_than_linux_does_not_fork(self, process, alone, monkeypatch):
        process.open_default()
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(os, "fork", fail_with(AssertionError("forked")))
        assert forks.fork_workers(process, 100) == []

    def test_threads_score_if_no_process_can_be_started(self, process, alone, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(os, "fork", fail_with(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")))
        run_id = add_run_of(process, write_scans(tmp_path / "night", 4), embedded=True)
        run_embedded(process, run_id, nothing)
        assert count(process.engine, run_id) == RunCounts(scored=4)
        assert "Resource temporarily unavailable" in caplog.text


def fail_with(error):
    def fail():
        raise error

    return fail


class TestOrphans:
    @pytest.fixture
    def dead_pid(self):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        return child.pid

    @pytest.fixture(params=["columns", "settings"])
    def add(self, request, engine):
        """Write an embedded run whose owner stands where this release, or the one before, puts it."""

        def add(pid, *, host=None, started=None):
            host = host or os.uname().nodename
            settings, owner = {}, Owner(host, pid, started)
            if request.param == "settings":
                settings, owner = {"host": host, "pid": pid, "process_started": started}, None
            return add_run(engine, 2, embedded=True, settings=settings, owner=owner)

        return add

    def test_a_run_whose_process_was_killed_is_closed(self, engine, add, dead_pid):
        run_id = add(dead_pid)
        assert close_orphans(engine) == 1
        assert count(engine, run_id) == RunCounts(failed=2)
        assert fetch_run(engine, run_id).status is RunStatus.CANCELLED
        assert close_orphans(engine) == 0

    def test_a_run_whose_process_lives_or_is_not_known_is_left_alone(self, engine, add, dead_pid):
        alive = [add(os.getpid()), add(os.getppid()), add(1), add(dead_pid, host="far")]
        unknown = add_run(engine, 1, embedded=True)
        assert close_orphans(engine) == 0
        assert {fetch_run(engine, run_id).status for run_id in [*alive, unknown]} == {RunStatus.QUEUED}

    def test_a_reused_process_id_is_another_process(self, engine, add):
        add(os.getpid(), started=read_start(os.getpid()))
        assert close_orphans(engine) == 0
        add(os.getpid(), started="1")  # process 1 of the container before this one, say
        assert close_orphans(engine) == 1

    @pytest.mark.parametrize(
        "machine", ["here/0123456789ab.4026531836", "here/boot.4026532999", "far/0123456789ab.4026531836", "far/boot.1"]
    )
    def test_a_live_run_of_another_host_boot_or_namespace_is_left_alone_until_it_does_nothing(
        self, engine, dead_pid, machine
    ):
        """Containers and cloned machines may share a host's name or change it; their process ids mean nothing here."""
        boot = name_machine().partition("/")[2].partition(".")[0]
        host = machine.replace("here", os.uname().nodename).replace("boot", boot)
        run_id = add_run(engine, 2, embedded=True, owner=Owner(host, dead_pid, "1"))
        assert close_orphans(engine) == 0
        (job_id,) = job_ids(engine, run_id)
        with engine.begin() as connection:
            connection.execute(update(runs).values(created_at=datetime(2020, 1, 1, tzinfo=UTC)))
        write(engine, lambda connection: claim_job(connection, job_id, "it", 60, embedded=True))
        assert close_orphans(engine) == 0
        with engine.begin() as connection:
            connection.execute(update(jobs).values(lease_expires_at=datetime(2020, 1, 1, tzinfo=UTC)))
        assert close_orphans(engine) == 1

    def test_a_run_of_a_cluster_is_no_orphan(self, engine, dead_pid):
        add_run(engine, 1, settings={"host": os.uname().nodename, "pid": dead_pid})
        assert close_orphans(engine) == 0

    def test_a_run_that_is_retried_belongs_to_the_process_that_retries_it(self, engine, add, dead_pid):
        run_id = add(dead_pid)
        close_orphans(engine)
        for owner in (describe_owner(), None):
            retry = partial(retry_run, run_id=run_id, job_size=2, embedded=owner is not None, settings={}, owner=owner)
            write(engine, retry)
            with reading(engine) as connection:
                assert find_run(connection, run_id).owner == owner
            cancel_run(engine, run_id, "cancelled", "by hand")


class TestInterruption:
    @pytest.fixture
    def folder(self, tmp_path):
        return write_scans(tmp_path / "night", 6)

    @pytest.fixture
    def interrupted(self, process, folder):
        """A run of which some scans are stored and the others cancelled."""
        run_id = begin_run(process, [folder])

        def interrupt(counts):
            if counts.terminal:
                raise KeyboardInterrupt

        # Jobs are slow, so that the interruption comes before the last one.
        with pytest.MonkeyPatch.context() as patch:
            read = content_module.read_content
            patch.setattr(pipeline, "read_content", lambda *given, **more: (time.sleep(0.2), read(*given, **more))[1])
            with pytest.raises(KeyboardInterrupt):
                run_embedded(process, run_id, interrupt, on_interrupt=lambda: None)
        counts = count(process.engine, run_id)
        assert counts.scored
        assert counts.failed
        return run_id

    def test_the_same_request_goes_on_with_its_run(self, process, folder, interrupted):
        resumed = []
        assert begin_run(process, [folder], on_resume=resumed.append) == interrupted
        assert [run.id for run in resumed] == [interrupted]
        assert run_embedded(process, interrupted, nothing).status is RunStatus.FINISHED
        assert count(process.engine, interrupted) == RunCounts(scored=6)
        assert begin_run(process, [folder]) != interrupted  # it has ended: this is a new night

    @pytest.mark.parametrize("change", ["new", "changed", "gone"])
    def test_other_files_make_a_new_run_with_a_row_for_each(self, process, folder, interrupted, change):
        with reading(process.engine) as connection:
            rows = list(list_listed_files(connection, interrupted))
        unscored = next(path for path, _, _, was_cancelled in rows if was_cancelled)
        if change == "new":
            (folder / "late.jpg").write_bytes(encode_jpeg(small_chest(99)))
        elif change == "changed":
            os.utime(unscored, (1, 1))
        else:
            Path(unscored).unlink()
        run_id = begin_run(process, [folder])
        assert run_id != interrupted
        assert fetch_run(process.engine, run_id).found == {"new": 7, "changed": 6, "gone": 5}[change]

    def test_another_request_makes_a_new_run(self, process, folder, interrupted):
        for request in (Request(name="other"), Request(settle_s=0.5), Request(guards=Guards(max_rejected="1%"))):
            run_id = begin_run(process, [folder], request=request)
            assert run_id != interrupted
            cancel_run(process.engine, run_id, "cancelled", "x")
