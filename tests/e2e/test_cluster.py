"""Runs over real Redis and real PostgreSQL with real worker processes, some of which are killed."""

import csv
import io
import os
import re
import shutil
import signal

import pytest
import sqlalchemy as sa

from db.engine import make_engine
from tests.program import (
    PATIENCE_S,
    PROGRAM,
    hook_reading,
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
def env(tmp_path, postgres_url, redis_url):
    # Short times, so that a lost worker is noticed within a test: all of them are settings.
    environment = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, lease_s=4, sweep_s=1, job_size=8, threads=1
    )
    run("db", "upgrade", env=environment, cwd=tmp_path)
    return environment


@pytest.fixture
def database(env):
    engine = make_engine(env["NIGHTREAD_DATABASE_URL"])
    yield engine
    engine.dispose()


@pytest.fixture
def night(ward, tmp_path):
    """A folder of sixty scans, with a copy of one and a truncated one."""
    folder = tmp_path / "night"
    shutil.copytree(ward, folder)
    scans = sorted(folder.iterdir())
    shutil.copy(scans[0], folder / "copy.jpeg")
    whole = scans[1].read_bytes()
    (folder / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    return folder


def read_scores(env, tmp_path, reference):
    text = run("results", reference, "--format", "csv", env=env, cwd=tmp_path).stdout
    return {row["path"]: (row["status"], row["reason"], row["score"]) for row in csv.DictReader(io.StringIO(text))}


def query(database, statement):
    with database.connect() as connection:
        return connection.execute(sa.text(statement)).scalar()


def test_two_workers_score_what_the_embedded_way_scores(env, database, night, tmp_path):
    log = tmp_path / "workers.log"
    with worker(env, tmp_path, log), worker(env, tmp_path, log):
        run_id = run("enqueue", night, "--name", "ward-a", env=env, cwd=tmp_path).stdout.strip()
        followed = last_json(run("status", "ward-a", "--follow", "--json", env=env, cwd=tmp_path))
    apart = make_environment(tmp_path)
    embedded = last_json(run("score", night, "--json", env=apart, cwd=tmp_path))

    assert (followed["run"], followed["status"]) == (run_id, "finished")
    for summary in (followed, embedded):
        assert (summary["found"], summary["scored"], summary["rejected"], summary["failed"]) == (62, 61, 1, 0)
    in_cluster, here = read_scores(env, tmp_path, run_id), read_scores(apart, tmp_path, embedded["run"])
    assert len(in_cluster) == 62
    assert in_cluster.keys() == here.keys()
    for path, (status, reason, score) in in_cluster.items():
        assert (status, reason) == here[path][:2]
        assert float(score or 0) == pytest.approx(float(here[path][2] or 0), abs=1e-6)
    assert query(database, "SELECT count(*) FROM predictions") == 60  # one content stands there twice
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("failpoint", ["enqueue-in-transaction:sleep-30", ""])
def test_an_interrupted_enqueue_says_what_becomes_of_the_run(env, database, night, tmp_path, failpoint):
    log = tmp_path / "enqueue.log"
    struck = tmp_path / "struck"
    struck.mkdir()
    env |= {"NIGHTREAD_FAILPOINT": failpoint, "NIGHTREAD_FAILPOINT_DIR": str(struck)}
    count = "SELECT count(*) FROM runs"
    with started([PROGRAM, "enqueue", night, "--wait"], env, tmp_path, log) as process:
        reached = lambda: any(struck.iterdir()) if failpoint else query(database, count)  # noqa: E731
        wait_until(reached, "the middle of the command")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    said = log.read_text()
    assert "Traceback" not in said
    if failpoint:
        assert "Interrupted: nothing is enqueued." in said
        assert query(database, count) == 0
    else:  # it is published, or waits for its end
        assert re.search("Interrupted: the run (is written|goes on)", said)
        assert query(database, count) == 1


def test_enqueue_waits_and_says_what_was_reused(env, night, tmp_path):
    with worker(env, tmp_path, tmp_path / "worker.log"):
        first = run("enqueue", night, "--wait", "--json", env=env, cwd=tmp_path)
        again = last_json(run("enqueue", night, "--wait", "--json", env=env, cwd=tmp_path))
    assert last_json(first)["scored"] == 61
    assert (again["scored"], again["reused"], again["rejected"]) == (61, 61, 1)


def test_a_killed_worker_loses_and_doubles_nothing(env, database, night, tmp_path):
    # Small jobs on slow storage, so that the kill hits the middle of the run.
    env |= {"NIGHTREAD_JOB_SIZE": "2", "NIGHTREAD_BATCH_SIZE": "2"} | slow_reading(tmp_path)
    scored = "SELECT count(*) FROM scans WHERE status = 'scored'"
    with worker(env, tmp_path, tmp_path / "first.log") as first:
        run_id = run("enqueue", night, env=env, cwd=tmp_path).stdout.strip()
        leased = "SELECT count(*) FROM jobs WHERE status = 'leased'"
        wait_until(lambda: query(database, scored) >= 4 and query(database, leased), "the first scored scans")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert query(database, scored) < 61
    with worker(env, tmp_path, tmp_path / "second.log"):
        followed = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))

    assert (followed["run"], followed["found"], followed["scored"], followed["rejected"]) == (run_id, 62, 61, 1)
    assert len(read_scores(env, tmp_path, run_id)) == 62
    assert query(database, "SELECT count(*) FROM predictions") == 60
    assert query(database, "SELECT count(*) FROM jobs WHERE status <> 'done'") == 0


