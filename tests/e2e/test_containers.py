"""docker-compose.yml and Dockerfile for real: a night in containers, through everything that an operator does.

It builds two images and takes minutes: `pytest tests/e2e/test_containers.py --long`. It needs a Docker engine, Compose
v2 and the base images that the two files name.
"""

import json
import subprocess
import uuid

import numpy as np
import pytest

from tests.containers import Stack, build_image, require_engine
from tests.factories import ROOT, UNGATED_MODEL, small_chest, write_jpeg
from tests.onnx_factories import write_tiny_bundle
from tests.program import wait_until

#: The last commit whose schema is `db.schema.OLDEST_SERVED`, as in test_previous_release.py.
PREVIOUS = "ada3807"
_SCANS = 300

pytestmark = pytest.mark.timeout(3600)


def draw_night(folder, seed=0):
    """Draw one chest, and shift it by a column for each scan: all contents differ."""
    chest = small_chest(seed, width_px=_SCANS)
    for number in range(_SCANS):
        write_jpeg(folder / f"{number:03}.jpeg", np.roll(chest, number, axis=1))
    folder.chmod(0o755)


@pytest.fixture(scope="module")
def previous(tmp_path_factory):
    """The tree of the previous release."""
    folder = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(["git", "archive", PREVIOUS], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"the history of this checkout does not reach back to {PREVIOUS}")
    subprocess.run(["tar", "--extract"], cwd=folder, input=archive.stdout, check=True)
    return folder


@pytest.fixture
def stack(tmp_path, is_long):
    if not is_long:
        pytest.skip("takes minutes: --long")
    require_engine()
    night = tmp_path / "scans" / "2026-11-22"
    draw_night(night)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent, night.parent, night):
        folder.chmod(0o755)  # pytest's folders are closed to the containers' user
    (tmp_path / "stack").mkdir()
    stack = Stack(tmp_path / "stack", f"nightread-{uuid.uuid4().hex[:8]}")
    stack.set(SCANS_DIR=night.parent, NIGHTREAD_MODEL=UNGATED_MODEL)
    yield stack
    stack.down()


def count(stack, run):
    return json.loads(stack.cli("status", run, "--json").splitlines()[-1])


def is_finished(stack, run):
    found = count(stack, run)
    return found["scored"] + found["rejected"] + found["failed"] == _SCANS


def test_a_night_survives_upgrade_scaling_kill_and_restore(stack, previous, tmp_path):
    build_image("test-previous", previous)
    build_image("test", ROOT)

    # The release before kept passwords in .env.
    passwords = {
        f"{name}PASSWORD": uuid.uuid4().hex for name in ("POSTGRES_", "REDIS_", "REDIS_WORKER_", "REDIS_PUBLISHER_")
    }
    stack.install(previous)
    stack.set(IMAGE_TAG="test-previous", **passwords)
    stack.compose("up", "--detach", "--no-build")
    first = stack.cli("enqueue", "/scans/2026-11-22", "--name", "first").split()[-1]
    wait_until(lambda: count(stack, first)["scored"] > 0, "the release before scores")

    stack.install(ROOT)
    stack.make_secrets()
    assert (stack.folder / "secrets" / "postgres_password").read_text() == passwords["POSTGRES_PASSWORD"]
    stack.unset(*passwords)
    stack.set(IMAGE_TAG="test", WORKERS=2, COMPOSE_PROFILES="metrics")
    stack.set(NIGHTREAD_LEASE_S=10, NIGHTREAD_SWEEP_S=1, NIGHTREAD_JOB_SIZE=8)
    stack.compose("up", "--detach", "--no-build")
    wait_until(lambda: is_finished(stack, first), "the run of the release before is finished", 300)
    assert count(stack, first)["scored"] == _SCANS
    assert len(stack.compose("ps", "--quiet", "worker").split()) == 2

    draw_night(tmp_path / "scans" / "2026-11-23", seed=1)
    second = stack.cli("enqueue", "/scans/2026-11-23", "--name", "second").split()[-1]
    wait_until(lambda: count(stack, second)["scored"] > 0, "workers score", 300)
    stack.compose("kill", "--signal", "KILL", "worker")
    stack.set(WORKERS=4)
    stack.compose("up", "--detach", "--no-build")
    wait_until(lambda: is_finished(stack, second), "other workers take the jobs of the killed ones", 300)
    assert count(stack, second)["scored"] == _SCANS
    assert len(stack.compose("ps", "--quiet", "worker").split()) == 4
    stack.compose("exec", "-T", "--index", "4", "worker", "nightread", "worker", "--health")

    ask = "import urllib.request as u; print(u.urlopen('http://metrics:9464/metrics').read().decode())"
    assert "nightread_database_up 1.0" in stack.compose("exec", "-T", "beat", "python", "-c", ask)
    stack.cli("doctor")

    rows = stack.cli("results", second, "--format", "csv")
    dump = tmp_path / "night.dump"
    stack.back_up(dump)
    stack.down()
    assert stack.compose("ps", "--all", "--quiet") == ""
    stack.compose("up", "--detach", "--no-build", "--wait", "postgres")
    stack.restore(dump)
    stack.compose("up", "--detach", "--no-build")
    assert stack.cli("results", second, "--format", "csv") == rows
    stack.cli("db", "check")


def test_containers_see_the_secrets_that_they_need_and_only_cli_writes_models(stack, tmp_path):
    build_image("test", ROOT)
    stack.install(ROOT)
    stack.make_secrets()
    stack.set(IMAGE_TAG="test")
    stack.compose("up", "--detach", "--no-build")
    shown = {name: stack.compose("exec", "-T", name, "env") for name in ("worker", "beat", "postgres", "redis")}
    for secret in (stack.folder / "secrets").iterdir():
        text = secret.read_text()
        assert not text or not any(text in environment for environment in shown.values()), secret.name
    assert set(stack.compose("exec", "-T", "postgres", "ls", "/run/secrets").split()) == {"postgres_password"}

    bundle = tmp_path / "scans" / "tiny" / "1"
    write_tiny_bundle(bundle.parent.parent)
    for path in (bundle.parent, bundle, *bundle.iterdir()):
        path.chmod(0o755)
    stack.compose("run", "--rm", "-T", "--volume", f"{bundle}:/import:ro", "cli", "models", "import", "/import")
    card = "/models/tiny/1/card.json"
    stack.compose("exec", "-T", "worker", "test", "-f", card)
    stack.compose("exec", "-T", "worker", "rm", card, expect=1)
