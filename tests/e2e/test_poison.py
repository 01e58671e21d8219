"""Poison scans among sound ones fail alone, in a cluster and in an embedded run."""

import json
import re

import pytest
import sqlalchemy as sa

from db.engine import make_engine
from tests.factories import encode_jpeg, small_chest
from tests.program import (
    PATIENCE_S,
    PROGRAM,
    hook_decoding,
    last_json,
    make_environment,
    run,
    started,
    wait_until,
    worker,
)

POISONS = {
    b"POISON-SEGV": "ctypes.string_at(0)",
    b"POISON-SPIN": "exec('while True: pass')",
    b"POISON-FULL": "raise MemoryError",
    b"POISON-DEEP": "raise RecursionError",
}


@pytest.fixture
def night(tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    for seed in range(24):
        (folder / f"{seed:02}.jpeg").write_bytes(encode_jpeg(small_chest(seed)))
    return folder


def add_poison(night, *marks):
    """Write poison scans that lie in the middle of a job with 24 sound ones."""
    for mark in marks:
        (night / f"10-{mark.decode()}.jpeg").write_bytes(encode_jpeg(small_chest(99)) + mark)


def query(database, statement):
    with database.connect() as connection:
        return connection.execute(sa.text(statement)).all()


@pytest.fixture
def env(tmp_path, postgres_url, redis_url):
    environment = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, lease_s=4, sweep_s=1, decode_limit_s=3, threads=2
    )
    run("db", "upgrade", env=environment, cwd=tmp_path)
    return environment | hook_decoding(tmp_path, POISONS)


@pytest.fixture
def database(env):
    engine = make_engine(env["NIGHTREAD_DATABASE_URL"])
    yield engine
    engine.dispose()


def reasons_of(database):
    rows = query(database, "SELECT path, reason_code FROM scans WHERE status <> 'scored'")
    return {re.search("POISON-....", path)[0]: code for path, code in rows}


def test_one_death_is_enough_to_find_all_poison_of_a_job(env, database, night, tmp_path):
    add_poison(night, *POISONS)
    log = tmp_path / "worker.log"
    with worker(env, tmp_path, log):
        followed = last_json(run("enqueue", night, "--wait", "--json", env=env, cwd=tmp_path, expect=3))
    assert (followed["found"], followed["scored"], followed["failed"]) == (28, 24, 4)
    assert reasons_of(database) == {
        "POISON-SEGV": "decoder-crash", "POISON-SPIN": "decoder-timeout", "POISON-FULL": "out-of-memory",
        "POISON-DEEP": "internal-error",
    }  # fmt: skip
    assert query(database, "SELECT status, crashes FROM jobs") == [("done", 1)]  # neither split nor tried for long


def test_an_endless_decode_costs_no_lease_and_its_process_is_replaced(env, database, night, tmp_path):
    add_poison(night, b"POISON-SPIN")
    env |= {"NIGHTREAD_JOB_SIZE": "13"}
    log = tmp_path / "worker.log"
    with worker(env, tmp_path, log) as process:
        followed = last_json(run("enqueue", night, "--wait", "--json", env=env, cwd=tmp_path, expect=3))
        assert (followed["scored"], followed["failed"]) == (24, 1)
        assert reasons_of(database) == {"POISON-SPIN": "decoder-timeout"}
        assert query(database, "SELECT max(attempts), max(crashes) FROM jobs") == [(1, 0)]
        wait_until(lambda: "Celery starts another" in log.read_text(), "the process with the stuck thread to end")
        for path in night.iterdir():
            path.unlink()
        (night / "more.jpeg").write_bytes(encode_jpeg(small_chest(50)))
        again = last_json(run("enqueue", night, "--wait", "--json", env=env, cwd=tmp_path))
        assert (again["scored"], process.poll()) == (1, None)
    workers = {name for (name,) in query(database, "SELECT DISTINCT worker FROM predictions")}
    assert len(workers) == 2


def test_a_retry_of_what_killed_a_worker_kills_no_other(env, database, night, tmp_path):
    add_poison(night, b"POISON-SEGV")
    with worker(env, tmp_path, tmp_path / "worker.log"):
        run("enqueue", night, "--wait", env=env, cwd=tmp_path, expect=3)
        run("retry", "night", env=env, cwd=tmp_path)
        followed = last_json(run("status", "night", "--follow", "--json", env=env, cwd=tmp_path, expect=3))
    assert (followed["scored"], followed["failed"]) == (24, 1)
    assert reasons_of(database) == {"POISON-SEGV": "decoder-crash"}
    # The second job has begun with the crash that it was made with, and has had none of its own.
    assert sorted(query(database, "SELECT attempts, crashes FROM jobs")) == [(1, 1), (2, 1)]


def test_score_dies_of_a_scan_once_and_the_same_command_again_goes_on(night, tmp_path):
    add_poison(night, b"POISON-SEGV")
    env = make_environment(tmp_path) | hook_decoding(tmp_path, POISONS)
    log = tmp_path / "first.log"
    with started([PROGRAM, "score", night, "--json"], env, tmp_path, log) as first:
        assert first.wait(PATIENCE_S) < 0
    for _ in range(2):  # and so does every repetition
        done = run("score", night, "--json", env=env, cwd=tmp_path, expect=3)
        assert (last_json(done)["scored"], last_json(done)["failed"]) == (24, 1)
    rows = json.loads(run("results", "--status", "failed", "--format", "json", env=env, cwd=tmp_path).stdout)
    assert [row["reason"] for row in rows] == ["decoder-crash"]


def test_score_comes_to_its_end_where_a_decoder_does_not(night, tmp_path):
    add_poison(night, b"POISON-SPIN")
    env = make_environment(tmp_path, decode_limit_s=2, threads=1) | hook_decoding(tmp_path, POISONS)
    done = run("score", night, "--json", env=env, cwd=tmp_path, expect=3)
    assert (last_json(done)["scored"], last_json(done)["failed"]) == (24, 1)
