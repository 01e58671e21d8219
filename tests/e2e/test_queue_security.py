"""A run with the shipped Redis users, and hostile messages in the queue."""

import json
import os
import shutil
import signal

import pytest
import sqlalchemy as sa

from db.engine import make_engine
from tests.compose_redis import run_compose_redis
from tests.garbage import make_garbage, make_message
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

QUEUE = "nightread:nightread"


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "redis"
    folder.mkdir()
    with run_compose_redis(folder) as server:
        yield server


@pytest.fixture
def env(tmp_path, postgres_url, server):
    """Environment of the command line; workers use another Redis user."""
    environment = make_environment(
        tmp_path, database_url=postgres_url, broker_url=server.url("publisher"), lease_s=4, sweep_s=1, job_size=4,
        threads=1,
    )  # fmt: skip
    run("db", "upgrade", env=environment, cwd=tmp_path)
    return environment


@pytest.fixture
def worker_env(env, server):
    return env | {"NIGHTREAD_BROKER_URL": server.url("worker")}


@pytest.fixture
def night(ward, tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    for scan in sorted(ward.iterdir())[:20]:
        shutil.copy(scan, folder)
    return folder


def test_the_users_that_are_shipped_are_denied_nothing_in_a_night_with_all_its_troubles(
    env, worker_env, server, night, tmp_path
):
    slow = worker_env | slow_reading(tmp_path)
    database = make_engine(env["NIGHTREAD_DATABASE_URL"])
    leased = sa.text("SELECT count(*) FROM jobs WHERE status = 'leased'")

    def is_working():
        with database.connect() as connection:
            return connection.execute(leased).scalar()

    with server.connect() as admin:
        with worker(slow, tmp_path, tmp_path / "killed.log") as first:
            run("enqueue", night, env=env, cwd=tmp_path)
            wait_until(lambda: is_working() and admin.hlen("nightread:unacked"), "a job under way")
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
        # Long ago, so that the next worker takes back at once what the dead one held.
        held = admin.hkeys("nightread:unacked")
        assert held
        admin.zadd("nightread:unacked_index", dict.fromkeys(held, 1.0))
        beat = [PROGRAM, "beat"]
        with (
            started(beat, env, tmp_path, tmp_path / "beat.log"),
            worker(worker_env, tmp_path, tmp_path / "worker.log") as second,
        ):
            followed = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))
            wait_until(lambda: not admin.hexists("nightread:unacked", held[0]), "the dead worker's message")
            run("sweep", env=env, cwd=tmp_path)
            run("doctor", env=env, cwd=tmp_path)
            run("doctor", env=worker_env, cwd=tmp_path)
            run("enqueue", night, "--wait", env=env, cwd=tmp_path)
            second.terminate()
            assert second.wait(PATIENCE_S) == 0
        denied = [(entry["username"], entry["object"], entry["reason"]) for entry in admin.acl_log()]
    database.dispose()
    assert (followed["scored"], followed["queued"]) == (20, 0)
    assert denied == []
    assert "Traceback" not in (tmp_path / "worker.log").read_text() + (tmp_path / "beat.log").read_text()


def test_whatever_lies_in_the_queue_runs_nothing_ends_no_worker_and_is_counted(
    env, worker_env, server, night, tmp_path
):
    log, executed = tmp_path / "worker.log", tmp_path / "executed"
    garbage = make_garbage(executed)
    with server.connect() as admin:  # what ends each worker that starts, unless it is dropped
        admin.hset("nightread:unacked", mapping={"CANARY": "CANARY", "none": '["CANARY", 1, 2]'})
        admin.zadd("nightread:unacked_index", {"CANARY": 1.0, "none": 1.0})
        admin.set(f"{QUEUE}\x06\x163", "CANARY")
    dropped = 3
    with server.connect("publisher") as forger, server.connect() as admin, worker(worker_env, tmp_path, log) as process:
        wait_until(lambda: "ready" in log.read_text(), "the worker")
        for message in garbage:
            forger.lpush(QUEUE, message)
        # Those that are ours but for what they want on top, and for a job that there is not.
        forged = 4
        for headers in ({"eta": "2099-01-01T00:00:00+00:00"}, {"timelimit": [1, 1]}, {"retries": 10**9}):
            forger.lpush(QUEUE, json.dumps(make_message(headers=headers)))
        forger.lpush(QUEUE, json.dumps(make_message(embed={"callbacks": [make_message("celery.backend_cleanup", [])]})))
        followed = last_json(run("enqueue", night, "--wait", "--json", env=env, cwd=tmp_path))
        wait_until(lambda: not admin.llen(QUEUE) and not admin.hlen("nightread:unacked"), "an empty queue")
        assert process.poll() is None  # the very same process
        refused = len(garbage) + forged + dropped
        assert admin.get("nightread:refused") == str(refused)
        assert admin.acl_log() == []
        told = run("doctor", env=env, cwd=tmp_path).stdout
    assert (followed["scored"], followed["failed"]) == (20, 0)
    assert f"{refused} refused" in told
    assert not executed.exists()
    said = log.read_text()
    assert "a message in the queue was refused: the key nightread\x06\x163 has the wrong type; 1 so far" in said
    assert f"a message names job {'f' * 32}, for which nobody has sent one: refused" in said
    assert "CANARY" not in said
    assert "Traceback" not in said
