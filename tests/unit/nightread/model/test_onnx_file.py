import numpy as np
import pytest

from nightread.errors import CardMismatch
from nightread.model.bundle import SHIPPED_DIR, find_bundle, load_bundle
from nightread.model.onnx_file import check_onnx, read_onnx, scale_last_layer
from tests.onnx_factories import encode_model, encode_node, encode_tensor, make_onnx, message, number


def nest(graph_node, depth):
    """Return a node inside two nested If nodes."""
    for _ in range(depth):
        body = message(1, graph_node)
        attribute = message(1, "then_branch") + message(6, body)
        graph_node = encode_node("If", "condition", "out", attributes=message(5, attribute))
    return graph_node


def test_operators_and_opsets_are_told():
    found = read_onnx(make_onnx(opset=17))
    assert found.opsets == {"": 17}
    assert found.operators == {("", "Flatten"): 1, ("", "Gemm"): 1, ("", "Sigmoid"): 1}
    assert (found.external_tensors, found.custom_operators) == (0, [])


def test_the_bundle_that_ships_holds_all_of_itself_and_standard_operators_alone():
    found = check_onnx(load_bundle(find_bundle("", SHIPPED_DIR)).model)
    assert found.operators["", "Conv"] > 0
    assert found.custom_operators == []


def test_an_operator_of_another_domain_is_custom():
    assert read_onnx(make_onnx(last="Magic", domain="com.example")).custom_operators == ["com.example:Magic"]


def test_functions_of_the_file_are_refused_whatever_they_hold():
    function = message(1, "Magic") + message(7, encode_node("Sigmoid", "x", "y")) + message(10, "local")
    model = make_onnx(last="Magic", domain="local", more=message(25, function))
    assert read_onnx(model).operators["", "Sigmoid"] == 1
    with pytest.raises(CardMismatch, match="functions of its own"):
        check_onnx(model)


@pytest.mark.parametrize("field", [6, 11])
def test_control_flow_is_refused_by_its_graph_whatever_its_name(field):
    body = message(5, message(1, "body") + message(field, message(1, encode_node("Relu", "x", "y"))))
    node = encode_node("Relu", "x", "y", attributes=body)
    with pytest.raises(CardMismatch, match="control flow"):
        check_onnx(encode_model([node], [], [], []))


def test_bytes_that_onnx_runtime_would_take_for_its_own_format_are_refused():
    model = number(1, 8) + message(2, "ORTM") + make_onnx()[2:]
    assert model[4:8] == b"ORTM"
    with pytest.raises(CardMismatch, match="format of ONNX Runtime itself"):
        read_onnx(model)


@pytest.mark.parametrize("depth", [1, 3, 400])
def test_graphs_within_graphs_are_looked_into(depth):
    model = encode_model([nest(encode_node("Magic", "x", "y", domain="com.example"), depth)], [], [], [])
    assert read_onnx(model).custom_operators == ["com.example:Magic"]


def test_tensors_in_other_files_are_refused_wherever_they_stand():
    constant = message(5, message(1, "value") + message(5, encode_tensor("x", [1.0], external=True)))
    sparse = message(15, message(1, encode_tensor("x", [1.0], external=True)))
    in_node = encode_model([encode_node("Constant", "", "x", attributes=constant)], [], [], [])
    in_sparse = number(1, 8) + message(7, sparse)
    for model in (make_onnx(external=True), in_node, in_sparse):
        with pytest.raises(CardMismatch, match=r"1 tensors in other files.*export it again"):
            check_onnx(model)


def test_every_shortened_file_is_read_or_refused_but_never_fails():
    whole = make_onnx()
    for length in range(len(whole)):
        try:
            read_onnx(whole[:length])
        except CardMismatch as error:
            assert "ONNX file" in str(error)  # noqa: PT017  # some lengths end between two fields


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 40, b"no network at all", number(1, 8), message(7, b""), b"\x0b\x0c", message(0, b"x"),
     number(1, 8) + message(7, b"\x0a\xff\xff\xff\xff\x0f"), make_onnx() + message(7 + 2**29, b"")],
)  # fmt: skip
def test_what_is_no_onnx_file_is_refused(content):
    with pytest.raises(CardMismatch, match="not an ONNX file"):
        read_onnx(content)


def run(model, scans):
    import onnxruntime

    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["scores"], {"scans": scans})[0]


def test_scaling_the_last_layer_scales_the_logits_and_leaves_the_size():
    scans = np.random.default_rng(1).random((5, 8, 8, 1), np.float32)
    model = make_onnx(gain=4.0, bias=-2.0)
    scaled = scale_last_layer(model, "scores", 0.5, 1.0)
    before, after = (run(content, scans).astype(float) for content in (model, scaled))
    assert np.allclose(np.log(after / (1 - after)), 0.5 * np.log(before / (1 - before)) + 1.0, atol=1e-5)
    assert len(scaled) == len(model)
    assert model == make_onnx(gain=4.0, bias=-2.0)


@pytest.mark.parametrize(("options", "output"), [({"last": "Softmax"}, "scores"), ({}, "other")])
def test_another_last_layer_is_not_scaled(options, output):
    with pytest.raises(CardMismatch, match="not the sigmoid of one dense layer"):
        scale_last_layer(make_onnx(**options), output, 0.5, 1.0)


def test_weights_outside_of_the_file_are_not_scaled():
    with pytest.raises(CardMismatch, match="no float32 values in the graph"):
        scale_last_layer(make_onnx(external=True), "scores", 0.5, 1.0)


@pytest.mark.parametrize("name", ["pneumonia-cnn75/1"])
def test_the_graphs_that_the_exporter_writes_can_be_scaled(name):
    model = (SHIPPED_DIR / name / "model.onnx").read_bytes()
    with np.load(SHIPPED_DIR / name / "parity.npz") as arrays:
        scans, before = arrays["inputs"], arrays["scores"].astype(float)
    after = run(scale_last_layer(model, "scores", 0.5, 1.0), scans).astype(float)
    is_exact = (before > 1e-3) & (before < 1 - 1e-3)
    before, after = before[is_exact], after[is_exact]
    assert len(after)
    assert np.allclose(np.log(after / (1 - after)), 0.5 * np.log(before / (1 - before)) + 1.0, atol=1e-3)
