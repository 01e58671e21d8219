"""Transactions: readers cannot write, writers wait for locks, and errors are one line."""

import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

import db.engine
from db.engine import make_engine, reading, write
from db.tables import runs
from nightread.errors import DatabaseUnavailable
from tests.db_factories import add_run, at_once, fetch_run, in_background, wait_until_blocked
from tests.factories import ROOT

PASSWORD = "s3cret-canary"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(db.engine.time, "sleep", lambda seconds: None)


@pytest.fixture
def _patient(monkeypatch):
    monkeypatch.undo()


def count_up(connection):
    """Read, then write, at which a deferred SQLite transaction fails."""
    found = connection.execute(select(runs.c.found)).scalar()
    connection.execute(update(runs).values(found=found + 1))


def unavailable(call):
    """Return the error line of a failing call."""
    with pytest.raises(DatabaseUnavailable) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert PASSWORD not in message
    assert "NIGHTREAD_DATABASE_URL" in message
    return message


class TestReading:
    def test_a_read_only_transaction_cannot_write(self, postgres_engine):
        add_run(postgres_engine)
        with pytest.raises(DatabaseUnavailable, match="read-only"), reading(postgres_engine) as connection:
            connection.execute(update(runs).values(found=0))

    def test_the_connection_can_write_again_afterwards(self, postgres_engine):
        run_id = add_run(postgres_engine)
        with reading(postgres_engine):
            pass
        write(postgres_engine, count_up)
        assert fetch_run(postgres_engine, run_id).found == 2

    def test_a_reader_sees_one_state_whatever_is_written_meanwhile(self, engine):
        run_id = add_run(engine)
        with reading(engine) as connection:
            query = select(runs.c.found)
            assert connection.execute(query).scalar() == 1
            write(engine, count_up)
            assert connection.execute(query).scalar() == 1
        assert fetch_run(engine, run_id).found == 2

    def test_an_error_of_the_caller_is_not_taken_for_one_of_the_database(self, engine):
        with pytest.raises(ZeroDivisionError), reading(engine):
            1 / 0  # noqa: B018
        with pytest.raises(DBAPIError, match="nonsense"), reading(engine) as connection:
            connection.execute(text("SELECT nonsense"))