@pytest.mark.parametrize("beat", ["--beat", "--no-beat"])
def test_an_emptied_redis_loses_no_work(env, database, night, tmp_path, redis_server, beat):
    """Only the worker publishes; a message that is not taken within the lease counts as lost."""
    run("enqueue", night, env=env, cwd=tmp_path)
    assert redis_server.connect().llen("nightread:nightread") > 0
    redis_server.connect().flushall()

    with worker(env, tmp_path, tmp_path / "worker.log", beat):
        followed = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))

    assert (followed["scored"], followed["rejected"], followed["queued"]) == (61, 1, 0)


def test_a_scan_that_kills_its_worker_fails_alone(env, database, night, tmp_path):
    """The decoder crashes on one file; the job is split until that file is alone."""
    env |= {
        "NIGHTREAD_JOB_SIZE": "4",
        "NIGHTREAD_LEASE_S": "1",
        "NIGHTREAD_MAX_ATTEMPTS": "1",
        "NIGHTREAD_SWEEP_S": "0.5",
    }
    for path in sorted(night.iterdir())[8:]:
        path.unlink()
    poison = sorted(night.iterdir())[5]
    env |= hook_reading(tmp_path, f"path.endswith({poison.name!r}) and os.kill(os.getpid(), 9)")
    with worker(env, tmp_path, tmp_path / "worker.log"):
        run("enqueue", night, env=env, cwd=tmp_path)
        followed = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path, expect=3))
    assert (followed["found"], followed["scored"], followed["failed"]) == (8, 7, 1)
    assert read_scores(env, tmp_path, followed["run"])[str(poison)][:2] == ("failed", "worker-crash")


def test_cancel_ends_a_run_and_retry_takes_it_up_again(env, database, night, tmp_path):
    run_id = run("enqueue", night, env=env, cwd=tmp_path).stdout.strip()
    run("cancel", run_id, env=env, cwd=tmp_path)
    cancelled = last_json(run("status", run_id, "--json", env=env, cwd=tmp_path))
    assert (cancelled["status"], cancelled["failed"], cancelled["queued"]) == ("cancelled", 62, 0)
    with worker(env, tmp_path, tmp_path / "worker.log"):
        run("retry", run_id, env=env, cwd=tmp_path)
        followed = last_json(run("status", run_id, "--follow", "--json", env=env, cwd=tmp_path))
    assert (followed["status"], followed["scored"], followed["rejected"]) == ("finished", 61, 1)


def test_a_run_enqueued_while_redis_is_away_is_scored_when_it_is_back(env, night, tmp_path):
    away = env | {"NIGHTREAD_BROKER_URL": "redis://127.0.0.1:1/0"}
    done = run("enqueue", night, env=away, cwd=tmp_path, expect=5)
    assert "does not answer" in done.stderr
    run_id = done.stdout.strip()
    with worker(env, tmp_path, tmp_path / "worker.log"):
        followed = last_json(run("status", run_id, "--follow", "--json", env=env, cwd=tmp_path))
    assert followed["scored"] == 61


