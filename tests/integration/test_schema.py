"""The migrations create the schema of the code, once, even if several processes run them."""

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, inspect, select, text
from sqlalchemy.exc import IntegrityError

import db.migrations.partial_indexes  # completes the metadata
import db.schema
from db.engine import make_engine, reading, write
from db.owner import Owner
from db.registry import find_production, list_stage_changes
from db.runs import find_run
from db.schema import (
    OLDEST_SERVED,
    REVISION,
    SchemaVersion,
    check_schema,
    ensure_schema,
    read_revision,
    read_version,
    upgrade,
)
from db.tables import jobs, metadata
from db.types import database_now
from db.views import folders, latest_results, nights, results, studies
from nightread.errors import SchemaOutdated
from tests.db_factories import add_run, at_once, claim, open_scans
from tests.factories import ROOT

TABLES = {
    "models",
    "stage_changes",
    "runs",
    "jobs",
    "scans",
    "predictions",
    "tallies",
    "worklist_rows",
    "folder_counts",
    "measurements",
    "schedules",
    "marks",
    "deliveries",
    "page_actions",
    "schedule_nights",
}
VERSION_TABLES = {"schema_version", "alembic_version"}  # fmt: skip


@pytest.fixture
def empty_engine(database_url):
    """A database without tables; SQLite and PostgreSQL in turn."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(empty_engine):
    """A database with tables that a test may change; SQLite and PostgreSQL in turn."""
    upgrade(empty_engine)
    return empty_engine


@pytest.fixture
def empty_server(postgres_url):
    engine = make_engine(postgres_url)
    yield engine
    engine.dispose()


def upgrade_to(engine, revision):
    """Make the tables of a release before schema 0006, which keeps its revision in `alembic_version`."""
    run_alembic(engine, lambda config: command.upgrade(config, revision))
    write(engine, lambda connection: connection.execute(text("ALTER TABLE schema_version RENAME TO alembic_version")))


def run_alembic(engine, run):
    config = Config()
    config.set_main_option("script_location", str(ROOT / "db/migrations"))

    def work(connection):
        config.attributes["connection"] = connection
        run(config)

    write(engine, work)


def set_version(engine, revision, oldest_served):
    write(engine, lambda connection: connection.execute(
        text("UPDATE schema_version SET version_num = :revision, oldest_served = :oldest"),
        {"revision": revision, "oldest": oldest_served},
    ))  # fmt: skip


def test_the_migrations_make_what_the_tables_declare(engine):
    def belongs_here(item, _name, _kind, reflected, _other):
        condition = getattr(item, "_ddl_if", None)
        return reflected or condition is None or condition.dialect == engine.dialect.name

    with engine.connect() as connection:
        options = {
            "include_object": belongs_here,
            "compare_type": True, "compare_server_default": True, "version_table": "schema_version",
            "include_name": lambda name, kind, _: kind != "table" or name != "alembic_version",
        }  # fmt: skip
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_checks_and_their_names_are_those_of_the_tables(engine):
    inspector = inspect(engine)
    for table in metadata.sorted_tables:
        declared = {
            str(constraint.name)
            for constraint in table.constraints
            if isinstance(constraint, sqlalchemy.CheckConstraint)
        }
        assert {check["name"] for check in inspector.get_check_constraints(table.name)} == declared


def test_the_revision_in_the_code_is_the_newest_migration():
    assert ScriptDirectory(str(ROOT / "db/migrations")).get_heads() == [REVISION]


def test_upgrading_tells_the_revision_before_and_now_and_a_second_time_does_nothing(empty_engine):
    assert read_revision(empty_engine) is None
    assert upgrade(empty_engine) == (None, REVISION)
    assert upgrade(empty_engine) == (REVISION, REVISION)
    assert set(inspect(empty_engine).get_table_names()) == TABLES | VERSION_TABLES


def test_threads_that_upgrade_an_empty_database_at_once_all_succeed(database_url):
    engines = [make_engine(database_url) for _ in range(4)]
    befores = at_once([lambda engine=engine: upgrade(engine)[1] for engine in engines])
    assert befores == [REVISION] * 4
    assert read_revision(engines[0]) == REVISION
    for engine in engines:
        engine.dispose()


def test_processes_that_upgrade_an_empty_file_at_once_all_succeed(sqlite_url):
    program = "import sys, db.engine as e, db.schema as s; s.upgrade(e.make_engine(sys.argv[1]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, sqlite_url], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [(process.communicate(timeout=60)[1], process.returncode) for process in processes] == [("", 0)] * 2


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(empty_engine, monkeypatch):
    def fail_at_the_end(connection):
        run(connection)
        raise RuntimeError

    run = db.schema._run_migrations
    monkeypatch.setattr(db.schema, "_run_migrations", fail_at_the_end)
    with pytest.raises(RuntimeError):
        upgrade(empty_engine)
    assert inspect(empty_engine).get_table_names() == []


def test_downgrading_leaves_nothing_and_upgrading_again_works(engine):
    add_run(engine, 3)
    run_alembic(engine, lambda config: command.downgrade(config, "base"))
    assert set(inspect(engine).get_table_names()) == VERSION_TABLES
    assert inspect(engine).get_view_names() == []
    assert read_revision(engine) is None
    upgrade(engine)
    add_run(engine, 3)


def test_a_newer_database_that_serves_this_release_is_used_and_left_alone(engine):
    set_version(engine, "9999", REVISION)
    ensure_schema(engine)
    assert check_schema(engine).revision == "9999"
    assert upgrade(engine) == ("9999", "9999")


def test_a_newer_database_that_no_longer_serves_this_release_is_refused_with_the_remedy(engine):
    set_version(engine, "9999", "9998")
    for check in (upgrade, ensure_schema, check_schema):
        with pytest.raises(SchemaOutdated, match=r"9999.*9998 and later.*upgrade Nightread") as refused:
            check(engine)
        assert "\n" not in str(refused.value)


def test_an_upgrade_says_which_releases_its_schema_serves(engine):
    assert read_version(engine) == SchemaVersion(REVISION, OLDEST_SERVED)
    with reading(engine) as connection:  # releases up to schema 0005 compare this number with their own
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["0005"]


def test_a_server_without_tables_is_refused_with_the_command_that_makes_them(empty_server):
    with pytest.raises(SchemaOutdated, match="holds no tables yet: run `nightread db upgrade`"):
        ensure_schema(empty_server)
    assert inspect(empty_server).get_table_names() == []


def test_an_older_server_is_refused_with_the_command_that_upgrades_it(empty_server):
    upgrade(empty_server)
    set_version(empty_server, "0000", "0000")
    with pytest.raises(SchemaOutdated, match=f"has schema 0000, this release needs {REVISION}: run `nightread db"):
        ensure_schema(empty_server)


@pytest.mark.parametrize(
    "table", ["runs (id INT)", "alembic_version AS SELECT 'deadbeef' AS version_num"], ids=["runs", "alembic"]
)
def test_a_database_of_another_program_is_refused_and_left_alone(empty_engine, table):
    write(empty_engine, lambda connection: connection.execute(text(f"CREATE TABLE {table}")))
    with pytest.raises(SchemaOutdated, match="holds tables of another program"):
        upgrade(empty_engine)
    assert inspect(empty_engine).get_table_names() == [table.split()[0]]


def test_a_file_is_made_and_upgraded_by_itself(sqlite_url):
    engine = make_engine(sqlite_url)
    ensure_schema(engine)
    assert read_revision(engine) == REVISION
    engine.dispose()


def test_every_column_that_needs_a_word_has_its_comment_in_the_database(postgres_engine):
    for table in metadata.sorted_tables:
        stored = {column["name"]: column["comment"] for column in inspect(postgres_engine).get_columns(table.name)}
        assert stored == {column.name: column.comment for column in table.columns}
        uncommented = {name for name, comment in stored.items() if not comment}
        assert uncommented <= {"id", "run_id", "model_digest", "scan_id"}


def test_no_two_indexes_of_a_table_hold_the_same_columns(engine):
    for table in TABLES:
        held = [tuple(sorted(columns)) for columns in list_indexes(engine, table) if None not in columns]
        assert sorted(held) == sorted(set(held)), table


def list_indexes(engine, table):
    """Return the columns of each index of a table without a condition, those of constraints included."""
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            names = connection.execute(
                text("SELECT name FROM pragma_index_list(:table) WHERE NOT partial"), {"table": table}
            )
            columns = text("SELECT name FROM pragma_index_info(:index)")
            return [connection.execute(columns, {"index": name}).scalars().all() for name in names.scalars().all()]
        found = connection.execute(
            text(
                "SELECT array_agg(attname ORDER BY place) FROM pg_index CROSS JOIN unnest(indkey) "
                "WITH ORDINALITY AS keys(number, place) LEFT JOIN pg_attribute ON attrelid = indrelid "
                "AND attnum = number WHERE indrelid = CAST(:table AS regclass) AND indpred IS NULL GROUP BY indexrelid"
            ),
            {"table": table},
        )
        return found.scalars().all()


def test_enums_are_stored_by_their_value(engine):
    add_run(engine, 1)
    with reading(engine) as connection:
        for table in ("runs", "jobs", "scans"):
            assert connection.execute(text(f"SELECT DISTINCT status FROM {table}")).scalars().all() == ["queued"]
        assert connection.execute(text("SELECT stage FROM models")).scalar() == "candidate"


@pytest.mark.parametrize("view", [results, latest_results, studies, nights, folders], ids=lambda view: view.name)
def test_the_view_has_the_columns_that_queries_name(engine, view):
    assert [column["name"] for column in inspect(engine).get_columns(view.name)] == [
        column.name for column in view.columns
    ]


@pytest.mark.parametrize("view", [results, latest_results, studies, nights, folders], ids=lambda view: view.name)
def test_a_view_and_its_columns_carry_comments(engine, view):
    if engine.dialect.name == "sqlite":
        stored = "SELECT sql FROM sqlite_master WHERE name = :view"
        with reading(engine) as connection:
            lines = connection.execute(text(stored), {"view": view.name}).scalar().splitlines()
        assert sum("  -- " in line for line in lines) == len(view.columns)
    else:
        assert inspect(engine).get_table_comment(view.name)["text"]
        assert all(column["comment"] for column in inspect(engine).get_columns(view.name))


def test_times_are_stored_in_utc_to_the_microsecond_and_compare_with_the_databases_clock(engine):
    add_run(engine, 1)
    before_and_after = [jobs.c.created_at <= database_now(), jobs.c.created_at > database_now(-60)]
    with reading(engine) as connection:
        assert connection.execute(select(*before_and_after)).one() == (True, True)
        assert connection.execute(select(jobs.c.created_at)).scalar().utcoffset() == timedelta(0)
        stored = connection.execute(text("SELECT CAST(created_at AS TEXT) FROM jobs")).scalar()
    if engine.dialect.name == "sqlite":
        assert len(stored) == len("2026-11-22 00:00:00.000000")


class TestFrom0001:
    """Upgrade of the first release's schema, with data, to that of the second."""

    @pytest.fixture
    def first(self, empty_engine):
        upgrade_to(empty_engine, "0001")
        return empty_engine

    @staticmethod
    def insert_model(engine, version, stage, created_at):
        write(engine, lambda connection: connection.execute(
            text(
                "INSERT INTO models (digest, name, version, preprocessing, card, stage, created_at) "
                "VALUES (:digest, 'cnn', :version, '1', '{\"labels\": [\"pneumonia\"]}', :stage, :created_at)"
            ),
            {"digest": version * 64, "version": version, "stage": stage, "created_at": created_at},
        ))  # fmt: skip

    @staticmethod
    def insert_scored_run(engine):
        """Insert rows with the statements of the first release."""
        for statement in (
            (
                "INSERT INTO runs "
                "(id, name, model_digest, sources, settings, embedded, skipped, found, status, created_at) "
                f"VALUES ('{'a' * 32}', 'night', '{'1' * 64}', '[]', '{{}}', false, '{{}}', 1, 'queued', '2026-01-01')"
            ),
            (
                "INSERT INTO jobs (id, run_id, status, attempts, crashes, lease_token, created_at) "
                f"VALUES ('{'b' * 32}', '{'a' * 32}', 'queued', 0, 0, 0, '2026-01-01')"
            ),
            (
                "INSERT INTO scans (run_id, job_id, path, size_bytes, status, attempts, reused, created_at) "
                f"VALUES ('{'a' * 32}', '{'b' * 32}', '/scans/1.png', 1, 'queued', 0, false, '2026-01-01')"
            ),
        ):
            write(engine, lambda connection, statement=statement: connection.exec_driver_sql(statement))

    def test_its_rows_stay_and_its_code_goes_on(self, first):
        self.insert_model(first, "1", "candidate", "2026-01-01 00:00:00.000000")
        self.insert_scored_run(first)

        assert upgrade(first) == ("0001", REVISION)

        # What the first release does with the tables, on the new ones.
        self.insert_model(first, "2", "candidate", "2026-01-02 00:00:00.000000")
        job_id = "b" * 32
        assert claim(first, job_id) is not None
        (scan,) = open_scans(first, job_id)
        assert scan.path == "/scans/1.png"
        with reading(first) as connection:
            assert connection.execute(text("SELECT count(*) FROM results")).scalar() == 1
            assert connection.execute(text("SELECT count(*) FROM stage_changes")).scalar() == 0

    def test_of_models_that_somebody_put_in_production_by_hand_the_newest_stays(self, first):
        for version, day in (("1", "01"), ("3", "03"), ("2", "02")):
            self.insert_model(first, version, "production", f"2026-01-{day} 00:00:00.000000")

        upgrade(first)

        with reading(first) as connection:
            assert find_production(connection).version == "3"
            (change,) = list_stage_changes(connection)
        assert (change.model, change.cause.value, change.changed_by) == ("cnn@3", "promoted", "before schema 0002")
        assert change.changed_at == datetime(2026, 1, 3, tzinfo=UTC)

    def test_downgrading_leaves_the_schema_of_the_first_release(self, first):
        upgrade(first)
        self.insert_model(first, "1", "production", "2026-01-01 00:00:00.000000")
        run_alembic(first, lambda config: command.downgrade(config, "0001"))
        assert read_revision(first) == "0001"
        assert "stage_changes" not in inspect(first).get_table_names()
        self.insert_model(first, "2", "production", "2026-01-02 00:00:00.000000")


