"""Each of our services in docker-compose.yml, by its very command and settings, as a process.

What differs from the container are the places: hosts and ports of this test's Redis and PostgreSQL, and its folders.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.compose import load_compose
from tests.compose_redis import run_compose_redis
from tests.factories import UNGATED_MODEL
from tests.program import PROGRAM, last_json, run, started

# Drawn scans, which stand in where there are no real ones, are no chest X-rays to the gate of the model that ships.
GIVEN = {"SCANS_DIR": "/scans"}
SERVICES = load_compose(GIVEN)["services"]


@pytest.fixture
def scans(tmp_path, ward):
    folder = tmp_path / "scans" / "2026-11-22"
    shutil.copytree(ward, folder)
    return folder


def make_service_environment(service, tmp_path, postgres_url, redis_url):
    """Return the service's environment with the paths of this test."""
    for name, url in (("database_url", postgres_url), (f"{service}_broker_url", redis_url)):
        (tmp_path / name).write_text(url)
    places = {
        "NIGHTREAD_DATABASE_URL_FILE": str(tmp_path / "database_url"),
        "NIGHTREAD_BROKER_URL_FILE": str(tmp_path / f"{service}_broker_url"),
        "NIGHTREAD_MODEL": UNGATED_MODEL,
        "NIGHTREAD_SCAN_ROOTS": str(tmp_path / "scans"),
        "NIGHTREAD_MODELS_DIR": str(tmp_path / "models"),
    }
    outside = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTREAD_")}
    own = SERVICES[service]["environment"]
    assert places.keys() <= own.keys()
    return outside | {"HOME": str(tmp_path)} | {name: str(value or "") for name, value in own.items()} | places


def resolve(command):
    assert command[0] == "nightread"
    return [PROGRAM, *command[1:]]


@pytest.fixture
def compose_redis(tmp_path):
    folder = tmp_path / "redis"
    folder.mkdir()
    with run_compose_redis(folder) as server:
        yield server


def test_the_services_score_a_night_together(tmp_path, scans, postgres_url, compose_redis):
    envs = {}
    for name in ("migrate", "worker", "beat", "cli"):
        user = "worker" if "worker_broker_url" in SERVICES[name]["secrets"] else "publisher"
        envs[name] = make_service_environment(name, tmp_path, postgres_url, compose_redis.url(user))
    migrated = subprocess.run(resolve(SERVICES["migrate"]["command"]), env=envs["migrate"], cwd=tmp_path, check=False)
    assert migrated.returncode == 0

    with contextlib.ExitStack() as stack:
        for name in ("worker", "worker", "beat"):  # docker compose up --scale worker=2
            command = resolve(SERVICES[name]["command"])
            stack.enter_context(started(command, envs[name], tmp_path, tmp_path / f"{name}.log"))
        waited = run("enqueue", scans, "--wait", "--json", env=envs["cli"], cwd=tmp_path)
        check = SERVICES["worker"]["healthcheck"]["test"]
        assert check[0] == "CMD"
        healthy = subprocess.run(resolve(check[1:]), env=envs["worker"], cwd=tmp_path, check=False, capture_output=True)

    assert last_json(waited)["scored"] == 60
    assert healthy.returncode == 0
    logged = [line for name in ("worker", "beat") for line in Path(tmp_path / f"{name}.log").read_text().splitlines()]
    assert any('"logger": "worker.jobs.job"' in line for line in logged)


def test_a_path_outside_the_mounted_scans_is_refused(tmp_path, scans, postgres_url, redis_url):
    env = make_service_environment("cli", tmp_path, postgres_url, redis_url)
    run("db", "upgrade", env=env, cwd=tmp_path)
    done = run("enqueue", "/etc", env=env, cwd=tmp_path, expect=2)
    assert "NIGHTREAD_SCAN_ROOTS" in done.stderr
