"""Jobs that are given back at once instead of waiting for their lease: a killed child, a worker that must stop."""

import os
import shutil
import signal

import psutil
import pytest
import sqlalchemy as sa

from db.engine import make_engine
from tests.program import PATIENCE_S, hook_reading, last_json, make_environment, run, wait_until, worker

#: Longer than a test may take: whoever waits for it fails.
LEASE_S = 600


@pytest.fixture
def env(tmp_path, postgres_url, redis_url):
    environment = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, lease_s=LEASE_S, sweep_s=60, job_size=40, threads=1,
        batch_size=4,
    )  # fmt: skip
    run("db", "upgrade", env=environment, cwd=tmp_path)
    return environment


@pytest.fixture
def night(ward, tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    for path in sorted(ward.iterdir())[:40]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def job(postgres_url):
    """A function that reads columns of the only job."""
    engine = make_engine(postgres_url)

    def read(columns):
        with engine.connect() as connection:
            return tuple(connection.execute(sa.text(f"SELECT {columns} FROM jobs")).one())

    yield read
    engine.dispose()


def follow(env, tmp_path):
    ended = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))
    return ended["scored"], ended["failed"]


def test_the_job_of_a_killed_child_is_scored_again_at_once(env, night, job, tmp_path):
    slow = env | hook_reading(tmp_path, "time.sleep(0.1)")
    with worker(slow, tmp_path, tmp_path / "worker.log") as process:
        run("enqueue", night, env=env, cwd=tmp_path)
        wait_until(lambda: job("status") == ("leased",), "the job to be claimed")
        (child,) = psutil.Process(process.pid).children()
        child.kill()
        assert follow(env, tmp_path) == (40, 0)
    assert job("attempts, crashes") == (2, 1)
    assert "is queued again: its process" in (tmp_path / "worker.log").read_text()


def test_a_worker_that_must_stop_commits_what_it_has_and_gives_the_rest_back(env, night, job, tmp_path):
    """All its processes are told, as systemd does; the main process tells its children once more."""
    read = tmp_path / "read"
    slow = env | hook_reading(tmp_path, f"open({str(read)!r}, 'a').write('x'); time.sleep(0.2)")
    with worker(slow, tmp_path, tmp_path / "worker.log") as process:
        run("enqueue", night, env=env, cwd=tmp_path)
        wait_until(lambda: read.exists() and read.stat().st_size >= 12, "three windows of four scans to be read")
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert job("status, attempts, crashes") == ("queued", 0, 0)
    stopped = last_json(run("status", "--json", env=env, cwd=tmp_path))
    assert 0 < stopped["scored"] < 40
    with worker(env, tmp_path, tmp_path / "second.log"):
        assert follow(env, tmp_path) == (40, 0)
