"""Nothing in the current folder is run: it may be the scan folder, and whoever writes there must not write programs."""

import subprocess
import sys

import pytest

from tests.factories import write_jpeg
from tests.program import PROGRAM, make_environment

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


@pytest.fixture
def night(tmp_path):
    """A scan folder with modules of every name that a child process might look for."""
    folder = tmp_path / "night"
    folder.mkdir()
    write_jpeg(folder / "a.jpg")
    for name in ("worker", "db", "cli", "nightread", "web"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'a').write({name!r})\n")
    for name in ("json", "numpy", "PIL", "sitecustomize", "usercustomize"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'a').write({name!r})\n")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([PROGRAM, "score", "."], id="score"),
        pytest.param([sys.executable, "-P", "-c", SANDBOX], id="sandbox"),
        pytest.param([sys.executable, "-P", "-c", PREFLIGHT], id="preflight"),
    ],
)
def test_no_module_of_the_current_folder_is_imported(night, tmp_path, command):
    environment = make_environment(tmp_path)
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=night, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "EXECUTED").exists()
