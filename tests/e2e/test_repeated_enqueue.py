"""A night that cron enqueues again and again, with the same key, while services come and go."""

import contextlib
import signal

import psutil
import psycopg
import pytest

from tests.factories import small_chest, write_jpeg
from tests.faults.servers import run_postgres_server
from tests.program import PATIENCE_S, PROGRAM, last_json, make_environment, run, started, wait_until, worker

FILES = 12


@pytest.fixture
def postgres():
    with run_postgres_server() as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE nightread TEMPLATE template0 ENCODING 'UTF8'")
        yield server


@contextlib.contextmanager
def stopping_at(points, command, env, tmp_path):
    """Run a command that stops itself at failpoints; yield it, and a function that waits until it has."""
    armed = {"NIGHTREAD_FAILPOINT": ",".join(f"{point}:stop" for point in points)}
    with started(command, env | armed, tmp_path, tmp_path / "cron.log") as process:

        def wait_for_stop():
            wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the failpoint")

        yield process, wait_for_stop


def test_a_night_that_cron_repeats_has_one_run_and_one_row_for_each_file(tmp_path, postgres, redis_url):
    night = tmp_path / "2026-11-28"
    for number in range(FILES):
        write_jpeg(night / f"{number:02}.jpg", small_chest(number))
    env = make_environment(
        tmp_path, database_url=postgres.url("nightread"), broker_url=redis_url, job_size=4, threads=1, sweep_s=1
    )
    run("db", "upgrade", env=env, cwd=tmp_path)
    words = ["enqueue", night, "--key", "ward-a/2026-11-28", "--wait", "--timeout", "1s", "--json"]
    command = [PROGRAM, *words]

    # 1. The database is away.
    postgres.stop(signal.SIGINT)
    run(*words, env=env, cwd=tmp_path, expect=5)
    postgres.start()
    # 2. It ends while the rows are written, and stays away.
    with stopping_at(["enqueue-before-commit"], command, env, tmp_path) as (second, wait_for_stop):
        wait_for_stop()
        postgres.kill()
        second.send_signal(signal.SIGCONT)
        assert second.wait(PATIENCE_S) == 5
    postgres.start()
    # 3. It restarts while the rows are written, and once more when the command has not heard of its commit.
    points = ["enqueue-before-commit", "enqueue-after-commit"]
    with stopping_at(points, command, env, tmp_path) as (third, wait_for_stop):
        for end in (postgres.kill, postgres.stop):
            wait_for_stop()
            end()
            postgres.start()
            third.send_signal(signal.SIGCONT)
        assert third.wait(PATIENCE_S) == 5  # no worker: the run has not ended within a second
    # 4. The broker is away.
    away = run(*words, env=env | {"NIGHTREAD_BROKER_URL": "redis://127.0.0.1:1/0"}, cwd=tmp_path, expect=5)
    first_line, *_ = away.stdout.splitlines()
    assert '"existed": true' in first_line
    # 5. Everything is there.
    words[words.index("1s")] = "100s"
    with worker(env, tmp_path, tmp_path / "worker.log"):
        ended = last_json(run(*words, env=env, cwd=tmp_path))
    assert (ended["found"], ended["scored"], ended["failed"]) == (FILES, FILES, 0)
    with psycopg.connect(postgres.url("nightread")) as connection:
        assert connection.execute("SELECT id, key FROM runs").fetchall() == [(ended["run"], "ward-a/2026-11-28")]
        paths = [path for (path,) in connection.execute("SELECT path FROM scans")]
    assert sorted(paths) == sorted(map(str, night.iterdir()))
    assert "Traceback" not in (tmp_path / "cron.log").read_text()
