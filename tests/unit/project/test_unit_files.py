"""The files of deploy/: systemd accepts the units, and each command in them is one of the program."""

import re
import shutil
import subprocess
import sys

import pytest

from cli.commands.enqueue import enqueue
from tests.factories import ROOT
from tests.project import COMMANDS

UNITS = sorted((ROOT / "deploy/systemd").iterdir())
CRON_JOB = ROOT / "deploy/kubernetes/cronjob-night.yaml"
PROGRAM = "/opt/nightread/bin/nightread"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts(unit, tmp_path):
    for other in UNITS:
        text = other.read_text(encoding="utf-8").replace(PROGRAM, sys.executable)
        (tmp_path / other.name).write_text(text, encoding="utf-8")
    name = unit.name.replace("@.", "@ward-a.")
    (tmp_path / unit.name).rename(tmp_path / name)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_each_service_starts_a_command_of_the_program():
    started = {
        re.search(rf"{PROGRAM} (\w+)", unit.read_text(encoding="utf-8"))[1]
        for unit in UNITS
        if unit.suffix == ".service"
    }
    assert started == {"worker", "beat", "metrics", "web", "enqueue", "receive"}
    assert started <= COMMANDS.keys()


def test_a_worker_of_a_gpu_differs_from_another_in_its_device_alone():
    """Two files, since systemd has no condition for the one line."""
    of_cpu, of_gpu = (
        set((ROOT / f"deploy/systemd/nightread-{name}@.service").read_text(encoding="utf-8").splitlines())
        for name in ("worker", "gpu")
    )
    assert {line.partition("=")[0] for line in of_cpu ^ of_gpu if not line.startswith("#")} == {
        "Description", "Environment", "PrivateDevices",
    }  # fmt: skip


def test_each_option_in_the_files_is_one_of_enqueue():
    text = "".join(file.read_text(encoding="utf-8") for file in (*UNITS, CRON_JOB) if "night" in file.stem)
    used = set(re.findall(r"(?<=\s)--([a-z-]+)", " ".join(re.findall(r"nightread enqueue ([^']*)", text))))
    assert {"key", "settle", "wait", "timeout", "name"} <= used
    assert used <= {name.replace("_", "-") for name in enqueue.__annotations__} | {"enable", "now"}


def test_each_option_of_the_receiver_is_one_of_receive():
    unit = (ROOT / "deploy/systemd/nightread-receive.service").read_text(encoding="utf-8")
    assert set(re.findall(r"--[a-z-]+", unit)) <= COMMANDS["receive"]


def test_a_night_that_needs_a_person_is_not_started_again():
    """5 is the one exit code after which the same command continues."""
    unit = (ROOT / "deploy/systemd/nightread-night@.service").read_text(encoding="utf-8")
    assert "RestartPreventExitStatus=1 2 3 4 6\n" in unit
    assert "values: [1, 2, 3, 4, 6]" in CRON_JOB.read_text(encoding="utf-8")
