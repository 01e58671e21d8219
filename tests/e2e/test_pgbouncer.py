"""A night through PgBouncer in transaction mode, with two workers and a command that waits."""

import shutil

import pytest
import sqlalchemy as sa

from db.engine import make_engine
from tests.program import last_json, make_environment, run, worker
from tests.services import run_pgbouncer


@pytest.mark.timeout(900)
def test_a_night_through_two_server_connections_loses_and_doubles_nothing(
    postgres_url, redis_url, ward, tmp_path, is_long
):
    night = tmp_path / "night"
    for number in range(4 if is_long else 1):
        shutil.copytree(ward, night / str(number))
    nights = 4 if is_long else 2
    with run_pgbouncer(tmp_path, postgres_url, pool_size=2) as url:
        env = make_environment(
            tmp_path, database_url=url, broker_url=redis_url, lease_s=10, sweep_s=1, job_size=4, threads=1
        )
        run("db", "upgrade", env=env, cwd=tmp_path)
        log = tmp_path / "workers.log"
        with worker(env, tmp_path, log), worker(env, tmp_path, log):
            ends = [last_json(run("enqueue", night, "--wait", "--json", env=env, cwd=tmp_path)) for _ in range(nights)]
        doctor = run("doctor", env=env, cwd=tmp_path)
        engine = make_engine(url)
        with engine.connect() as connection:
            crashes = connection.execute(sa.text("SELECT sum(crashes) FROM jobs")).scalar()
        engine.dispose()
    found = len(list(night.glob("*/*")))
    assert [(end["found"], end["scored"], end["failed"]) for end in ends] == [(found, found, 0)] * nights
    assert crashes == 0
    assert "prepared statement" not in log.read_text()
    assert "Traceback" not in log.read_text()
    assert "PostgreSQL" in doctor.stdout
