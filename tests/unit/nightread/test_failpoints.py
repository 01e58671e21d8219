import os
import signal
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from nightread import fault_injection as failpoints_module
from nightread.errors import SettingsError
from nightread.failpoints import Point, Struck, arm, describe_armed, failpoint
from nightread.settings import read_settings
from tests.factories import ROOT

PACKAGES = ("cli", "db", "nightread", "pacs", "worker")


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    arm("")


def run_armed(text, code, folder=None):
    """Run code in a process of its own that was started with a failpoint; returns its exit code and output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NIGHTREAD_FAILPOINT": text}
    if folder is not None:
        environment["NIGHTREAD_FAILPOINT_DIR"] = str(folder)
    code = "from nightread.failpoints import Point, failpoint\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


class TestStriking:
    def test_does_nothing_where_nothing_is_armed(self):
        for point in Point:
            failpoint(point)

    def test_raises_at_the_nth_passing_and_never_again(self):
        arm("worker-reading:raise:3")
        failpoint(Point.WORKER_READING)
        failpoint(Point.WORKER_READING)
        with pytest.raises(Struck, match="worker-reading"):
            failpoint(Point.WORKER_READING)
        failpoint(Point.WORKER_READING)

    def test_other_points_are_not_counted(self):
        arm("worker-reading:raise:1")
        failpoint(Point.SWEEP_BEFORE)
        with pytest.raises(Struck):
            failpoint(Point.WORKER_READING)

    def test_any_counts_every_point(self):
        arm("any:raise:2")
        failpoint(Point.SWEEP_BEFORE)
        with pytest.raises(Struck, match="worker-reading"):
            failpoint(Point.WORKER_READING)

    def test_raises_the_kind_of_fault_that_lies_there(self):
        arm("publish-between:raise")
        with pytest.raises(ConnectionError, match="made by the failpoint publish-between"):
            failpoint(Point.PUBLISH_BETWEEN, ConnectionError)

    def test_several_count_apart(self):
        arm("sweep-before:raise:2, worker-reading:raise")
        failpoint(Point.SWEEP_BEFORE)
        with pytest.raises(Struck):
            failpoint(Point.WORKER_READING)
        with pytest.raises(Struck):
            failpoint(Point.SWEEP_BEFORE)

    def test_sleeps_and_goes_on(self, monkeypatch):
        slept = []
        monkeypatch.setattr(failpoints_module.time, "sleep", slept.append)
        arm("worker-reading:sleep-2.5")
        failpoint(Point.WORKER_READING)
        assert slept == [2.5]

    def test_exit_unwinds(self):
        arm("worker-reading:exit")
        with pytest.raises(SystemExit):
            failpoint(Point.WORKER_READING)

    def test_kill_leaves_no_time_for_anything(self):
        code = "try:\n    failpoint(Point.SWEEP_BEFORE)\nfinally:\n    print('unwound', flush=True)"
        assert run_armed("sweep-before:kill", code) == (-signal.SIGKILL, "")

    def test_stop_holds_the_process_until_it_is_told_to_go_on(self):
        pid = os.fork()
        if not pid:
            arm("sweep-before:stop")
            failpoint(Point.SWEEP_BEFORE)
            os._exit(7)
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(pid, signal.SIGCONT)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 7


class TestOnceForAllProcesses:
    CODE = "failpoint(Point.SWEEP_BEFORE)\nprint('passed')"

    def test_a_restarted_process_does_not_fail_again(self, tmp_path):
        assert run_armed("sweep-before:kill", self.CODE, tmp_path) == (-signal.SIGKILL, "")
        assert run_armed("sweep-before:kill", self.CODE, tmp_path) == (0, "passed\n")

    def test_a_file_tells_where_it_struck(self, tmp_path):
        run_armed("any:kill:1", self.CODE, tmp_path)
        (told,) = tmp_path.iterdir()
        assert told.name == "any-kill-1"
        assert told.read_text().startswith("sweep-before ")

    def test_without_a_folder_each_process_fails(self):
        assert run_armed("sweep-before:kill", self.CODE)[0] == -signal.SIGKILL
        assert run_armed("sweep-before:kill", self.CODE)[0] == -signal.SIGKILL


class TestWrongOnes:
    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("nowhere:kill", "there is no point 'nowhere'; there are any, cancel-in-transaction, "),
            ("sweep-before:explode", "'sweep-before:explode' is no failpoint; write POINT:ACTION"),
            ("sweep-before:kill:0", "is no failpoint"),
            ("sweep-before", "is no failpoint"),
            ("sweep-before:sleep-x", "is no failpoint"),
            ("sweep-before:kill,nowhere:kill", "there is no point 'nowhere'"),
        ],
    )
    def test_are_told_at_the_start_as_wrong_settings_are(self, monkeypatch, text, fault):
        monkeypatch.setenv("NIGHTREAD_FAILPOINT", text)
        monkeypatch.setenv("NIGHTREAD_BATCH_SIZE", "0")
        with pytest.raises(SettingsError, match="NIGHTREAD_FAILPOINT: ") as told:
            read_settings()
        assert fault in str(told.value)
        assert "NIGHTREAD_BATCH_SIZE" in str(told.value)
        assert "\n" not in str(told.value)

    def test_a_folder_that_is_not_there_is_told_at_the_start(self, monkeypatch, tmp_path):
        monkeypatch.setenv("NIGHTREAD_FAILPOINT_DIR", str(tmp_path / "none"))
        with pytest.raises(SettingsError, match="NIGHTREAD_FAILPOINT_DIR: there is no folder"):
            read_settings()

    def test_right_ones_are_accepted(self, monkeypatch):
        monkeypatch.setenv("NIGHTREAD_FAILPOINT", "sweep-before:kill,any:sleep-0.5:12")
        read_settings()

    def test_arm_nothing(self):
        arm("sweep-before:raise")
        with pytest.raises(ValueError, match="no failpoint"):
            arm("sweep-before:explode")
        assert describe_armed() == "sweep-before:raise:1"


def test_every_point_is_marked_in_the_code_and_says_where_it_lies():
    sources = "".join(file.read_text() for package in PACKAGES for file in Path(ROOT / package).rglob("*.py"))
    for point in Point:
        assert f"Point.{point.name}" in sources
        assert len(point.where) > 20


@pytest.fixture
def _as_installed(monkeypatch):
    """Without the file that the wheel leaves out."""
    monkeypatch.setitem(sys.modules, "nightread.fault_injection", None)


@pytest.mark.usefixtures("_as_installed")
def test_an_installed_program_injects_no_fault(monkeypatch):
    monkeypatch.setenv("NIGHTREAD_FAILPOINT", "any:kill")
    with pytest.raises(SettingsError, match="NIGHTREAD_FAILPOINT: it is for tests; an installed Nightread injects no"):
        read_settings()
    failpoint(Point.WRITE_BEFORE_COMMIT)
    assert describe_armed() == ""


def test_the_wheel_leaves_out_what_injects_faults():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["exclude"] == ["nightread/fault_injection.py"]
    assert (ROOT / "nightread" / "fault_injection.py").is_file()