class TestFrom0004:
    """Upgrade of the previous release's schema, in which owners of embedded runs are part of the settings."""

    OWNER = Owner("ward-pc", 7, "123")
    SETTINGS = '{"gate": true, "host": "ward-pc", "pid": 7, "process_started": "123"}'

    @pytest.fixture
    def before(self, empty_engine):
        upgrade_to(empty_engine, "0004")
        TestFrom0001.insert_model(empty_engine, "1", "candidate", "2026-01-01 00:00:00.000000")
        return empty_engine

    def insert_run(self, engine, run_id):
        """Insert an embedded run like the previous release."""
        write(engine, lambda connection: connection.execute(
            text(
                "INSERT INTO runs "
                "(id, name, model_digest, sources, settings, embedded, skipped, found, status, created_at) "
                f"VALUES (:id, 'night', '{'1' * 64}', '[]', :settings, true, '{{}}', 1, 'queued', '2026-01-01')"
            ),
            {"id": run_id * 32, "settings": self.SETTINGS},
        ))  # fmt: skip

    def test_the_owner_of_its_runs_is_found_and_no_row_is_rewritten(self, before):
        self.insert_run(before, "a")
        assert upgrade(before) == ("0004", REVISION)
        self.insert_run(before, "b")  # by a process of the release before that is still at work
        with reading(before) as connection:
            assert [find_run(connection, run_id * 32).owner for run_id in "ab"] == [self.OWNER] * 2
            columns = "host, pid, process_started, CAST(settings AS TEXT)"
            rows = connection.execute(text(f"SELECT DISTINCT {columns} FROM runs")).all()
        assert rows == [(None, None, None, self.SETTINGS)]

    def test_downgrading_and_upgrading_again_keeps_its_runs(self, before):
        self.insert_run(before, "a")
        upgrade(before)
        run_alembic(before, lambda config: command.downgrade(config, "0004"))
        self.insert_run(before, "b")
        upgrade(before)
        with reading(before) as connection:
            assert find_run(connection, "b" * 32).owner == self.OWNER


