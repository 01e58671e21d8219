"""A standby that is promoted in mid-run: the primary is killed, and workers continue on its successor."""

import sqlalchemy as sa

from db.engine import make_engine, reading
from tests.factories import small_chest, write_jpeg
from tests.faults.servers import run_postgres_pair
from tests.program import last_json, make_environment, run, slow_reading, wait_until, worker

_SCANS = 48


def test_a_killed_primary_and_a_promoted_standby_lose_and_double_nothing(redis_url, tmp_path):
    for seed in range(_SCANS):
        write_jpeg(tmp_path / "night" / f"{seed:02}.jpeg", small_chest(seed, 60, 72))
    with run_postgres_pair() as pair:
        primary, standby = pair.primary, pair.standby
        url = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        env = make_environment(
            tmp_path, database_url=url, broker_url=redis_url, lease_s=4, sweep_s=1, job_size=4, threads=1
        )
        run("db", "upgrade", env=env, cwd=tmp_path)
        log = tmp_path / "worker.log"
        slow = env | slow_reading(tmp_path)
        with worker(slow, tmp_path, log) as first, worker(slow, tmp_path, log) as second:
            run("enqueue", tmp_path / "night", env=env, cwd=tmp_path)
            scored = sa.text("SELECT count(*) FROM scans WHERE status = 'scored'")
            engine = make_engine(standby.url("postgres") + "?target_session_attrs=any")

            def count():
                with reading(engine) as connection:
                    return connection.execute(scored).scalar_one()

            wait_until(lambda: count() >= 4, "the first scans, on the standby")
            primary.kill()
            before = count()
            standby.promote()
            assert before < _SCANS
            done = wait_until(lambda: count() == _SCANS, "workers continue on the promoted standby")
            assert done
            assert (first.poll(), second.poll()) == (None, None)
            ended = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))
            with reading(engine) as connection:
                crashed = connection.execute(sa.text("SELECT count(*) FROM scans WHERE status = 'failed'")).scalar()
                contents = connection.execute(sa.text("SELECT count(DISTINCT sha256) FROM predictions")).scalar()
            engine.dispose()
        assert (ended["found"], ended["scored"], ended["failed"]) == (_SCANS, _SCANS, 0)
        assert (crashed, contents) == (0, _SCANS)
        assert "Traceback" not in log.read_text()
        run("db", "check", env=env, cwd=tmp_path)
