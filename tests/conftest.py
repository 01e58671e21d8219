"""Services and databases for every test that wants real ones; a service that cannot start fails the tests."""

import os
import uuid
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from db.engine import make_engine
from db.schema import upgrade
from tests.services import run_postgres, run_redis


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch, tmp_path):
    """Tests state every setting that they are about; neither the environment nor a `.env` file adds one."""
    for name in list(os.environ):
        if name.startswith("NIGHTREAD_") and name != "NIGHTREAD_TEST_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-home"))
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
def _postgres_url():
    with run_postgres() as url:
        yield url


@pytest.fixture
def postgres_url(_postgres_url):
    """A PostgreSQL database of the test's own, without tables."""
    name = f"test_{uuid.uuid4().hex}"
    server = sqlalchemy.create_engine(
        make_url(_postgres_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with server.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    yield make_url(_postgres_url).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'nightread.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request):
    """Each kind of database in turn, without tables."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


@pytest.fixture
def engine(database_url):
    """Each kind of database in turn, with tables."""
    engine = make_engine(database_url)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans, where there is one."""
    folder = os.environ.get("NIGHTREAD_TEST_DATA")
    if not folder:
        pytest.skip("NIGHTREAD_TEST_DATA is not set: no real scans here")
    return Path(folder)
