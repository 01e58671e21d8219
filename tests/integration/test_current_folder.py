"""Nothing in the current folder is run or obeyed: it may be the scan folder, and its writers must not run programs."""

import subprocess
import sys

import pytest

from tests.factories import write_jpeg
from tests.program import PROGRAM, make_environment, run

SANDBOX = """
from nightread.scan.preprocessing import InputSpec
from tests.factories import encode_jpeg
from worker.decoder.sandbox import IsolatedDecoders, IsolationLimits
decoders = IsolatedDecoders(IsolationLimits(30.0, 10**6, 10**6))
print(decoders.decode(encode_jpeg(), InputSpec(height_px=75, width_px=75, channels=1)).reason)
decoders.close()
"""
PREFLIGHT = """
from nightread.settings import read_settings
from worker.preflight import check_worker
print(check_worker(read_settings())["model"])
"""

TASKS = """
from nightread.settings import read_settings
from worker.queue.celery_app import make_app
make_app(read_settings()).loader.init_worker()
"""

# Celery starts the processes of a worker on a GPU like this; without -P, as the program itself is started.
SPAWN = """
import os
import sys
import cli
from billiard import get_context
if __name__ == "__main__":
    process = get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.fixture
def night(tmp_path):
    """A scan folder with modules of every name that a child process might look for."""
    folder = tmp_path / "night"
    folder.mkdir()
    write_jpeg(folder / "a.jpg")
    for name in ("worker", "db", "cli", "nightread", "web", "billiard", "celery", "kombu"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'a').write({name!r})\n")
    for name in ("json", "numpy", "PIL", "sitecustomize", "usercustomize"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'a').write({name!r})\n")
    (folder / ".env").write_text(f"NIGHTREAD_DATABASE_URL=sqlite:///{tmp_path / 'obeyed.db'}\n")
    (tmp_path / "spawn.py").write_text(SPAWN)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([PROGRAM, "score", "."], id="score"),
        pytest.param([sys.executable, "-P", "-c", SANDBOX], id="sandbox"),
        pytest.param([sys.executable, "-P", "-c", PREFLIGHT], id="preflight"),
        pytest.param([sys.executable, "-P", "-c", TASKS], id="tasks-of-a-worker"),
        pytest.param([sys.executable, "../spawn.py"], id="spawned-worker"),
        pytest.param([PROGRAM.with_name("celery"), "--workdir", "/", "-A", "worker.app", "report"], id="celery"),
    ],
)
def test_no_module_of_the_current_folder_is_imported(night, tmp_path, command):
    environment = make_environment(tmp_path, broker_url="redis://127.0.0.1:1/0")
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=night, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "EXECUTED").exists()
    assert not (tmp_path / "obeyed.db").exists()


def test_an_env_file_in_the_scan_folder_is_named_and_not_read(night, tmp_path):
    done = run("score", ".", env=make_environment(tmp_path), cwd=night)
    assert "the file .env in this folder is not read" in done.stderr
    assert not (tmp_path / "obeyed.db").exists()
