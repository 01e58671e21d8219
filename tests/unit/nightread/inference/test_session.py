"""Errors of ONNX Runtime as a person reads them."""

import pytest

from nightread.inference.session import show_error

LINE = "/src/core/graph/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, const std::string&)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"[ONNXRuntimeError] : 1 : FAIL : {LINE} Unsupported IR version: 99\n\n", "FAIL : Unsupported IR version: 99"),
        (f"[ONNXRuntimeError] : 1 : FAIL : In node.\nStatus: {LINE} No shape.", "FAIL : In node. Status: No shape."),
        ("a plain text", "a plain text"),
    ],
)
def test_source_lines_of_onnx_runtime_are_left_out(text, shown):
    assert show_error(RuntimeError(text)) == shown
