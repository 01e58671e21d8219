"""Docker Compose as an operator uses it: a folder with the files, a project name of its own, one command at a time."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compose import load_compose
from tests.factories import ROOT

#: What an operator copies from a release.
FILES = ("docker-compose.yml", "docker")
#: An image that stands in for the official one starts by this program, which knows no POSTGRES_PASSWORD_FILE.
_STAND_IN = ["sh", "-c", 'POSTGRES_PASSWORD=$$(cat "$$POSTGRES_PASSWORD_FILE") exec postgres-entry "$$@"', "sh"]


def _run(*command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)


def require_engine() -> None:
    """Skip the test if there is no Docker engine with Compose and the images of the servers and of Python."""
    services = load_compose({"SCANS_DIR": "/x"})["services"]
    python = (ROOT / "Dockerfile").read_text().partition("ARG PYTHON_IMAGE=")[2].split()[0]
    images = [services["redis"]["image"], services["postgres"]["image"], python]
    for command in (["docker", "compose", "version"], *(["docker", "image", "inspect", image] for image in images)):
        if shutil.which("docker") is None or _run(*command).returncode != 0:
            pytest.skip(f"`{' '.join(command)}` fails: an engine, Compose and the base images are needed")


def build_image(tag: str, folder: Path, kind: str = "worker") -> None:
    """Build an image from a tree, by default that of the workers; an unchanged tree takes seconds."""
    # The classic builder: BuildKit fetches its front end from a registry.
    built = _run(
        "docker", "build", "--network", "host", "--build-arg", f"REQUIREMENTS={kind}",
        "--tag", f"nightread-{kind}:{tag}", folder, env=os.environ | {"DOCKER_BUILDKIT": "0"},
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]


class Stack:
    """The services of docker-compose.yml in a folder.

    Attributes:
        folder: holds the files of a release, `.env` and `secrets`.
    """

    def __init__(self, folder: Path, project: str) -> None:
        self.folder = folder
        self._project = project
        self._files: list[str] = []

    def install(self, release: Path, *overrides: str) -> None:
        """Copy the files of a release, and compose files that go with them, over those of the one before."""
        for name in (*FILES, *overrides):
            source, target = release / name, self.folder / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        loaded = yaml.safe_load((self.folder / FILES[0]).read_text())
        postgres = loaded["services"]["postgres"]
        entry = _run(
            "docker", "run", "--rm", "--entrypoint", "sh", postgres["image"], "-c", "command -v docker-entrypoint.sh"
        )
        self._files = [FILES[0], *overrides]
        if entry.returncode != 0 and "POSTGRES_PASSWORD_FILE" in postgres["environment"]:
            (self.folder / "stand-in.yml").write_text(
                yaml.safe_dump({"services": {"postgres": {"entrypoint": _STAND_IN}}})
            )
            self._files.append("stand-in.yml")

    def set(self, **variables: Any) -> None:
        """Write variables to `.env`."""
        self.unset(*variables)
        with (self.folder / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in variables.items())

    def unset(self, *names: str) -> None:
        """Remove variables from `.env`."""
        file = self.folder / ".env"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        file.write_text("".join(line for line in lines if line.partition("=")[0] not in names))

    def make_secrets(self) -> None:
        """Write the files of passwords that are missing."""
        subprocess.run([self.folder / "docker" / "make-secrets"], stdout=subprocess.DEVNULL, check=True)

    def compose(self, *words: Any, expect: int = 0, **options: Any) -> str:
        """Run `docker compose`; returns what it writes to stdout."""
        files = [part for file in self._files for part in ("--file", file)]
        done = _run("docker", "compose", "--project-name", self._project, *files, *words, cwd=self.folder, **options)
        assert done.returncode == expect, f"docker compose {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def cli(self, *words: Any, **options: Any) -> str:
        """Run `nightread` in the service `cli`; returns what it writes to stdout."""
        return self.compose("run", "--rm", "-T", "cli", *words, **options)

    def run_pod(self, pod: dict[str, Any], settings: dict[str, str], places: dict[str, Path], port: int) -> str:
        """Start the container of a pod beside the services, as restricted as in a cluster; returns its name.

        Args:
            pod: of a manifest.
            settings: those of its ConfigMap.
            places: folders or files of this host by the mount of the container.
            port: of the container, published on a free one of this host.
        """
        (container,), user = pod["containers"], pod["securityContext"]
        security, name = container["securityContext"], f"{self._project}-{container['name']}-pod"
        env = settings | {entry["name"]: entry["value"] for entry in container["env"]}
        tmp = next(volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "tmp")
        command = [
            "docker", "create", "--name", name, "--publish", f"127.0.0.1::{port}", "--user",
            f"{user['runAsUser']}:{user['runAsGroup']}", "--group-add", user["fsGroup"],
            *(["--read-only"] if security["readOnlyRootFilesystem"] else []),
            *(["--security-opt", "no-new-privileges"] if not security["allowPrivilegeEscalation"] else []),
            *(f"--cap-drop={one}" for one in security["capabilities"]["drop"]),
            "--memory", container["resources"]["limits"]["memory"].removesuffix("i"),
            "--tmpfs", f"/tmp:size={tmp['sizeLimit'].removesuffix('i')}",
            *(f"--env={name}={value}" for name, value in env.items()),
            *(f"--volume={here}:{there}" for there, here in places.items()),
            "--entrypoint", container["command"][0], f"{container['image']}:test", *container["command"][1:],
        ]  # fmt: skip
        for words in (
            command,
            ["docker", "network", "connect", f"{self._project}_backend", name],
            ["docker", "start", name],
        ):
            done = _run(*words)
            assert done.returncode == 0, done.stderr
        return name

    def down(self) -> None:
        """Remove containers, networks and volumes, those of profiles included."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5", "--remove-orphans")

    def restore(self, dump: Path) -> None:
        """Fill the empty database from a dump."""
        with dump.open("rb") as file:
            self.compose("run", "--rm", "-T", "restore", stdin=file)

    def back_up(self, dump: Path) -> None:
        """Write a dump of the database."""
        files = [part for file in self._files for part in ("--file", file)]
        command = ["docker", "compose", "--project-name", self._project, *files, "run", "--rm", "-T", "backup"]
        with dump.open("wb") as file:
            subprocess.run(command, cwd=self.folder, stdout=file, check=True)