class TestFrom0007:
    """Upgrade of the schema before acquisitions, with a run that its workers still score."""

    @pytest.fixture
    def before(self, empty_engine):
        upgrade_to(empty_engine, "0007")
        TestFrom0001.insert_model(empty_engine, "1", "candidate", "2026-01-01 00:00:00.000000")
        TestFrom0001.insert_scored_run(empty_engine)
        return empty_engine

    def test_a_worker_of_the_release_before_ends_its_scans(self, before):
        upgrade(before)
        ended = (
            f"UPDATE scans SET status = 'scored', sha256 = '{'c' * 64}', reason_code = NULL, reused = false, "
            "study_uid = '1.2', attempts = 1, finished_at = '2026-01-01' WHERE status = 'queued'"
        )
        write(before, lambda connection: connection.exec_driver_sql(ended))
        with reading(before) as connection:
            row = connection.execute(select(results)).mappings().one()
        assert (row["study"], row["station"], row["acquired_at"], row["brightness_rule"]) == ("1.2", None, None, None)

    def test_downgrading_restores_the_view_and_its_rows(self, before):
        upgrade(before)
        run_alembic(before, lambda config: command.downgrade(config, "0007"))
        columns = [column["name"] for column in inspect(before).get_columns("results")]
        assert columns[-1] == "time"
        with reading(before) as connection:
            assert connection.execute(text("SELECT count(*) FROM results")).scalar() == 1


