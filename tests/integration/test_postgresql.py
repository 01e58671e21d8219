"""PostgreSQL as it is run: behind PgBouncer, with parameters in the URL, with several hosts, demoted."""

import contextlib
import re
import threading

import psycopg
import pytest
from sqlalchemy import text, update
from sqlalchemy.engine import make_url

import db.postgresql
from db.engine import make_engine, reading, write
from db.schema import read_revision, upgrade
from db.server import Server, describe_server, read_server
from db.tables import runs
from nightread.errors import DatabaseUnavailable, SettingsError
from tests.db_factories import add_run, at_once, fetch_run
from tests.services import find_free_port, run_pgbouncer


@contextlib.contextmanager
def opened(url):
    engine = make_engine(url)
    yield engine
    engine.dispose()


def add_query(url, query):
    return f"{url}{'&' if '?' in url else '?'}{query}"


def read_setting(engine, name):
    with reading(engine) as connection:
        return connection.execute(text("SELECT current_setting(:name)"), {"name": name}).scalar()


def count_up(connection):
    connection.execute(update(runs).values(found=runs.c.found + 1))


def refuse(url):
    """Return the one line with which a URL is refused."""
    with pytest.raises(DatabaseUnavailable) as raised:
        make_engine(url)
    message = str(raised.value)
    assert "\n" not in message
    assert "NIGHTREAD_DATABASE_URL" in message
    return message


class TestPgBouncerInTransactionMode:
    @pytest.fixture(scope="class")
    @staticmethod
    def bouncer(tmp_path_factory, _postgres_with_tables):
        with run_pgbouncer(tmp_path_factory.mktemp("bouncer"), _postgres_with_tables, pool_size=2) as url:
            yield url

    @pytest.fixture
    def pooled(self, bouncer, postgres_engine):
        with opened(bouncer) as engine:
            yield engine

    def test_the_limits_are_in_force_in_each_transaction(self, pooled):
        for _ in range(3):
            assert read_setting(pooled, "statement_timeout") == "2min"
            assert read_setting(pooled, "lock_timeout") == "20s"
            assert read_setting(pooled, "idle_in_transaction_session_timeout") == "1min"

    def test_no_setting_stays_with_the_server_connection_that_another_client_gets(self, pooled, bouncer):
        read_setting(pooled, "statement_timeout")
        with psycopg.connect(bouncer, autocommit=True, prepare_threshold=None) as other:
            assert other.execute("SHOW statement_timeout").fetchone() == ("0",)

    def test_many_threads_share_two_server_connections_and_no_prepared_statement_is_missed(self, pooled):
        run_id = add_run(pooled)
        at_once([lambda: [write(pooled, count_up) for _ in range(12)] for _ in range(6)])
        assert fetch_run(pooled, run_id).found == 73

    def test_options_of_the_url_reach_the_server(self, bouncer):
        with opened(add_query(bouncer, "options=-csearch_path%3Dnr")) as engine:
            assert read_setting(engine, "search_path") == "nr"

    def test_a_url_that_prepares_statements_is_told_of_the_pooler(self, bouncer, postgres_engine):
        with (
            opened(add_query(bouncer, "prepare_threshold=1")) as engine,
            pytest.raises(DatabaseUnavailable, match="leave prepare_threshold out"),
        ):
            at_once([lambda: [write(engine, count_up) for _ in range(20)] for _ in range(6)])

    def test_the_schema_is_made_through_it(self, postgres_url, tmp_path):
        with run_pgbouncer(tmp_path, postgres_url) as url, opened(url) as engine:
            assert upgrade(engine)[0] is None
            add_run(engine)


