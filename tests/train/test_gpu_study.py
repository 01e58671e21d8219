"""`studies/gpu.py` measures the CPU where there is no CUDA, with the same binding of inputs and outputs."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime.transformers.float16", reason="needs the extra `train`: uv sync --extra train")

from nightread.model.card import Precision
from studies import gpu

ROOT = Path(__file__).parents[2]


def test_every_way_and_precision_gives_the_scores_of_the_export():
    lines = list(gpu.measure(gpu.DEFAULT_MODEL, "cpu", [1, 3], 0.01))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]]
    assert {(row[0], row[1], row[2]) for row in rows} == {
        (precision.value, way, size)
        for precision in (Precision.FLOAT32, Precision.FLOAT16) for way in ("run", "bound") for size in ("1", "3")
    }  # fmt: skip
    assert all(float(row[6]) < (1e-4 if row[0] == "float32" else 0.1) for row in rows)


def test_cuda_is_refused_where_it_does_not_load():
    done = subprocess.run(
        [sys.executable, "studies/gpu.py", "--device", "cuda", "--sizes", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot use CUDA here" in done.stderr
