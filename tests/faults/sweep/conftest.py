"""Fixtures of the failpoint sweep: environments, databases and folders."""

import contextlib
import shutil

import pytest

from db.engine import make_engine
from db.schema import upgrade
from tests.factories import small_chest, write_jpeg, write_png16
from tests.faults.places import CANARY, Place
from tests.onnx_factories import write_tiny_bundle
from tests.program import make_environment


def pytest_generate_tests(metafunc):
    """Sweep on PostgreSQL, with `--long` on SQLite too; a test may name its databases itself."""
    named = [marker.args[0] for marker in metafunc.definition.iter_markers("parametrize")]
    if "places" in metafunc.fixturenames and not any("places" in names for names in named):
        databases = ["sqlite", "postgresql"] if metafunc.config.getoption("--long", default=False) else ["postgresql"]
        metafunc.parametrize("places", databases, indirect=True)


@pytest.fixture(scope="session")
def ward_of_four(tmp_path_factory):
    """A folder with two scans, a copy of one, and a damaged scan."""
    folder = tmp_path_factory.mktemp("scans") / CANARY
    write_jpeg(folder / "a.jpg", small_chest(1))
    shutil.copy(folder / "a.jpg", folder / "b.jpg")
    (folder / "c.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900])
    write_png16(folder / "d.png", small_chest(2))
    return folder


@pytest.fixture(scope="module")
def places(request, forkers, redis_server, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        made = []
        for number, forker in enumerate(forkers):
            folder = tmp_path_factory.mktemp("place")
            for version, bias in (("1", -2.0), ("2", -1.0)):
                write_tiny_bundle(folder / "models", version, bias=bias)
            if request.param == "sqlite":
                url = f"sqlite:///{folder / 'nightread.db'}"
            else:
                url = stack.enter_context(_make_database(request.getfixturevalue("_postgres_server"), number))
            engine = make_engine(url)
            upgrade(engine)
            env = make_environment(
                folder, models_dir=folder / "models", model="tiny@1", job_size=2, batch_size=2, threads=1, device="cpu"
            )
            redis_url = f"{redis_server.url.rpartition('/')[0]}/{number + 1}"
            made.append(stack.enter_context(contextlib.closing(Place(engine, redis_url, forker, env, folder))))
        yield made


@contextlib.contextmanager
def _make_database(server, number):
    name = f"sweep_{number}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield server.url.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def place(places):
    """An empty environment."""
    place = places[0]
    place.restore(place.empty)
    return place


@pytest.fixture
def struck(request, places):
    """Record the struck points for the summary at the end of the session."""

    def count():
        return [sum(getattr(place, name) for place in places) for name in ("crashes", "recoveries")]

    points, before = [], count()
    yield points
    crashes, recoveries = (now - then for now, then in zip(count(), before, strict=True))
    request.node.user_properties.append(("swept", {
        "database": places[0].engine.dialect.name, "points": points, "crashes": crashes, "recoveries": recoveries,
    }))  # fmt: skip