class TestFrom0016:
    """Upgrade of the schema in which SQLite had two indexes for the paths of a run."""

    @pytest.fixture
    def before(self, empty_engine):
        run_alembic(empty_engine, lambda config: command.upgrade(config, "0016"))
        served = "ALTER TABLE schema_version ADD COLUMN oldest_served VARCHAR(32)"
        write(empty_engine, lambda connection: connection.exec_driver_sql(served))
        add_run(empty_engine, 100)
        return empty_engine

    def test_paths_of_a_run_stay_unique_and_a_file_stays_whole(self, before):
        for _ in range(2):
            assert upgrade(before) == ("0016", REVISION)
            with pytest.raises(IntegrityError):
                write(before, self.repeat_a_path)
            add_run(before, 100)  # the paths of another run
            if before.dialect.name == "sqlite":
                with reading(before) as connection:
                    for check in ("integrity_check", "foreign_key_check"):
                        assert connection.exec_driver_sql(f"PRAGMA {check}").scalars().all() in (["ok"], [])
            run_alembic(before, lambda config: command.downgrade(config, "0016"))

    def test_a_library_that_protects_the_schema_keeps_the_second_index(self, before):
        if before.dialect.name != "sqlite":
            pytest.skip("PostgreSQL has one index")

        def protect(action, name, *_):  # as SQLITE_DBCONFIG_DEFENSIVE does
            return sqlite3.SQLITE_IGNORE if (action, name) == (sqlite3.SQLITE_PRAGMA, "writable_schema") else 0

        event.listen(before, "connect", lambda connection, _: connection.set_authorizer(protect))
        before.dispose()
        assert upgrade(before) == ("0016", REVISION)
        assert ["run_id", "path"] in list_indexes(before, "scans")
        with pytest.raises(IntegrityError):
            write(before, self.repeat_a_path)

    @staticmethod
    def repeat_a_path(connection):
        names = "run_id, job_id, path, size_bytes, status, attempts, reused, created_at"
        connection.exec_driver_sql(f"INSERT INTO scans ({names}) SELECT {names} FROM scans LIMIT 1")
