"""Checks of the package onnx at import, and agreement with the built-in reader of ONNX files."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra `train`: uv sync --extra train")

import onnx

from nightread.errors import CardMismatch
from nightread.model.bundle import SHIPPED_DIR, find_bundle, load_bundle
from nightread.model.onnx_file import read_onnx
from nightread.settings import read_settings
from tests.factories import make_card
from tests.onnx_factories import encode_model, encode_node, encode_tensor, encode_value, make_onnx
from worker.registry.import_model import import_onnx


def import_tiny(engine, folder: Path, model: bytes):
    (folder / "model.onnx").write_bytes(model)
    (folder / "card.json").write_text(json.dumps(make_card()))
    settings = read_settings(models_dir=folder / "models", threads=1)
    return import_onnx(
        engine, settings, folder / "model.onnx", folder / "card.json",
        lambda spec: np.linspace(0, 1, 64, dtype=np.float32).reshape(1, *spec.shape),
    )  # fmt: skip


def test_the_files_of_the_factories_are_valid():
    onnx.checker.check_model(make_onnx(), full_check=True)


@pytest.mark.parametrize("model", [make_onnx(), load_bundle(find_bundle("", SHIPPED_DIR)).model])
def test_our_reader_finds_what_the_package_finds(model):
    found = read_onnx(model)
    graph = onnx.load_from_string(model)
    assert found.opsets == {entry.domain: entry.version for entry in graph.opset_import}
    operators = [(node.domain, node.op_type) for node in graph.graph.node]
    assert found.operators == {operator: operators.count(operator) for operator in operators}


def test_a_valid_file_is_imported(sqlite_engine, tmp_path):
    assert import_tiny(sqlite_engine, tmp_path, make_onnx()).bundle.card.reference == "tiny@1"


def test_a_graph_that_the_checker_refuses_is_refused(sqlite_engine, tmp_path):
    reads_what_nobody_writes = encode_model(
        [encode_node("Gemm", "nobody weights", "scores")], [encode_tensor("weights", np.zeros((64, 1)))],
        [encode_value("scans", "N", 8, 8, 1)], [encode_value("scores", "N", 1)],
    )  # fmt: skip
    with pytest.raises(CardMismatch, match=r"graph: onnx\.checker: "):
        import_tiny(sqlite_engine, tmp_path, reads_what_nobody_writes)