class TestParametersOfTheUrl:
    @pytest.mark.parametrize(
        ("query", "name", "value"),
        [
            ("options=-csearch_path%3Dnr", "search_path", "nr"),
            ("options=-c%20search_path%3Dward%2Cpublic", "search_path", "ward, public"),
            ("options=--statement-timeout%3D7s%20-c%20lock_timeout%3D3s", "lock_timeout", "3s"),
            ("options=--statement-timeout%3D7s", "statement_timeout", "7s"),
            ("options=-cstatement_timeout%3D7s", "idle_in_transaction_session_timeout", "1min"),
            ("options=-cmy.note%3D50%25%20", "my.note", "50%"),
            ("application_name=ward7", "application_name", "ward7"),
            ("connect_timeout=3", "application_name", "nightread"),
        ],
    )
    def test_they_win_and_the_others_stay(self, postgres_url, query, name, value):
        with opened(add_query(postgres_url, query)) as engine:
            assert read_setting(engine, name) == value

    def test_tables_are_made_and_found_in_the_schema_of_the_search_path(self, postgres_url):
        with psycopg.connect(postgres_url) as server:
            server.execute("CREATE SCHEMA nr")
        with opened(add_query(postgres_url, "options=-csearch_path%3Dnr")) as engine:
            assert upgrade(engine)[0] is None
            assert upgrade(engine)[0] is not None
            with reading(engine) as connection:
                found = connection.execute(text("SELECT schemaname FROM pg_tables WHERE tablename = 'scans'")).scalars()
                assert list(found) == ["nr"]

    def test_tables_for_a_schema_that_is_not_there_are_refused_in_one_line(self, postgres_url):
        with (
            opened(add_query(postgres_url, "options=-csearch_path%3Dnowhere")) as engine,
            pytest.raises(DatabaseUnavailable, match="CREATE SCHEMA"),
        ):
            upgrade(engine)

    @pytest.mark.parametrize(("threshold", "expected"), [("0", None), ("none", None), ("3", 3)])
    def test_prepare_threshold_is_taken(self, postgres_url, threshold, expected):
        with (
            opened(add_query(postgres_url, f"prepare_threshold={threshold}")) as engine,
            engine.connect() as connection,
        ):
            assert connection.connection.driver_connection.prepare_threshold == expected

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("pgbouncer=true", "unknown parameter 'pgbouncer'"),
            ("sslmod=require", "did you mean sslmode?"),
            ("prepare_threshold=often", "prepare_threshold='often'"),
            ("options=-B%20200", "the option '-B'"),
            ("options=-c%20x%3D%27", "an open quote"),
        ],
    )
    def test_a_wrong_one_is_refused_in_one_line(self, query, said):
        assert said in refuse(f"postgresql://u@127.0.0.1:1/n?{query}")

    def test_a_setting_that_the_server_does_not_have_is_one_line(self, postgres_url):
        with (
            opened(add_query(postgres_url, "options=-cstatement_timeot%3D7s")) as engine,
            pytest.raises(DatabaseUnavailable, match="unrecognized configuration parameter"),
        ):
            write(engine, count_up)


@pytest.mark.parametrize("sqlstate", ["XX001", "XX002"])
def test_damaged_tables_are_told_in_one_line(postgres_engine, sqlstate):
    failing = f"DO $$ BEGIN RAISE 'could not read block 0' USING ERRCODE = '{sqlstate}'; END $$"
    with pytest.raises(DatabaseUnavailable, match=r"could not read block 0; .* restore the newest backup"):
        write(postgres_engine, lambda connection: connection.execute(text(failing)))


@pytest.fixture
def demoted(postgres_url):
    """A function that lets the database only read, or write again."""
    server = psycopg.connect(
        str(make_url(postgres_url).set(database="postgres").render_as_string(False)), autocommit=True
    )
    database = make_url(postgres_url).database

    def demote(value):
        server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = {value}")

    with server:
        yield demote


class TestFailover:
    def test_a_connection_to_a_server_that_has_become_read_only_is_replaced(self, postgres_engine, monkeypatch):
        monkeypatch.setattr("db.engine.time.sleep", lambda seconds: None)
        run_id = add_run(postgres_engine)
        pids = []

        def change(connection):
            pids.append(connection.execute(text("SELECT pg_backend_pid()")).scalar())
            if len(pids) == 1:
                connection.execute(text("SET TRANSACTION READ ONLY"))
            count_up(connection)

        write(postgres_engine, change)
        assert len(set(pids)) == 2
        assert fetch_run(postgres_engine, run_id).found == 2

    def test_a_server_that_only_reads_is_not_taken_and_is_named(self, postgres_url, demoted, monkeypatch):
        monkeypatch.setattr("db.engine.time.sleep", lambda seconds: None)
        demoted("on")
        with opened(postgres_url) as engine, pytest.raises(DatabaseUnavailable, match="it only reads"):
            write(engine, count_up)
        with opened(add_query(postgres_url, "target_session_attrs=any")) as engine:
            assert read_setting(engine, "transaction_read_only") == "on"

    def test_of_several_hosts_the_one_that_writes_is_taken(self, postgres_url, tmp_path):
        away = find_free_port()
        with run_pgbouncer(tmp_path, postgres_url) as url:
            parsed = make_url(url)
            several = f"postgresql://{parsed.username}@127.0.0.1:{away},127.0.0.1:{parsed.port}/{parsed.database}"
            with opened(several) as engine, reading(engine) as connection:
                assert connection.execute(text("SELECT 1")).scalar() == 1

    def test_a_failover_that_takes_a_second_is_waited_for(self, postgres_url, demoted):
        """The connection is lost, and for a second the only server that answers just reads."""
        with opened(postgres_url) as engine:
            upgrade(engine)
            run_id = add_run(engine)
            tries = []

            def change(connection):
                tries.append(1)
                if len(tries) == 1:
                    demoted("on")
                    threading.Timer(1.0, demoted, ["off"]).start()
                    pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
                    with psycopg.connect(postgres_url) as other:
                        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
                count_up(connection)

            write(engine, change)
            assert fetch_run(engine, run_id).found == 2


