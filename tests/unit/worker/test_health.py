"""Worker liveness, and that errors of writing progress stop no worker."""

import os
import subprocess
import sys

import pytest

from db.due_jobs import Waiting
from worker import health
from worker.health import Progress, WorkerHealth, find_progress, find_workers, judge, register_worker

LIMIT_S = 100.0


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(health.tempfile, "gettempdir", lambda: str(tmp_path))


@pytest.mark.parametrize(
    ("still_s", "jobs", "waiting_s", "is_healthy"),
    [
        (5.0, 0, 0.0, True),
        (9999.0, 0, 0.0, True),  # idle
        (9999.0, 3, 99.0, True),  # it has still time to take them
        (99.0, 3, 9999.0, True),  # a long night
        (101.0, 3, 101.0, False),
    ],
)
def test_waiting_jobs_without_progress_are_a_fault(still_s, jobs, waiting_s, is_healthy):
    found = judge([WorkerHealth(7, still_s, "committed")], Waiting(jobs, waiting_s), LIMIT_S)
    assert (found.faults == []) is is_healthy


def test_each_worker_is_judged_and_none_is_a_fault():
    workers = [WorkerHealth(7, 1.0, "renewed"), WorkerHealth(8, 500.0, "claimed")]
    found = judge(workers, Waiting(1, 500.0), LIMIT_S)
    assert len(found.faults) == 1
    assert "worker 8 makes no progress: claimed 500 s ago" in found.faults[0]
    assert judge([], Waiting(0, 0.0), LIMIT_S).faults


def test_the_last_step_of_any_process_counts(tmp_path):
    register_worker()
    (worker,) = find_workers()
    assert (worker.pid, worker.last) == (os.getpid(), "started")
    find_progress().note("claimed")
    assert [(worker.pid, worker.last) for worker in find_workers()] == [(os.getpid(), "claimed")]
    code = (
        f"import tempfile; tempfile.gettempdir = lambda: {str(tmp_path)!r}\n"
        "from worker.health import find_progress; find_progress().note('committed')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=health.Path(health.__file__).parents[1])
    assert find_workers()[0].last == "committed"


def test_files_of_a_dead_process_with_the_same_id_are_removed(tmp_path):
    register_worker()
    find_progress().note("claimed")
    (file,) = tmp_path.rglob("*.worker")
    file.write_text('{"process_started": "1", "started": 1.0}')
    assert find_workers() == []
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == []


def test_a_process_outside_a_worker_notes_nothing(tmp_path):
    find_progress().note("claimed")
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == []


def test_a_full_or_foreign_folder_stops_no_worker(tmp_path, caplog):
    Progress(tmp_path / "not-there" / "file").note("claimed")
    assert "progress was not noted: No such file" in caplog.text
    (tmp_path / f"nightread-{os.getuid()}").symlink_to("/etc")
    register_worker()
    find_progress().note("claimed")
    assert "belongs to another user" in caplog.text
    with pytest.raises(health.SettingsError):
        find_workers()
