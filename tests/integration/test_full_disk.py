"""A full disk halts a run with a message; the run resumes when there is room."""

import shutil
import threading

import pytest
from sqlalchemy import text

from db.engine import make_engine, reading, write
from db.tallies import RunCounts
from db.types import JobStatus
from nightread.errors import DatabaseFull
from tests.db_factories import claim, count, expire_lease, fetch_job, fetch_scans, shift_time
from tests.program import make_environment, run, wait_until
from tests.services import run_small_disk
from tests.worker_factories import add_job_of, run_process, write_scans
from worker.jobs import job as job_module
from worker.jobs.job import score_job


@pytest.fixture
def disk():
    with run_small_disk("3m") as disk:
        yield disk


@pytest.fixture
def full_sqlite(disk, _sqlite_template):
    file = disk.folder / "nightread.db"
    shutil.copyfile(_sqlite_template, file)
    engine = make_engine(f"sqlite:///{file}")
    yield engine
    engine.dispose()


@pytest.fixture
def full_postgres(disk, postgres_url):
    """A database with its rows, but not its log, on the small disk."""
    from db.schema import upgrade

    engine = make_engine(postgres_url)
    upgrade(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        folder = connection.execute(text("SHOW data_directory")).scalar()
        shutil.chown(disk.folder, shutil.os.stat(folder).st_uid)
        connection.execute(text(f"CREATE TABLESPACE small LOCATION '{disk.folder}'"))
        for table in ("predictions", "scans"):
            connection.execute(text(f"ALTER TABLE {table} SET TABLESPACE small"))
            for (index,) in connection.execute(text(f"SELECT indexname FROM pg_indexes WHERE tablename = '{table}'")):
                connection.execute(text(f'ALTER INDEX "{index}" SET TABLESPACE small'))
    yield engine
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP TABLE predictions, scans CASCADE"))
        connection.execute(text("DROP TABLESPACE small"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def process(request, monkeypatch):
    """A worker of a cluster."""
    monkeypatch.setattr(job_module, "_ROOM_POLL_S", 0.2)
    engine = request.getfixturevalue("full_sqlite" if request.param == "sqlite" else "full_postgres")
    with run_process(engine, embedded=False, job_size=64) as process:
        yield process


def fill_while_scoring(monkeypatch, disk):
    """Fill the disk in the middle of the next job: after its claim, before its results are stored."""
    score_scans = job_module.score_scans

    def score(*arguments, **options):
        result = score_scans(*arguments, **options)
        disk.fill()
        return result

    monkeypatch.setattr(job_module, "score_scans", score)


def test_results_wait_for_room_and_are_stored_once_there_is_some(process, disk, tmp_path, monkeypatch, caplog):
    job_id = add_job_of(process, write_scans(tmp_path / "night", 40))
    run_id = fetch_job(process.engine, job_id).run_id
    fill_while_scoring(monkeypatch, disk)
    worker = threading.Thread(target=score_job, args=[process, job_id], daemon=True)
    worker.start()
    wait_until(lambda: "is full" in caplog.text, "the full disk to be told")
    assert "make room" in caplog.text
    assert "worker-crash" not in caplog.text
    assert count(process.engine, run_id) == RunCounts(queued=40)
    disk.free()
    worker.join(60)
    assert not worker.is_alive()
    assert count(process.engine, run_id) == RunCounts(scored=40)
    job = fetch_job(process.engine, job_id)
    assert (job.status, job.attempts, job.crashes) == (JobStatus.DONE, 1, 0)


def test_a_disk_that_stays_full_costs_the_job_no_crash_and_it_is_done_once_there_is_room(
    process, disk, tmp_path, monkeypatch
):
    monkeypatch.setattr(job_module, "_ROOM_LIMIT_S", 0.5)
    job_id = add_job_of(process, write_scans(tmp_path / "night", 40))
    with monkeypatch.context() as patch:
        fill_while_scoring(patch, disk)
        with pytest.raises(DatabaseFull, match="make room"):
            score_job(process, job_id)
    disk.free()
    job = fetch_job(process.engine, job_id)
    assert job.crashes == 0
    if job.status is JobStatus.LEASED:  # where there was not even room to put it off
        expire_lease(process.engine, job_id)
    else:
        shift_time(process.engine, job_id, "not_before", -1)
    assert score_job(process, job_id).ended == 40
    assert {row.reason_code for row in fetch_scans(process.engine, job.run_id)} == {None}


def test_whoever_else_writes_is_told_at_once(process, disk, tmp_path):
    job_id = add_job_of(process, write_scans(tmp_path / "night", 2))
    disk.fill()
    grow = text("INSERT INTO stage_changes (request, model_digest, stage, cause, changed_by, changed_at) "
                "SELECT :text, digest, 'candidate', 'promoted', :text, created_at FROM models")  # fmt: skip
    if process.engine.dialect.name == "postgresql":
        grow = text("INSERT INTO scans (run_id, path, size_bytes, status, attempts, reused, created_at, job_id) SELECT "
                    "run_id, path || n || :text, 1, status, 0, reused, created_at, job_id FROM scans, "
                    "generate_series(1, 20000) n")  # fmt: skip
    with pytest.raises(DatabaseFull, match=r"is full .*: make room; stored data is kept"):
        write(process.engine, lambda connection: connection.execute(grow, {"text": "x" * 30}))
    disk.free()
    with reading(process.engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM scans")).scalar() == 2
    assert claim(process.engine, job_id) is not None


def test_score_says_that_the_disk_is_full_and_goes_on_when_it_is_not(disk, tmp_path):
    night = write_scans(tmp_path / "night", 12)
    env = make_environment(tmp_path, database_url=f"sqlite:///{disk.folder / 'nightread.db'}")
    run("db", "upgrade", env=env, cwd=tmp_path)
    disk.fill()
    assert "is full" in run("score", night, env=env, cwd=tmp_path, expect=5).stderr
    disk.free()
    run("score", night, env=env, cwd=tmp_path)
