"""The previous release goes on beside this one: its worker, commands and health check on this release's tables."""

import subprocess
import sys

import pytest

from db.engine import make_engine, reading
from db.runs import find_run
from db.tallies import count_scans
from tests.factories import ROOT, small_chest, write_jpeg
from tests.program import PATIENCE_S, last_json, make_environment, run, started, wait_until

#: The last commit whose schema is `db.schema.OLDEST_SERVED`.
COMMIT = "ada3807"
PACKAGES = ("bench", "cli", "db", "nightread", "web", "worker")


@pytest.fixture(scope="module")
def previous(tmp_path_factory):
    """Start of a command line of the previous release, out of this repository's history."""
    folder = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(["git", "archive", COMMIT, *PACKAGES], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"the history of this checkout does not reach back to {COMMIT}")
    subprocess.run(["tar", "--extract"], cwd=folder, input=archive.stdout, check=True)
    program = f"import sys; sys.path[0] = {str(folder)!r}; sys.argv[0] = 'nightread'; import cli.main; cli.main.run()"
    return [sys.executable, "-c", program]


@pytest.fixture
def env(tmp_path, postgres_url, redis_url):
    return make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, lease_s=4, sweep_s=0.5, job_size=4, threads=1
    )


def test_its_worker_commands_and_health_check_go_on_while_the_new_schema_is_in_place(env, previous, tmp_path):
    def ask(*arguments):
        done = subprocess.run(
            [*previous, *map(str, arguments)], env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    def enqueue(name, command):
        for seed in range(6):
            write_jpeg(tmp_path / name / f"{seed}.jpeg", small_chest(seed))
        return command("enqueue", tmp_path / name).stdout.strip()

    def is_finished(run_id):
        with reading(engine) as connection:
            found = find_run(connection, run_id)
            counts = count_scans(connection, [run_id])[run_id]
        return found.finished_at is not None and (counts.scored, counts.failed) == (6, 0)

    engine = make_engine(env["NIGHTREAD_DATABASE_URL"])
    log = tmp_path / "previous.log"
    ask("db", "upgrade")
    assert "0005" in ask("db", "upgrade").stderr
    with started([*previous, "worker"], env, tmp_path, log):
        wait_until(lambda: "ready" in log.read_text(), "the previous release's worker")
        for change in ("upgrade", "partition"):
            run("db", change, env=env, cwd=tmp_path)
            assert last_json(ask("worker", "--health", "--json"))["healthy"]
            of_previous = enqueue(f"by-the-previous-{change}", ask)
            of_this = enqueue(f"by-this-{change}", lambda *arguments: run(*arguments, env=env, cwd=tmp_path))
            for run_id in (of_previous, of_this):
                wait_until(lambda run_id=run_id: is_finished(run_id), "the previous release's worker scores")
        assert last_json(ask("worker", "--health", "--json"))["healthy"]
        assert last_json(ask("status", of_this, "--json"))["scored"] == 6
        assert len(ask("results", of_this, "--format", "csv").stdout.splitlines()) == 7
        assert "nothing to do" in ask("db", "upgrade").stderr
    # One that starts now is no stranger either.
    with started([*previous, "worker"], env, tmp_path, log):
        again = enqueue("again", ask)
        wait_until(lambda: is_finished(again), "a worker of the previous release that starts after the upgrade")
    engine.dispose()
