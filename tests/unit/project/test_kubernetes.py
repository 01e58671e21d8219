"""The manifests of deploy/kubernetes against the schemas of Kubernetes, and against what the program knows."""

import subprocess

import kubernetes_validate
import pytest
import yaml

from nightread.settings import SECRETS, Settings, read_settings
from tests.factories import ROOT
from tests.kubernetes import FOLDER, find_containers, find_pod, read_documents, render
from tests.project import COMMANDS

DOCUMENTS = read_documents()
CONTAINERS = {name: (pod, container) for name, pod, container in find_containers()}
PODS = {name: pod for name, document in DOCUMENTS.items() if (pod := find_pod(document))}
#: The oldest release of Kubernetes with support, and the newest that the schemas know.
RELEASES = ("1.34", "1.37")


def check(document, release):
    if document["apiVersion"].startswith("keda.sh/"):  # no schema of Kubernetes: test_keda_knows_each_field
        return
    kubernetes_validate.validate(document, release, strict=True)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_document_fits_the_schema(name, release):
    check(DOCUMENTS[name], release)


def test_a_misspelt_field_does_not_fit():
    broken = {**DOCUMENTS["base/worker.yaml:Deployment"], "spce": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(broken, RELEASES[0])


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "trial"])
def test_each_overlay_is_rendered(overlay, tmp_path):
    documents = render(overlay, tmp_path)
    for document in documents:
        check(document, RELEASES[0])
        assert document["metadata"].get("namespace", document["metadata"]["name"]) == "nightread"
    made = {(document["kind"], document["metadata"]["name"].rpartition("-")[0]) for document in documents}
    assert ("ConfigMap", "nightread-settings") in made
    assert (("Secret", "nightread-secrets") in made) == (overlay == "trial")
    (worker,) = (
        one for one in documents if one["metadata"]["name"] == "nightread-worker" and one["kind"] == "Deployment"
    )
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    assert container["image"] == ("nightread-worker-cuda:0.1.0" if overlay == "gpu" else "nightread-worker:0.1.0")
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (overlay == "gpu")
    assert {entry["name"] for entry in container["env"]} >= {"NIGHTREAD_DATABASE_URL_FILE", "NIGHTREAD_BROKER_URL_FILE"}


def test_the_receiver_is_a_component_and_workers_read_its_spool(tmp_path):
    overlay = tmp_path / "deploy" / "kubernetes" / "with-pacs"
    overlay.mkdir(parents=True)
    (overlay / "kustomization.yaml").write_text(
        "namespace: nightread\nresources: [../base]\ncomponents: [../pacs]\n"
    )  # fmt: skip
    documents = {(one["kind"], one["metadata"]["name"]): one for one in render("with-pacs", tmp_path)}
    for document in documents.values():
        check(document, RELEASES[0])
    containers = {}
    for name in ("worker", "web", "beat", "receive"):
        pod = find_pod(documents["Deployment", f"nightread-{name}"])
        (containers[name],) = pod["containers"]
        mounts = {mount["mountPath"]: mount for mount in containers[name]["volumeMounts"]}
        assert bool(mounts["/spool"].get("readOnly")) == (name in {"worker", "web"})
        assert containers[name]["image"].startswith("nightread-worker-dicom:") == (name in {"beat", "receive"})
    (settings,) = (one for (kind, _), one in documents.items() if kind == "ConfigMap")
    assert settings["data"]["NIGHTREAD_SCAN_ROOTS"] == "/scans:/spool"
    command, probe = containers["receive"]["command"], containers["receive"]["startupProbe"]["exec"]["command"]
    for words in (command, probe):
        assert words[:2] == ["nightread", "receive"]
        assert {word.partition("=")[0] for word in words[2:]} <= COMMANDS["receive"]
    assert set(probe) - set(command) == {"--health"}


@pytest.mark.parametrize("name", PODS)
def test_each_pod_is_hardened(name):
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert not any("PASSWORD" in entry["name"] and "_FILE" not in entry["name"] for entry in container["env"])
        # A Service's variables would begin with NIGHTREAD_ and be warned of as unknown settings.
        assert pod["enableServiceLinks"] is False


def test_scans_and_models_are_read_only():
    for _pod, container in CONTAINERS.values():
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert all(mounts[path]["readOnly"] for path in mounts if path != "/tmp")


def test_each_command_and_each_probe_is_one_of_the_program():
    for name, (_pod, container) in CONTAINERS.items():
        program, *words = container["command"]
        assert program == "nightread"
        options = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert options <= COMMANDS[" ".join(word for word in words if not word.startswith("-"))]
        assert (name == "migrate") == ("livenessProbe" not in container)
    for name in ("worker", "beat"):
        assert CONTAINERS[name][1]["startupProbe"]["exec"]["command"] == ["nightread", name, "--health"]


def test_a_worker_may_take_as_long_as_in_compose_to_stop():
    pod, _container = CONTAINERS["worker"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["worker"]
    assert f"{pod['terminationGracePeriodSeconds']}s" == compose["stop_grace_period"]


def test_settings_are_valid_and_secrets_are_files_that_make_secrets_writes(tmp_path, monkeypatch):
    made = {file.name for file in (tmp_path / "secrets").iterdir()} if _make_secrets(tmp_path) else set()
    (literals,) = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())["configMapGenerator"]
    settings = dict(literal.split("=", 1) for literal in literals["literals"])
    assert set(settings) <= {f"NIGHTREAD_{name.upper()}" for name in Settings.model_fields if name not in SECRETS}
    for name, (pod, container) in CONTAINERS.items():
        (secret,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
        assert {item["key"] for item in secret["items"]} <= made
        files = {entry["name"]: entry["value"].rpartition("/")[2] for entry in container["env"]}
        assert set(files.values()) == {item["path"] for item in secret["items"]}
        with monkeypatch.context() as patch:
            for variable, value in settings.items():
                patch.setenv(variable, value)
            for variable, file in files.items():
                patch.setenv(variable, str(tmp_path / "secrets" / file))
            read = read_settings()
        user = {"worker": "worker", "beat": "publisher", "web": "publisher"}.get(name)
        assert not user or read.broker_url.get_secret_value().startswith(f"redis://{user}:")


def _make_secrets(folder):
    return not subprocess.run([ROOT / "docker" / "make-secrets", folder / "secrets"], stdout=-3, check=True).returncode


def test_the_trial_passes_each_secret_that_a_pod_reads():
    (generator,) = yaml.safe_load((FOLDER / "trial" / "kustomization.yaml").read_text())["secretGenerator"]
    given = {file.rpartition("/")[2] for file in generator["files"]}
    needed = {
        item["key"]
        for pod in PODS.values()
        for volume in pod.get("volumes", ())
        for item in volume.get("secret", {}).get("items", ())
    }
    assert given == needed


def test_keda_knows_each_field():
    scaled = DOCUMENTS["keda/scaled-object.yaml:ScaledObject"]
    known = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "triggers"}
    assert set(scaled["spec"]) == known
    assert scaled["spec"]["scaleTargetRef"]["name"] == DOCUMENTS["base/worker.yaml:Deployment"]["metadata"]["name"]
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    assert set(trigger["metadata"]) == {"targetQueryValue", "query"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    authentication = DOCUMENTS["keda/scaled-object.yaml:TriggerAuthentication"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "connection", "name": "nightread-secrets", "key": "database_url"}
    ]
