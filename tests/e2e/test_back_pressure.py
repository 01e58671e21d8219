"""While the database accepts nothing, workers wait, and neither their memory nor the queue grows."""

import time

import psutil
import sqlalchemy as sa

from db.engine import make_engine
from tests.factories import small_chest, write_jpeg
from tests.program import hold_reading, last_json, make_environment, run, wait_until, worker

HIGH_WATER = 6


def test_what_is_in_flight_is_bounded_while_the_database_stands_still(postgres_url, redis_url, redis_server, tmp_path):
    env = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, lease_s=60, sweep_s=0.5, job_size=2, threads=1,
        queue_high_water=HIGH_WATER,
    )  # fmt: skip
    for seed in range(80):
        write_jpeg(tmp_path / "night" / f"{seed:02}.jpeg", small_chest(seed))
    run("db", "upgrade", env=env, cwd=tmp_path)
    database, redis = make_engine(postgres_url), redis_server.connect()

    def count_jobs(status):
        with database.connect() as connection:
            query = sa.text("SELECT count(*) FROM jobs WHERE status = :status")
            return connection.execute(query, {"status": status}).scalar()

    gate, held = hold_reading(tmp_path, "20.jpeg")
    with worker(env | held, tmp_path, tmp_path / "worker.log", "--concurrency=2") as process:
        with database.connect() as blocker:
            blocker.execute(sa.text("SET lock_timeout = 0"))
            blocker.execute(sa.text("SET idle_in_transaction_session_timeout = 0"))
            blocker.commit()  # a rollback would take the settings back
            run("enqueue", tmp_path / "night", env=env, cwd=tmp_path)
            wait_until(lambda: count_jobs("done"), "the first job")
            blocker.execute(sa.text("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE"))
            gate.unlink()
            wait_until(lambda: count_jobs("leased") == 2, "both processes to wait for the database")
            time.sleep(1)
            done, memory = count_jobs("done"), measure(process)
            for _ in range(12):
                time.sleep(1)
                assert count_jobs("leased") == 2  # one for each process, and no more is taken
                assert redis.llen("nightread:nightread") <= HIGH_WATER
                assert redis.hlen("nightread:unacked") <= 4  # under way, and one ahead of each
            assert count_jobs("done") == done
            assert measure(process) < memory + 64 * 2**20
            blocker.rollback()
        followed = last_json(run("status", "--follow", "--json", env=env, cwd=tmp_path))
    assert (followed["scored"], followed["failed"]) == (80, 0)
    with database.connect() as connection:
        assert connection.execute(sa.text("SELECT max(attempts), max(crashes) FROM jobs")).one() == (1, 0)
    database.dispose()


def measure(process):
    """Return the memory of a worker and all its processes, in bytes."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(one.memory_info().rss for one in family)
