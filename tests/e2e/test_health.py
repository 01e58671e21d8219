"""`--health` of workers that work, idle, hang or are gone."""

import json
import os
import signal

import pytest

from tests.compose import load_compose
from tests.compose_redis import PASSWORDS
from tests.factories import small_chest, write_jpeg
from tests.program import PROGRAM, hook_reading, last_json, make_environment, run, started, wait_until, worker


@pytest.fixture
def env(tmp_path, postgres_url, redis_url):
    """Times are short: work counts as overdue after four seconds."""
    environment = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, lease_s=1.5, sweep_s=0.5, job_size=2, threads=1
    )
    run("db", "upgrade", env=environment, cwd=tmp_path)
    return environment | {"TMPDIR": str(tmp_path)}


@pytest.fixture
def night(tmp_path):
    for seed in range(40):
        write_jpeg(tmp_path / "night" / f"{seed:02}.jpeg", small_chest(seed))
    return tmp_path / "night"


def ask(env, tmp_path, command="worker", expect=None):
    done = run(command, "--health", "--json", env=env, cwd=tmp_path, expect=expect)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def test_a_worker_is_judged_by_what_it_commits(env, night, tmp_path):
    code, found = ask(env, tmp_path)
    assert (code, found["healthy"], found["workers"]) == (1, False, [])
    assert "no worker" in found["faults"][0]

    log = tmp_path / "worker.log"
    with worker(env | hook_reading(tmp_path, "time.sleep(1)"), tmp_path, log, "--concurrency=2") as process:
        wait_until(lambda: "ready" in log.read_text(), "the worker")
        code, found = ask(env, tmp_path)
        assert (code, found["due_jobs"], [one["pid"] for one in found["workers"]]) == (0, 0, [process.pid])

        run("enqueue", night, env=env, cwd=tmp_path)
        wait_until(lambda: ask(env, tmp_path)[1]["workers"][0]["last"] != "started", "progress")
        assert run("worker", "--health", env=env, cwd=tmp_path).stderr.startswith(f"worker {process.pid}: ")

        os.killpg(process.pid, signal.SIGSTOP)  # it lives, it holds its leases for a moment, and it does nothing
        code, found = wait_until(lambda: (asked := ask(env, tmp_path))[0] == 1 and asked, "the stand to be noticed")
        assert "makes no progress" in found["faults"][0]
        assert found["due_jobs"] > 0
        assert found["waiting_s"] > found["limit_s"] == 4.0

        os.killpg(process.pid, signal.SIGCONT)
        wait_until(lambda: ask(env, tmp_path)[0] == 0, "progress again")
        followed = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))
        assert (followed["scored"], followed["failed"]) == (40, 0)
        assert ask(env, tmp_path, expect=0)[1]["due_jobs"] == 0
    assert ask(env, tmp_path, expect=1)[1]["workers"] == []  # killed: what it left is not believed


def test_a_database_that_is_away_is_no_worker_s_stand(env, tmp_path):
    away = env | {"NIGHTREAD_DATABASE_URL": "postgresql://u:SECRET@127.0.0.1:1/d"}
    for command in ("worker", "beat"):
        code, said = ask(away, tmp_path, command)
        assert code == 5
        assert "SECRET" not in said


def test_jobs_that_nobody_publishes_are_the_beat_s_fault(env, night, tmp_path, redis_server):
    assert ask(env, tmp_path, "beat", expect=0)[1]["due_jobs"] == 0
    run("enqueue", night, env=env, cwd=tmp_path)
    _, found = wait_until(lambda: (asked := ask(env, tmp_path, "beat"))[0] == 1 and asked, "the missing sweep")
    assert "no process sweeps" in found["faults"][0]
    redis_server.connect().flushall()
    with (
        started([PROGRAM, "beat"], env, tmp_path, tmp_path / "beat.log"),
        worker(env, tmp_path, tmp_path / "worker.log"),
    ):
        followed = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))
        assert followed["scored"] == 40
        assert ask(env, tmp_path, "beat")[0] == 0


def test_compose_asks_these_questions():
    services = load_compose({**PASSWORDS, "POSTGRES_PASSWORD": "x", "SCANS_DIR": "/x"})["services"]
    assert services["worker"]["healthcheck"]["test"] == ["CMD", "nightread", "worker", "--health"]
    assert services["beat"]["healthcheck"]["test"] == ["CMD", "nightread", "beat", "--health"]
