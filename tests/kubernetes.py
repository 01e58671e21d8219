"""The manifests of deploy/kubernetes: documents, containers, and what `kubectl kustomize` makes of an overlay."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.factories import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
#: What no cluster gets as it stands: kustomizations, and patches of documents.
_PARTS = {"kustomization.yaml", "gpu/worker.yaml"}


def read_documents() -> dict[str, dict[str, Any]]:
    """Return each whole document by FILE:KIND."""
    return {
        f"{file.relative_to(FOLDER)}:{document['kind']}": document
        for file in sorted(FOLDER.rglob("*.yaml"))
        if not {file.name, str(file.relative_to(FOLDER))} & _PARTS
        for document in yaml.safe_load_all(file.read_text())
    }


def find_pod(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return the pod of a document that starts one."""
    spec = document.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    return spec.get("template", {}).get("spec")


def find_containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield name, pod and container of the base, which run Nightread."""
    for name, document in read_documents().items():
        if name.startswith("base/") and (pod := find_pod(document)):
            (container,) = pod["containers"]
            yield container["name"], pod, container


def read_settings(folder: str) -> dict[str, str]:
    """Return the settings that the kustomization of a folder adds to the ConfigMap."""
    (generated,) = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generated["literals"])


def render(overlay: str, folder: Path) -> list[dict[str, Any]]:
    """Return the documents that `kubectl apply -k` would send; skips the test without kubectl.

    Args:
        overlay: its folder's name.
        folder: gets a copy of the files, and the secrets of the trial.
    """
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    for part in ("deploy/kubernetes", "docker"):
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True)
    at = folder / "deploy" / "kubernetes" / overlay
    subprocess.run([folder / "docker" / "make-secrets", at / "secrets"], stdout=subprocess.DEVNULL, check=True)
    done = subprocess.run(["kubectl", "kustomize", at], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
