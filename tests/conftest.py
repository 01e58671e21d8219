"""Fixtures for real services and databases; a service that cannot start fails the tests."""

import contextlib
import os
import shutil
import uuid
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from db.engine import make_engine
from db.partition_change import partition
from db.schema import upgrade
from db.tables import metadata
from nightread.machine import count_cores
from tests.factories import ROOT, UNGATED_MODEL, small_chest, write_jpeg
from tests.services import run_postgres, run_redis

#: Each process of the tests has services of its own, and a test of the real program several processes more.
_MOST_PROCESSES = 8
#: Tests that compute; the others wait for processes and for time to pass, so that more of them than cores pay.
_COMPUTING = ("tests/unit", "tests/train")


def pytest_xdist_auto_num_workers(config):
    """Return how many processes run the tests: none beside this one for a few files, else as many as pay."""
    paths = [Path(argument.partition("::")[0]).absolute() for argument in config.args]
    if all(path.is_file() for path in paths):
        return 0
    folders = [ROOT / folder for folder in _COMPUTING]
    is_computing = all(any(path.is_relative_to(folder) for folder in folders) for path in paths)
    return min(count_cores() * (1 if is_computing else 3), _MOST_PROCESSES)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also what takes minutes, and every crash on each database")
    parser.addoption("--partitioned", action="store_true", help="PostgreSQL with tables in partitions")


@pytest.fixture(scope="session")
def is_long(request):
    """Whether there is a night's time."""
    return request.config.getoption("--long")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch, tmp_path):
    """Isolate tests from settings in the environment and in `.env` files.

    The default model has no input gate, since a gate would reject the pictures that tests draw.
    """
    for name in list(os.environ):
        if name.startswith("NIGHTREAD_") and name != "NIGHTREAD_TEST_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("NIGHTREAD_MODEL", UNGATED_MODEL)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config-home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server):
    """An empty Redis."""
    redis_server.connect().flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def _postgres_server():
    """Engine for an empty PostgreSQL server."""
    with run_postgres() as url:
        server = sqlalchemy.create_engine(
            make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
        )
        with server.connect() as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # no test simulates a power failure
                connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield server
        server.dispose()


@contextlib.contextmanager
def _make_postgres_database(server):
    name = f"test_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = server.url.set(database=name, drivername="postgresql")
    yield url.render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(_postgres_server):
    """URL of a new PostgreSQL database without tables."""
    with _make_postgres_database(_postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def _postgres_with_tables(_postgres_server, request):
    with _make_postgres_database(_postgres_server) as url:
        engine = make_engine(url)
        upgrade(engine)
        if request.config.getoption("--partitioned"):
            partition(engine)
        engine.dispose()
        yield url


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory):
    """Path of an SQLite file with empty tables."""
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = make_engine(f"sqlite:///{file}")
    upgrade(engine)
    engine.dispose()  # closing the last connection checkpoints everything into the one file
    return file


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'nightread.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request):
    """URL of a database without tables; SQLite and PostgreSQL in turn."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


@pytest.fixture
def postgres_engine(_postgres_with_tables):
    """PostgreSQL with empty tables; a test that changes the schema takes `postgres_url`."""
    engine = make_engine(_postgres_with_tables)
    yield engine
    with engine.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE {', '.join(metadata.tables)}")
    engine.dispose()


@pytest.fixture
def sqlite_engine(sqlite_url, _sqlite_template):
    """SQLite with empty tables."""
    engine = make_engine(sqlite_url)
    shutil.copyfile(_sqlite_template, engine.url.database)
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request):
    """A database with empty tables; SQLite and PostgreSQL in turn."""
    return request.getfixturevalue("sqlite_engine" if request.param == "sqlite" else "postgres_engine")


@pytest.fixture
def page_lines(request):
    """The lines of the pages that the test runs; see `tests.page_lines`."""
    from tests.page_lines import list_lines_of  # imports every command

    return list_lines_of(request.node.nodeid)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real scans; skips the test if there is none."""
    folder = os.environ.get("NIGHTREAD_TEST_DATA")
    if not folder:
        pytest.skip("NIGHTREAD_TEST_DATA is not set: no real scans here")
    return Path(folder)


@pytest.fixture(scope="session")
def ward(tmp_path_factory) -> Path:
    """A folder of distinct scans: real ones in full resolution if available, else 60 drawn ones."""
    data = os.environ.get("NIGHTREAD_TEST_DATA")
    if data:
        return Path(data) / "nightly" / "ward-1"
    folder = tmp_path_factory.mktemp("ward")
    for seed in range(60):
        write_jpeg(folder / f"{seed:02}.jpeg", small_chest(seed, 480, 576))
    return folder