def test_a_worker_refuses_to_start_without_tables_model_or_roots(env, tmp_path, sqlite_url):
    def start(expect=1, **settings):
        given = env | {f"NIGHTREAD_{name.upper()}": value for name, value in settings.items()}
        return run("worker", env=given, cwd=tmp_path, expect=expect).stderr

    assert "NIGHTREAD_DATABASE_URL" in start(expect=5, database_url="postgresql://u@127.0.0.1:1/x")
    assert "no such folder: /not/here" in start(scan_roots="/not/here")
    assert "no model bundle none" in start(model="none")
    assert "NIGHTREAD_DEVICE=cpu" in start(device="cuda")


def test_celery_s_own_command_starts_the_same_worker(env, night, tmp_path):
    command = [PROGRAM.with_name("celery"), "-A", "worker.app", "worker", "--concurrency=1", "-n", "own@%h"]
    with started(command, env, tmp_path, tmp_path / "celery.log"):
        followed = last_json(run("enqueue", night, "--wait", "--json", env=env, cwd=tmp_path))
    assert followed["scored"] == 61


def test_no_path_and_no_patient_reaches_the_log_or_redis(env, tmp_path, redis_server):
    from tests.factories import write_dicom

    night = tmp_path / "CANARY-FOLDER"
    night.mkdir()
    write_dicom(night / "CANARY-FILE.dcm")
    (night / "CANARY-CUT.jpg").write_bytes(b"\xff\xd8\xff\xe0CANARY-BYTES")
    log = tmp_path / "worker.log"
    run("enqueue", night, env=env, cwd=tmp_path)
    redis = redis_server.connect()
    messages = b"".join(b"".join(redis.lrange(key, 0, -1)) for key in redis.keys("*") if redis.type(key) == b"list")
    with worker(env | {"NIGHTREAD_LOG_LEVEL": "DEBUG"}, tmp_path, log):
        followed = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))
    assert (followed["scored"], followed["rejected"]) == (1, 1)
    assert messages
    assert b"CANARY" not in messages
    assert "CANARY" not in log.read_text()


def test_a_worker_told_to_stop_finishes_its_job_and_leaves_the_rest(env, database, night, tmp_path):
    env |= {"NIGHTREAD_JOB_SIZE": "2", "NIGHTREAD_BATCH_SIZE": "2"} | slow_reading(tmp_path)
    with worker(env, tmp_path, tmp_path / "worker.log") as process:
        run_id = run("enqueue", night, env=env, cwd=tmp_path).stdout.strip()
        wait_until(lambda: query(database, "SELECT count(*) FROM jobs WHERE status = 'done'"), "the first job")
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert query(database, "SELECT count(*) FROM jobs WHERE status = 'leased'") == 0
    assert query(database, "SELECT max(crashes) FROM jobs") == 0
    with worker(env, tmp_path, tmp_path / "next.log"):
        followed = last_json(run("status", run_id, "--follow", "--json", env=env, cwd=tmp_path))
    assert (followed["scored"], followed["rejected"], followed["queued"]) == (61, 1, 0)


def test_a_redis_that_comes_and_goes_fails_no_scan(env, database, night, tmp_path):
    env |= {"NIGHTREAD_JOB_SIZE": "2", "NIGHTREAD_BATCH_SIZE": "2"} | slow_reading(tmp_path)
    folder = tmp_path / "redis"
    folder.mkdir()
    with run_redis(folder) as server:
        env |= {"NIGHTREAD_BROKER_URL": server.url}
        with worker(env, tmp_path, tmp_path / "worker.log") as process:
            run_id = run("enqueue", night, env=env, cwd=tmp_path).stdout.strip()
            for ended in (2, 8, 14):
                done = "SELECT count(*) FROM jobs WHERE status = 'done'"
                wait_until(lambda done=done, ended=ended: query(database, done) >= ended, f"{ended} jobs")
                server.kill()
                server.start()
            followed = last_json(run("status", run_id, "--follow", "--json", env=env, cwd=tmp_path))
            assert process.poll() is None
    assert (followed["scored"], followed["rejected"], followed["failed"]) == (61, 1, 0)
    assert query(database, "SELECT max(crashes) FROM jobs") == 0
