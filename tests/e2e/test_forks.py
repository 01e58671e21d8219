"""A large run is scored in forks of the program, one for each core; a crash costs one scan."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from db.engine import make_engine
from nightread.failpoints import Point
from tests.factories import encode_jpeg, small_chest
from tests.program import (
    PATIENCE_S,
    PROGRAM,
    hook_decoding,
    hook_reading,
    last_json,
    make_environment,
    run,
    started,
    wait_until,
)
from worker.runs.forks import WORTH_A_FORK

SCANS = 2 * WORTH_A_FORK
#: Points that a fork does not come by, or by chance alone.
BESIDE_A_JOB = {
    Point.WORKER_HEARTBEAT, Point.WORKER_PUT_OFF, Point.WORKER_GIVE_BACK, Point.WORKER_IN_SPLIT,
    Point.WORKER_BEFORE_TOP_UP, Point.WORKER_BEFORE_ACK,
}  # fmt: skip


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    for seed in range(SCANS):
        (folder / f"{seed:03}.jpeg").write_bytes(encode_jpeg(small_chest(seed)))
    return folder


@pytest.fixture
def env(tmp_path):
    return make_environment(tmp_path, threads=2, job_size=8)


@pytest.fixture
def slow(env, tmp_path):
    """Storage that is slow enough to interrupt a run."""
    return env | hook_reading(tmp_path, "time.sleep(0.03)")


def query(env, statement):
    url = env.get("NIGHTREAD_DATABASE_URL") or f"sqlite:///{env['XDG_DATA_HOME']}/nightread/nightread.db"
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(sa.text(statement)).all()
    except sa.exc.OperationalError:  # no tables yet
        return []
    finally:
        engine.dispose()


def wait_for_forks(process, env):
    """Wait for the first scored scan; returns the forks of the run."""
    wait_until(lambda: query(env, "SELECT 1 FROM scans WHERE status = 'scored'"), "the first scored scans")
    forks = [fork.pid for fork in psutil.Process(process.pid).children()]
    assert len(forks) == 2
    return forks


def scorers(env):
    return {int(worker.rpartition(":")[2]) for (worker,) in query(env, "SELECT DISTINCT worker FROM predictions")}


def test_each_core_has_a_fork_and_a_second_run_reuses_all(env, night, tmp_path):
    with (tmp_path / "told").open("wb") as told:
        process = subprocess.Popen([PROGRAM, "score", night, "--json"], env=env, cwd=tmp_path, stdout=told)
        assert process.wait(PATIENCE_S) == 0
    first = json.loads((tmp_path / "told").read_text())
    second = last_json(run("score", night, "--json", env=env, cwd=tmp_path))
    assert (first["scored"], first["reused"]) == (SCANS, 0)
    assert (second["scored"], second["reused"]) == (SCANS, SCANS)
    assert len(scorers(env)) == 2
    assert process.pid not in scorers(env)
    assert {row[0] for row in query(env, "SELECT attempts FROM jobs")} == {1}


def test_scores_are_those_of_threads(env, night, tmp_path):
    run("score", night, env=env, cwd=tmp_path)
    alone = env | {"NIGHTREAD_THREADS": "1", "NIGHTREAD_DATABASE_URL": f"sqlite:///{tmp_path}/alone.db"}
    run("score", night, env=alone, cwd=tmp_path)
    assert len(scorers(alone)) == 1
    in_forks, on_threads = (
        dict(map(tuple, query(each, "SELECT sha256, score FROM predictions"))) for each in (env, alone)
    )
    assert in_forks == pytest.approx(on_threads, abs=1e-6)


def test_forks_share_a_postgresql_database(night, tmp_path, postgres_url):
    env = make_environment(tmp_path, threads=2, job_size=8, database_url=postgres_url)
    run("db", "upgrade", env=env, cwd=tmp_path)
    summary = last_json(run("score", night, "--json", env=env, cwd=tmp_path))
    assert (summary["scored"], summary["failed"]) == (SCANS, 0)
    assert len(scorers(env)) == 2


def test_at_a_terminal_the_bar_is_drawn_and_forks_score(env, night, tmp_path):
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run([PROGRAM, "score", night], env=env | {"TERM": "xterm"}, cwd=tmp_path, stderr=theirs,
                              stdout=subprocess.PIPE, timeout=PATIENCE_S, check=False)  # fmt: skip
        assert b"scoring" in os.read(ours, 1_000_000)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert len(scorers(env)) == 2


def test_a_scan_that_kills_its_fork_costs_itself_in_the_same_run(env, night, tmp_path):
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for scan in night.iterdir():
        os.link(scan, poisoned / scan.name)
    (poisoned / "010-poison.jpeg").write_bytes(encode_jpeg(small_chest(999)) + b"POISON-SEGV")

    # The hook imports NumPy before the program can keep it from starting threads.
    hooked = env | hook_decoding(tmp_path, {b"POISON-SEGV": "ctypes.string_at(0)"}) | {"OPENBLAS_NUM_THREADS": "1"}
    done = run("score", poisoned, "--json", env=hooked, cwd=tmp_path, expect=3)

    summary = last_json(done)
    assert (summary["scored"], summary["failed"]) == (SCANS, 1)
    assert "SIGSEGV" in done.stderr or "Segmentation fault" in done.stderr
    assert query(env, "SELECT reason_code FROM scans WHERE status = 'failed'") == [("decoder-crash",)]
    assert sorted({row[0] for row in query(env, "SELECT crashes FROM jobs")}) == [0, 1]


#: What a fork has read, scored and stored differs between these.
_TELLING = {Point.WORKER_READING, Point.WORKER_BEFORE_COMMIT, Point.WORKER_AFTER_COMMIT}


@pytest.mark.parametrize(
    "point", [point for point in Point if point.startswith("worker-") and point not in BESIDE_A_JOB], ids=str
)
def test_a_fork_may_die_at_any_point_of_a_job(env, night, tmp_path, point, is_long):
    if not is_long and point not in _TELLING:
        pytest.skip("with --long; the sweep of crash points plays it with workers")
    struck = tmp_path / "struck"
    struck.mkdir()
    failing = env | {"NIGHTREAD_FAILPOINT": f"{point}:kill:2", "NIGHTREAD_FAILPOINT_DIR": str(struck)}
    summary = last_json(run("score", night, "--json", env=failing, cwd=tmp_path))
    assert len(list(struck.iterdir())) == 1
    assert (summary["scored"], summary["failed"]) == (SCANS, 0)
    assert query(env, "SELECT count(*), count(DISTINCT sha256) FROM predictions") == [(SCANS, SCANS)]
    assert query(env, "SELECT status, count(*) FROM runs GROUP BY status") == [("finished", 1)]
    assert sum(row[0] for row in query(env, "SELECT crashes FROM jobs")) in {0, 1}


def test_a_run_whose_forks_are_all_killed_is_ended_by_the_program_itself(slow, night, tmp_path):
    log = tmp_path / "log"
    with started([PROGRAM, "score", night, "--json"], slow, tmp_path, log) as process:
        for fork in wait_for_forks(process, slow):
            os.kill(fork, signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 0
    summary = json.loads(log.read_text().splitlines()[-1])
    assert (summary["scored"], summary["failed"]) == (SCANS, 0)
    assert process.pid in scorers(slow)
    assert sum(row[0] for row in query(slow, "SELECT crashes FROM jobs")) in {1, 2}  # one may have been between jobs


def test_ctrl_c_ends_the_jobs_under_way_and_accounts_for_the_rest(slow, night, tmp_path):
    log = tmp_path / "log"
    with started([PROGRAM, "score", night], slow, tmp_path, log) as process:
        forks = wait_for_forks(process, slow)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the forks get it, too
        assert process.wait(PATIENCE_S) == 130
        assert not any(Path(f"/proc/{fork}").exists() for fork in forks)
    assert b"Traceback" not in log.read_bytes()
    assert b"Run the command again" in log.read_bytes()
    stopped = last_json(run("status", "--json", env=slow, cwd=tmp_path))
    assert (stopped["status"], stopped["queued"]) == ("cancelled", 0)
    assert 0 < stopped["scored"] < SCANS
    assert stopped["scored"] + stopped["failed"] == SCANS
    assert {row[0] for row in query(slow, "SELECT crashes FROM jobs")} == {0}


def test_forks_die_with_the_program_and_the_next_run_goes_on(slow, night, tmp_path):
    with started([PROGRAM, "score", night, "--name", "killed"], slow, tmp_path, tmp_path / "log") as process:
        forks = wait_for_forks(process, slow)
        process.kill()  # and not its group
        process.wait()
        wait_until(lambda: not any(Path(f"/proc/{fork}").exists() for fork in forks), "the end of the forks")
    summary = last_json(run("score", night, "--json", env=slow, cwd=tmp_path))
    assert (summary["scored"], summary["failed"]) == (SCANS, 0)
    assert summary["reused"] > 0
    killed = last_json(run("status", "killed", "--json", env=slow, cwd=tmp_path))
    assert (killed["status"], killed["queued"]) == ("cancelled", 0)
