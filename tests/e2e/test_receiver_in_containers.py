"""docker-compose.pacs.yml and the receiver's pod for real: a modality sends to a published port, and workers score.

It builds two images and takes minutes: `pytest tests/e2e/test_receiver_in_containers.py --long`. It needs what
test_containers.py needs, and DCMTK.
"""

import json
import os
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.containers import Stack, build_image, require_engine
from tests.dicom_peers import TITLE, find_dcmtk, storescu, write_study
from tests.factories import ROOT, UNGATED_MODEL, small_chest, write_dicom
from tests.kubernetes import find_pod, read_documents, read_settings
from tests.program import wait_until

#: As docker-compose.pacs.yml publishes it, on this host alone.
_PORT = 11112
_INSTANCES = 300
_OWNER = 10001

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def stack(tmp_path, is_long):
    if not is_long:
        pytest.skip("takes minutes: --long")
    require_engine()
    find_dcmtk("storescu")
    received = tmp_path / "scans" / "received"
    received.mkdir(parents=True)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent, received.parent):
        folder.chmod(0o755)  # pytest's folders are closed to the containers' user
    received.chmod(0o700)
    os.chown(received, _OWNER, _OWNER)
    (tmp_path / "stack").mkdir()
    stack = Stack(tmp_path / "stack", f"nightread-{uuid.uuid4().hex[:8]}")
    stack.set(SCANS_DIR=received.parent, NIGHTREAD_MODEL=UNGATED_MODEL, RECEIVE_ALLOW=TITLE, IMAGE_TAG="test")
    yield stack
    stack.down()


def write_large_study(folder):
    """Write one study of a chest that is shifted by a column for each instance: all contents differ."""
    chest, uids = small_chest(1, width_px=_INSTANCES), [f"1.2.276.9.1.{number + 1}" for number in range(_INSTANCES)]
    for number, uid in enumerate(uids):
        write_dicom(
            folder / f"{number:03}.dcm", np.roll(chest, number, axis=1), StudyInstanceUID="1.2.276.9",
            SeriesInstanceUID="1.2.276.9.1", SOPInstanceUID=uid, StudyDate="20261129",
        )  # fmt: skip
    return uids


def echo():
    command = [find_dcmtk("echoscu"), "-aet", TITLE, "-aec", "NIGHTREAD", "127.0.0.1", str(_PORT)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_study_sent_to_the_container_is_scored_and_a_killed_receiver_loses_nothing(stack, tmp_path):
    build_image("test", ROOT)
    build_image("test", ROOT, "worker-dicom")
    stack.install(ROOT, "docker-compose.pacs.yml")
    stack.make_secrets()
    stack.compose("up", "--detach", "--no-build")
    wait_until(echo, "the receiver answers C-ECHO", 120)

    def read_scored():
        said = stack.cli(
            "results", "--all-runs", "--status", "scored", "--columns", "instance,path", "--format", "json"
        )
        return {row["path"]: row["instance"] for row in json.loads(said)}

    write_study(tmp_path / "small", 0)
    storescu(_PORT, "+sd", tmp_path / "small")
    small = ["1.2.276.1.1.1", "1.2.276.1.1.2"]
    wait_until(lambda: sorted(read_scored().values()) == small, "a worker scores the study", 300)
    assert all(path.startswith("/scans/received/") for path in read_scored())

    large = write_large_study(tmp_path / "large")
    spool = tmp_path / "scans" / "received"
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(storescu, _PORT, "+sd", tmp_path / "large", expect=None)
        wait_until(lambda: len(list(spool.rglob("*.dcm"))) > len(small) + 10, "instances arrive")
        stack.compose("kill", "--signal", "KILL", "receive")
        assert sending.result().returncode != 0
    kept = len(list(spool.rglob("*.dcm")))
    assert len(small) + 10 < kept < len(small) + _INSTANCES
    stack.compose("up", "--detach", "--no-build", "receive")
    wait_until(echo, "the receiver is back", 120)
    storescu(_PORT, "+sd", tmp_path / "large")
    wait_until(lambda: len(read_scored()) >= len(small + large), "workers score what was sent again", 600)
    assert sorted(read_scored().values()) == sorted(small + large)  # each once
    status = json.loads(stack.compose("ps", "--format", "json", "receive").splitlines()[-1])
    assert status["State"] == "running"
    wait_until(lambda: '"Health":"healthy"' in stack.compose("ps", "--format", "json", "receive"), "it is healthy", 200)


def test_the_pod_of_the_receiver_runs_under_its_own_restrictions(stack, tmp_path):
    """Its image, command, settings, mounts, limits and probes; an engine alone stands in for the cluster."""
    build_image("test", ROOT)
    build_image("test", ROOT, "worker-dicom")
    stack.install(ROOT)
    stack.make_secrets()
    stack.compose("up", "--detach", "--no-build", "beat")
    documents = read_documents()
    pod = find_pod(documents["pacs/receive.yaml:Deployment"])
    (container,) = pod["containers"]
    settings = read_settings("base") | read_settings("pacs")
    spool, models = tmp_path / "spool", tmp_path / "models"
    for folder in (spool, models):
        folder.mkdir()
        folder.chmod(0o2770)
        os.chown(folder, 0, pod["securityContext"]["fsGroup"])
    secrets = {
        f"/run/secrets/nightread/{name}": stack.folder / "secrets" / name for name in ("database_url", "broker_url")
    }
    name = stack.run_pod(pod, settings, secrets | {"/spool": spool, "/models": models}, _PORT)
    try:

        def passes(probe):
            command = container[probe]["exec"]["command"]
            return subprocess.run(["docker", "exec", name, *command], capture_output=True, check=False).returncode == 0

        wait_until(lambda: passes("startupProbe"), "the startup probe", 120)
        published = subprocess.run(["docker", "port", name, f"{_PORT}/tcp"], capture_output=True, text=True, check=True)
        write_study(tmp_path / "small", 0)
        storescu(int(published.stdout.rpartition(":")[2]), "+sd", tmp_path / "small", title="PACS")
        runs = lambda: json.loads(stack.cli("runs", "--json"))  # noqa: E731
        wait_until(runs, "the study is enqueued", 200)
        assert [run["found"] for run in runs()] == [2]
        assert len(list((spool / "received").rglob("*.dcm"))) == 2
        assert passes("livenessProbe")
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=True)
