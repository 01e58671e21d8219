"""A broker that turns into a replica for a while, and a worker that cannot continue."""

import shutil
import time

import pytest

from tests.program import (
    PATIENCE_S,
    PROGRAM,
    last_json,
    make_environment,
    run,
    slow_reading,
    started,
    wait_until,
    worker,
)
from tests.services import run_redis


@pytest.fixture
def redis(tmp_path):
    (tmp_path / "redis").mkdir()
    with run_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def env(tmp_path, postgres_url, redis):
    environment = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis.url, lease_s=4, sweep_s=1, job_size=2, threads=1,
        log_format="json",
    )  # fmt: skip
    run("db", "upgrade", env=environment, cwd=tmp_path)
    return environment


def test_workers_outlive_a_broker_that_only_reads_for_a_while(env, redis, ward, tmp_path, is_long):
    away_s = 20 if is_long else 3
    night = tmp_path / "night"
    night.mkdir()
    for path in sorted(ward.iterdir())[:24]:
        shutil.copy(path, night)
    log = tmp_path / "worker.log"
    with worker(env | slow_reading(tmp_path), tmp_path, log) as process:
        run("enqueue", night, env=env, cwd=tmp_path)
        scored = lambda: last_json(run("status", "--json", env=env, cwd=tmp_path))["scored"]  # noqa: E731
        wait_until(lambda: scored() > 2, "the first scans")
        redis.connect().replicaof("127.0.0.1", "1")
        assert "replica" in run("enqueue", night, env=env, cwd=tmp_path, expect=5).stderr
        time.sleep(away_s)
        redis.connect().replicaof("NO", "ONE")
        ended = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))
        assert process.poll() is None
    assert (ended["scored"], ended["failed"]) == (len(list(night.iterdir())), 0)
    assert "Unrecoverable" not in log.read_text()
    assert log.read_text().count("Trying to re") < 7 + away_s  # it waits between two tries


def test_a_worker_that_cannot_start_exits_with_an_error(env, tmp_path):
    log = tmp_path / "worker.log"
    broken = env | {"NIGHTREAD_MODEL": "missing@1"}
    with started([PROGRAM, "worker"], broken, tmp_path, log) as process:
        assert process.wait(PATIENCE_S) == 1
    assert "[config]" not in log.read_text()  # Celery's banner is no JSON