class TestWriting:
    def test_threads_that_read_and_write_at_once_all_succeed_without_a_second_try(self, engine, caplog):
        run_id = add_run(engine)
        if engine.dialect.name == "postgresql":

            def change(connection):
                connection.execute(select(runs.c.id).with_for_update())
                count_up(connection)
        else:
            change = count_up
        at_once([lambda: [write(engine, change) for _ in range(10)] for _ in range(6)])
        assert fetch_run(engine, run_id).found == 61
        assert caplog.text == ""

    @pytest.mark.usefixtures("_patient")
    def test_processes_that_write_to_one_file_at_once_all_succeed(self, sqlite_url, sqlite_engine):
        run_id = add_run(sqlite_engine)
        program = (
            "import sys; from db.engine import make_engine, write; from tests.integration.test_engine import count_up\n"
            "engine = make_engine(sys.argv[1])\n"
            "for _ in range(25): write(engine, count_up)"
        )
        processes = [
            subprocess.Popen([sys.executable, "-c", program, sqlite_url], cwd=ROOT, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for _ in range(25):
            write(sqlite_engine, count_up)
        assert [process.communicate(timeout=60)[1] for process in processes] == ["", ""]
        assert fetch_run(sqlite_engine, run_id).found == 76

    def test_a_file_survives_a_writer_that_is_killed_in_mid_transaction(self, sqlite_url, sqlite_engine):
        run_id = add_run(sqlite_engine)
        program = (
            "import os, sys; from db.engine import make_engine, write\n"
            "from tests.integration.test_engine import count_up\n"
            "write(make_engine(sys.argv[1]), lambda connection: (count_up(connection), os.kill(os.getpid(), 9)))"
        )
        killed = subprocess.run([sys.executable, "-c", program, sqlite_url], cwd=ROOT, check=False)
        assert killed.returncode == -9
        write(sqlite_engine, count_up)
        assert fetch_run(sqlite_engine, run_id).found == 2
        with reading(sqlite_engine) as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"

    def test_a_deadlock_is_tried_again_and_both_writers_commit_once(self, postgres_engine, caplog):
        first, second = add_run(postgres_engine), add_run(postgres_engine)
        tries = []
        both_hold_one = threading.Barrier(2)

        def touch(one, other, connection):
            is_first_try = one not in tries
            tries.append(one)
            connection.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
            for run_id in (one, other):
                connection.execute(update(runs).where(runs.c.id == run_id).values(found=runs.c.found + 1))
                if is_first_try and run_id == one:
                    both_hold_one.wait(30)

        at_once([
            lambda: write(postgres_engine, lambda connection: touch(first, second, connection)),
            lambda: write(postgres_engine, lambda connection: touch(second, first, connection)),
        ])  # fmt: skip
        assert len(tries) >= 3  # the one that gave way may meet the other once more
        assert [fetch_run(postgres_engine, run_id).found for run_id in (first, second)] == [3, 3]
        assert "retried after DeadlockDetected" in caplog.text

    def test_a_serialization_failure_is_tried_again(self, postgres_engine):
        run_id = add_run(postgres_engine)
        tries = []

        def change(connection):
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            found = connection.execute(select(runs.c.found)).scalar()
            if not tries:
                write(postgres_engine, count_up)
            tries.append(found)
            connection.execute(update(runs).values(found=found + 10))

        write(postgres_engine, change)
        assert tries == [1, 2]
        assert fetch_run(postgres_engine, run_id).found == 12

    def test_a_connection_that_the_server_ends_is_replaced_and_the_work_commits_once(self, postgres_engine):
        run_id = add_run(postgres_engine)
        tries = []

        def change(connection):
            count_up(connection)
            tries.append(connection.execute(text("SELECT pg_backend_pid()")).scalar())
            if len(tries) == 1:
                terminate(postgres_engine, tries[0])

        write(postgres_engine, change)
        assert len(tries) == 2
        assert fetch_run(postgres_engine, run_id).found == 2

    def test_a_connection_that_died_in_the_pool_is_not_noticed(self, postgres_engine):
        run_id = add_run(postgres_engine)
        with postgres_engine.connect() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        with psycopg.connect(str(postgres_engine.url.set(drivername="postgresql").render_as_string(False))) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        assert fetch_run(postgres_engine, run_id).found == 1

    def test_a_fault_that_stays_is_told_after_the_last_try(self, postgres_engine):
        tries = []

        def deadlock(connection):
            tries.append(1)
            connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'stuck' USING ERRCODE = '40P01'; END $$"))

        assert "stuck" in unavailable(lambda: write(postgres_engine, deadlock))
        assert len(tries) == db.engine._WRITE_TRIES

    def test_a_mistake_of_ours_is_neither_tried_again_nor_taken_for_the_database_being_away(self, engine):
        tries = []

        def violate(connection):
            tries.append(1)
            connection.execute(update(runs).values(model_digest="0" * 64))

        add_run(engine)
        with pytest.raises(IntegrityError):
            write(engine, violate)
        assert len(tries) == 1

    def test_work_that_raises_leaves_nothing(self, engine):
        run_id = add_run(engine)

        def change(connection):
            count_up(connection)
            raise KeyError

        with pytest.raises(KeyError):
            write(engine, change)
        assert fetch_run(engine, run_id).found == 1


def terminate(engine, pid):
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


class TestUnavailable:
    @pytest.mark.parametrize(
        "call", [lambda engine: write(engine, count_up), lambda engine: reading(engine).__enter__()]
    )
    def test_a_server_that_is_away(self, call):
        engine = make_engine(f"postgresql://nightread:{PASSWORD}@127.0.0.1:1/nightread?sslpassword={PASSWORD}")
        message = unavailable(lambda: call(engine))
        assert "postgresql+psycopg://nightread:***@127.0.0.1:1/nightread" in message
        assert "Connection refused" in message

    def test_a_password_given_as_a_parameter_is_not_shown(self):
        unavailable(lambda: write(make_engine(f"postgresql://u@127.0.0.1:1/n?password={PASSWORD}"), count_up))

    def test_a_wrong_password(self, postgres_url):
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute(
                "DO $$ BEGIN CREATE ROLE nobody LOGIN PASSWORD 'right'; EXCEPTION WHEN duplicate_object THEN END $$"
            )
            rules = Path(server.execute("SHOW hba_file").fetchone()[0])
            before = rules.read_text()
            try:
                rules.write_text("local all nobody scram-sha-256\n" + before)
                server.execute("SELECT pg_reload_conf()")
                url = sqlalchemy.make_url(postgres_url).set(username="nobody", password=PASSWORD)
                engine = make_engine(url.render_as_string(hide_password=False))
                for _ in range(100):  # the server takes the new rules when it gets to it
                    message = unavailable(
                        lambda: write(engine, lambda connection: connection.execute(text("SELECT 1/0")))
                    )
                    if "password" in message:
                        break
                assert "password authentication failed" in message
                engine.dispose()
            finally:
                rules.write_text(before)
                server.execute("SELECT pg_reload_conf()")

    def test_a_database_that_does_not_exist(self, postgres_url):
        url = sqlalchemy.make_url(postgres_url).set(database="nowhere").render_as_string(hide_password=False)
        assert 'database "nowhere" does not exist' in unavailable(lambda: write(make_engine(url), count_up))

    def test_a_role_without_permission(self, postgres_engine):
        with postgres_engine.begin() as connection:
            connection.execute(text(
                "DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN END $$"
            ))  # fmt: skip

        def change(connection):
            connection.execute(text("SET LOCAL ROLE reader"))
            count_up(connection)

        assert "permission denied" in unavailable(lambda: write(postgres_engine, change))

    def test_a_full_disk(self, sqlite_engine):
        def fill(connection):
            pages = connection.execute(text("PRAGMA page_count")).scalar()
            connection.execute(text(f"PRAGMA max_page_count = {pages}"))
            connection.execute(update(runs).values(name="x" * 1_000_000))

        run_id = add_run(sqlite_engine)
        assert "full" in unavailable(lambda: write(sqlite_engine, fill))
        sqlite_engine.dispose()
        assert fetch_run(sqlite_engine, run_id).name == "night"

    def test_a_folder_that_cannot_be_written(self):
        message = unavailable(lambda: write(make_engine("sqlite:////proc/nightread.db"), count_up))
        assert "unable to open database file" in message

    def test_a_folder_in_the_place_of_the_file(self, tmp_path):
        message = unavailable(lambda: write(make_engine(f"sqlite:///{tmp_path}"), count_up))
        assert f"it is a folder: name a file in it, such as {tmp_path}/nightread.db" in message

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        assert "the file of the database cannot be made: File exists" in unavailable(
            lambda: make_engine(f"sqlite:///{tmp_path}/file/nightread.db")
        )

    def test_a_file_that_is_no_database(self, tmp_path):
        (tmp_path / "scan.jpg").write_bytes(b"\xff\xd8\xff\xe0" * 1000)
        engine = make_engine(f"sqlite:///{tmp_path}/scan.jpg")
        assert "not a database; it is no SQLite file" in unavailable(lambda: write(engine, count_up))
        assert "not a database" in unavailable(lambda: reading(engine).__enter__())

    def test_a_damaged_file(self, sqlite_engine):
        add_run(sqlite_engine)
        sqlite_engine.dispose()
        file = Path(sqlite_engine.url.database)
        content = file.read_bytes()
        file.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
        assert "malformed; keep the file aside" in unavailable(lambda: write(sqlite_engine, count_up))

    @pytest.mark.parametrize("url", ["", "nonsense", f"post gresql://{PASSWORD}", "postgresql://u:p@h:port/x"])
    def test_a_url_that_cannot_be_read(self, url):
        unavailable(lambda: make_engine(url))

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
    def test_a_database_in_memory_which_threads_cannot_share(self, url):
        with pytest.raises(DatabaseUnavailable, match="SQLite needs one"):
            make_engine(url)


def test_a_writer_that_waits_sees_what_the_other_has_committed(postgres_engine):
    run_id = add_run(postgres_engine)
    with postgres_engine.begin() as first:
        first.execute(update(runs).values(found=runs.c.found + 1))
        second = in_background(lambda: write(postgres_engine, lambda connection: connection.execute(
            update(runs).values(found=runs.c.found + 1)
        )))  # fmt: skip
        wait_until_blocked(postgres_engine)
    second.result(30)
    assert fetch_run(postgres_engine, run_id).found == 3


def test_a_file_is_in_wal_mode_with_full_synchronisation_and_foreign_keys(sqlite_engine):
    with closing(sqlite_engine.raw_connection()) as connection:
        cursor = connection.cursor()
        found = [
            cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 2, 1]


def test_a_server_ends_what_hangs_and_tells_times_in_utc(postgres_engine):
    with reading(postgres_engine) as connection:
        found = {
            name: connection.execute(select(func.current_setting(name))).scalar()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "TimeZone")
        }
    assert found == {
        "statement_timeout": "2min", "lock_timeout": "20s", "idle_in_transaction_session_timeout": "1min",
        "TimeZone": "UTC",
    }  # fmt: skip


def test_a_connection_notices_a_server_that_is_gone_without_a_word_unless_the_url_says_otherwise(postgres_url):
    def read_parameters(url):
        engine = make_engine(url)
        with engine.connect() as connection:
            parameters = connection.connection.driver_connection.info.get_parameters()
        engine.dispose()
        return parameters

    found = read_parameters(postgres_url)
    assert (found["keepalives_idle"], found["keepalives_count"], found["tcp_user_timeout"]) == ("10", "3", "25000")
    assert read_parameters(f"{postgres_url}&keepalives_idle=60")["keepalives_idle"] == "60"