def test_a_process_opens_no_more_connections_than_stated(postgres_engine):
    size = db.postgresql.POOL_SIZE
    assert postgres_engine.pool.size() == size


class TestServer:
    @pytest.fixture(params=["SQL_ASCII", "LATIN1"])
    def old_url(self, request, postgres_url):
        """A database in an encoding that cannot store every path."""
        name = f"{make_url(postgres_url).database}_old"
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {request.param} LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def test_a_database_that_cannot_store_every_path_is_refused_by_name(self, old_url):
        with opened(old_url) as engine:
            with pytest.raises(SettingsError, match="only UTF8"):
                upgrade(engine)
            with pytest.raises(SettingsError, match="only UTF8"):
                describe_server(read_server(engine))
            assert read_revision(engine) is None

    def test_it_tells_version_encoding_and_how_many_processes_fit(self, postgres_engine):
        assert re.fullmatch(
            r"PostgreSQL \d+\.\d+, UTF8, \d+ of \d+ connections open: \d+ more processes fit",
            describe_server(read_server(postgres_engine)),
        )

    def test_a_server_that_only_reads_is_named(self, postgres_url, demoted):
        demoted("on")
        with opened(add_query(postgres_url, "target_session_attrs=any")) as engine:
            server = read_server(engine)
        with pytest.raises(SettingsError, match="only reads"):
            describe_server(server)

    def test_a_role_that_may_not_write_is_named(self, postgres_url):
        with opened(postgres_url) as engine:
            upgrade(engine)
            write(engine, lambda connection: connection.execute(text(
                "DO $$ BEGIN CREATE ROLE only_reads LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"
            )))  # fmt: skip
            write(engine, lambda connection: connection.execute(text("GRANT SELECT ON scans TO only_reads")))
        as_reader = make_url(postgres_url).set(username="only_reads").render_as_string(hide_password=False)
        with opened(as_reader) as engine, pytest.raises(SettingsError, match="may not write"):
            describe_server(read_server(engine))
        with opened(as_reader) as engine, pytest.raises(DatabaseUnavailable, match=r"schema_version; .* GRANT SELECT"):
            read_revision(engine)
        with psycopg.connect(postgres_url) as server:
            server.execute("DROP OWNED BY only_reads")

    def test_a_server_without_room_for_another_process_is_named(self):
        with pytest.raises(SettingsError, match="95 of 97 connections"):
            describe_server(Server("17.2", "UTF8", False, True, 95, 97))


class TestSettingsOfTheDatabase:
    """What an administrator has set for the database or the role."""

    @pytest.fixture
    def set_to(self, postgres_url):
        def set_to(setting):
            with psycopg.connect(postgres_url, autocommit=True) as server:
                server.execute(f"ALTER DATABASE {make_url(postgres_url).database} SET {setting}")

        return set_to

    def test_dates_of_a_country_are_read(self, postgres_url, set_to):
        set_to("datestyle = 'German, DMY'")
        with opened(postgres_url) as engine:
            upgrade(engine)
            assert fetch_run(engine, add_run(engine)).created_at.tzinfo

    def test_connection_that_the_server_ends_in_the_middle_is_told_in_one_line(self, postgres_url):
        with (
            opened(add_query(postgres_url, "options=-ctransaction_timeout%3D50ms")) as engine,
            pytest.raises(DatabaseUnavailable, match="terminating connection"),
            reading(engine) as connection,
        ):
            connection.execute(text("SELECT pg_sleep(10)"))
