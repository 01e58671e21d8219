"""Nothing that Nightread loads sends telemetry."""

import os
import subprocess
import sys

import pytest

_LIST_THREADS = "import os; print(len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 1)"


@pytest.mark.parametrize("module", ["nightread.inference.session", "exporter.parity, onnxruntime"])
def test_onnx_runtime_keeps_no_id_of_the_machine_and_starts_no_thread_to_report_on_it(module, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "OPENBLAS_NUM_THREADS": "1"}

    done = subprocess.run(
        [sys.executable, "-c", f"import {module}; {_LIST_THREADS}"],
        env=environment | home, cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip

    assert list(tmp_path.rglob("*")) == []
    assert done.stdout.strip() == "1"
