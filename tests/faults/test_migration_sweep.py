"""A crash at every failpoint of a migration leaves the schema and the rows of before or after, never between."""

import itertools
import shutil
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from db.engine import make_engine, reading, write
from tests.factories import ROOT
from tests.program import make_environment

_MIGRATIONS = ROOT / "db/migrations"
_IN_A_FILE = ["SELECT type, name, sql FROM sqlite_master"]
_ON_A_SERVER = [
    (
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_schema = 'public'"
    ),
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
    (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace"
    ),
]


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request):
    """URL of a database without tables; SQLite and PostgreSQL in turn."""
    engine = make_engine(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))
    yield engine
    engine.dispose()


def sign(engine):
    """Return all tables, indexes and constraints from the database's catalog, and all rows."""
    is_file = engine.dialect.name == "sqlite"
    statements = _IN_A_FILE if is_file else _ON_A_SERVER
    with reading(engine) as connection:
        catalog = [sorted(map(repr, connection.exec_driver_sql(statement))) for statement in statements]
        tables = sorted(inspect(connection).get_table_names())
        rows = {table: sorted(map(repr, connection.exec_driver_sql(f"SELECT * FROM {table}"))) for table in tables}
    return catalog, rows


def empty(engine):
    engine.dispose()  # a statement that PostgreSQL has prepared fails once its table has another column
    if engine.dialect.name == "postgresql":
        for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public"):
            write(engine, lambda connection, statement=statement: connection.exec_driver_sql(statement))
        return
    for file in Path(engine.url.database).parent.glob(f"{Path(engine.url.database).name}*"):
        file.unlink()


def make_first_release(engine):
    """Create the tables of the first release, and a row that a later migration reads."""

    def migrate(connection):
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("ALTER TABLE schema_version RENAME TO alembic_version"))  # where it kept its revision
        connection.execute(
            text(
                "INSERT INTO models (digest, name, version, preprocessing, card, stage, created_at) "
                "VALUES (:digest, 'cnn', '1', '1', '{}', 'production', '2026-01-01 00:00:00.000000')"
            ),
            {"digest": "1" * 64},
        )

    write(engine, migrate)


@pytest.mark.parametrize("begins_with", ["nothing", "the first release"])
def test_a_migration_that_is_killed_at_any_point_is_done_or_not(engine, forkers, tmp_path, begins_with, is_long):
    """Laptops begin with nothing and servers are upgraded; the other way round with `--long`."""
    if not is_long and (begins_with == "nothing") != (engine.dialect.name == "sqlite"):
        pytest.skip("takes minutes: --long")

    def start():
        empty(engine)
        if begins_with != "nothing":
            make_first_release(engine)

    def upgrade(**failpoint):
        settings = {"database_url": engine.url.set(drivername=engine.dialect.name).render_as_string(False), **failpoint}
        return forkers[0].run("db", "upgrade", env=make_environment(tmp_path, **settings))

    start()
    before = sign(engine)
    assert upgrade() == 0
    after = sign(engine)
    assert after != before
    struck, states = tmp_path / "struck", []
    for number in itertools.count(1):
        start()
        shutil.rmtree(struck, ignore_errors=True)
        struck.mkdir()
        upgrade(failpoint=f"any:kill:{number}", failpoint_dir=struck)
        found = sign(engine)
        assert found in (before, after)
        if not list(struck.iterdir()):
            break
        states.append("before" if found == before else "after")
        assert upgrade() == 0
        assert sign(engine) == after
    revisions = len(list((_MIGRATIONS / "versions").glob("[0-9]*.py"))) - (begins_with != "nothing")
    assert states == ["before"] * (revisions + 1) + ["after"]
