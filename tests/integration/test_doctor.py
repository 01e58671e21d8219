"""The checks of `doctor` on real services."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from db import engine as db_engine
from db.partition_change import partition
from db.schema import check_rights, upgrade
from nightread.cgroup import Memory
from nightread.errors import DatabaseUnavailable
from nightread.settings import read_settings
from tests.factories import UNGATED_MODEL
from worker.doctor import database, host, model
from worker.doctor.broker import check_broker
from worker.doctor.checks import CHECKS, run_checks
from worker.doctor.finding import Finding, Level
from worker.doctor.machine import Machine
from worker.errors import BrokerUnavailable
from worker.queue.celery_app import make_app
from worker.queue.publisher import Publisher


def make_settings(**given):
    return read_settings(**{"model": UNGATED_MODEL} | given)


def find(settings):
    return dict(run_checks(settings))


def test_a_laptop_passes_every_check(sqlite_url, tmp_path):
    found = find(make_settings(database_url=sqlite_url))
    assert list(found) == list(CHECKS)
    assert [(name, finding) for name, finding in found.items() if finding.level is Level.FAIL] == []


def test_a_cluster_is_warned_of_open_roots(postgres_url, redis_url):
    upgrade(db_engine.make_engine(postgres_url))
    found = find(make_settings(database_url=postgres_url, broker_url=redis_url))
    assert found["roots"].level is Level.WARN
    assert found["broker"].found == "answers and takes messages; 0 waiting, 0 refused so far"
    assert "would take jobs of up to 64 scans" in found["worker"].found


def test_a_month_without_a_partition_is_a_warning(postgres_url, redis_url):
    engine = db_engine.make_engine(postgres_url)
    upgrade(engine)
    settings = make_settings(database_url=postgres_url, broker_url=redis_url)
    partition(engine, 0)
    found = find(settings)["database"]
    assert (found.level, "without scans_" in found.found) == (Level.WARN, True)
    partition(engine, 1)
    found = find(settings)["database"]
    assert (found.level, "without" in found.found) == (Level.OK, False)
    engine.dispose()


def test_a_database_that_does_not_answer_is_told_once(redis_url):
    found = find(make_settings(database_url="postgresql://nobody@127.0.0.1:1/none", broker_url=redis_url))
    failed = [name for name, finding in found.items() if finding.level is Level.FAIL]
    assert failed == ["database"]
    assert "clock" not in found


def test_a_user_without_rights_is_named_by_the_table(postgres_url):
    upgrade(db_engine.make_engine(postgres_url))
    server = sqlalchemy.create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    with server.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    try:
        reader = db_engine.make_engine(
            make_url(postgres_url).set(username="reader").render_as_string(hide_password=False)
        )
        with pytest.raises(DatabaseUnavailable, match="permission denied for table"):
            check_rights(reader)
        reader.dispose()
    finally:
        with server.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY reader; DROP ROLE reader")
        server.dispose()


def test_the_check_of_rights_writes_nothing(sqlite_url):
    engine = db_engine.make_engine(sqlite_url)
    upgrade(engine)
    check_rights(engine)
    with db_engine.reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 0


def test_a_broker_that_takes_no_message_is_found_before_the_first_night(sqlite_url, redis_url, redis_server):
    settings = make_settings(database_url=sqlite_url, broker_url=redis_url)
    publisher = Publisher(make_app(settings), settings)
    publisher.check_rights()
    admin = redis_server.connect()
    assert admin.keys("*nightread") == []
    admin.execute_command("ACL", "SETUSER", "default", "-lpush")
    try:
        with pytest.raises(BrokerUnavailable, match="denies this user a command"):
            publisher.check_rights()
    finally:
        admin.execute_command("ACL", "SETUSER", "default", "+lpush")


@pytest.mark.parametrize(
    ("policy", "level"),
    [("noeviction", Level.OK), ("volatile-lru", Level.OK), ("allkeys-lru", Level.WARN), ("allkeys-random", Level.WARN)],
)
def test_a_broker_that_drops_messages_when_it_is_full_is_a_warning(sqlite_url, redis_url, redis_server, policy, level):
    admin = redis_server.connect()
    admin.config_set("maxmemory-policy", policy)
    try:
        found = check_broker(Machine(make_settings(database_url=sqlite_url, broker_url=redis_url)))
    finally:
        admin.config_set("maxmemory-policy", "noeviction")
    assert (found.level, "noeviction" in found.found) == (level, level is Level.WARN)


def test_a_broker_that_does_not_tell_its_policy_passes(sqlite_url, redis_url, redis_server):
    admin = redis_server.connect()
    admin.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        assert check_broker(Machine(make_settings(database_url=sqlite_url, broker_url=redis_url))).level is Level.OK
    finally:
        admin.execute_command("ACL", "SETUSER", "default", "+info")


def test_clocks_that_differ_are_a_warning(sqlite_url, monkeypatch):
    machine = Machine(make_settings(database_url=sqlite_url))
    assert database.check_clock(machine).level is Level.OK
    monkeypatch.setattr(database, "read_clock", lambda _: datetime.now(UTC) - timedelta(minutes=2))
    finding = database.check_clock(machine)
    assert (finding.level, finding.found[:6]) == (Level.WARN, "-120.0")


@pytest.mark.parametrize(("mode", "level"), [(0o600, Level.OK), (0o640, Level.WARN), (0o604, Level.WARN)])
def test_a_file_that_others_may_read_is_a_warning(tmp_path, sqlite_url, mode, level):
    (tmp_path / "nightread.db").touch()
    (tmp_path / "nightread.db").chmod(mode)
    assert host.check_files(Machine(make_settings(database_url=sqlite_url))).level is level


def test_threads_beyond_the_quota_of_a_container_are_a_warning(sqlite_url, monkeypatch):
    monkeypatch.setattr(host, "read_core_quota", lambda: 1.0)
    monkeypatch.setattr(host, "count_cores", lambda: 1)
    finding = host.check_cores(Machine(make_settings(database_url=sqlite_url, threads=4)))
    assert finding.level is Level.WARN
    assert "limited to 1 by the container" in finding.found
    assert "NIGHTREAD_THREADS=1" in finding.found


def test_memory_is_what_the_container_has_left(sqlite_url, monkeypatch):
    monkeypatch.setattr(host, "read_memory", lambda: Memory(2**29, 2**28))
    finding = host.check_memory(Machine(make_settings(database_url=sqlite_url)))
    assert finding.level is Level.WARN
    assert "256 MiB of 512 MiB free" in finding.found


def test_a_disk_that_cannot_be_written_fails(sqlite_url, monkeypatch):
    def refuse(folder):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(host, "_measure_disk", refuse)
    finding = host.check_disk(Machine(make_settings(database_url=sqlite_url)))
    assert (finding.level, "Read-only file system" in finding.found) == (Level.FAIL, True)


def test_roots_are_folders(sqlite_url, tmp_path):
    found = find(make_settings(database_url=sqlite_url, scan_roots=f"{tmp_path}/absent"))
    assert found["roots"].level is Level.FAIL


def test_a_gpu_that_is_not_used_says_why(sqlite_url, monkeypatch):
    machine = Machine(make_settings(database_url=sqlite_url))
    monkeypatch.setattr(model, "explain_missing_gpu", lambda: "")
    assert model.check_gpu(machine).level is Level.WARN


def test_a_fault_of_a_check_hides_no_other(sqlite_url, monkeypatch):
    def fail(machine):
        raise ZeroDivisionError

    monkeypatch.setitem(CHECKS, "cores", fail)
    found = find(make_settings(database_url=sqlite_url))
    assert found["cores"] == Finding("the check itself failed: ZeroDivisionError", Level.FAIL)
    assert found["model"].level is Level.OK
