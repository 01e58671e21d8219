"""Conversion of small networks of each exported kind."""

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

import onnx
import onnxruntime

from exporter.conversion import INPUT_NAME, OPSET, convert
from exporter.parity import check_independence, check_parity, open_converted
from exporter.precision import LIMITS, change_precision
from nightread.model.card import ACTIVATION_MAP, EMBEDDING, SCORES, Precision
from nightread.scan.preprocessing import InputSpec

# Keras 3 on NumPy 2 warns about its own code; a model's own warnings are not ours.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

SPEC = InputSpec(height_px=64, width_px=64, channels=3)
SCANS = np.random.default_rng(5).random((40, *SPEC.shape), np.float32)


def build_mobilenet():
    """Build a MobileNetV3: hard-swish, squeeze and excitation, depthwise convolutions."""
    from keras import Model, applications, layers

    base = applications.MobileNetV3Small(
        input_shape=SPEC.shape, alpha=0.35, include_top=False, weights=None, include_preprocessing=False
    )
    pooled = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(base.output))
    return Model(base.input, layers.Dense(2, activation="sigmoid")(pooled))


def build_inception_resnet():
    """Build the elements of InceptionResNetV2: branches, concatenation, scaled residuals, batch normalisation."""
    from keras import Input, Model, layers

    def convolve(tensor, filters, size, strides=1):
        tensor = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(tensor)
        return layers.Activation("relu")(layers.BatchNormalization(scale=False)(tensor))

    scans = Input(SPEC.shape)
    stem = layers.MaxPooling2D(3, strides=2)(convolve(scans, 8, 3, 2))
    for _ in range(2):
        mixed = layers.Concatenate()([convolve(stem, 8, 1), convolve(convolve(stem, 8, (1, 7)), 8, (7, 1))])
        residual = layers.Rescaling(0.2)(layers.Conv2D(8, 1)(mixed))
        stem = layers.Activation("relu")(layers.Add()([stem, residual]))
    reduced = layers.Concatenate()([convolve(stem, 8, 3, 2), layers.AveragePooling2D(2, padding="same")(stem)])
    logits = layers.Dense(1)(layers.GlobalAveragePooling2D()(reduced))
    return Model(scans, layers.Activation("sigmoid")(logits))


def build_nested():
    """Build a network around another one, as in transfer learning."""
    from keras import Input, Sequential, layers

    inner = Sequential([Input(SPEC.shape), layers.Conv2D(4, 3, strides=4), layers.GlobalAveragePooling2D()])
    return Sequential([Input(SPEC.shape), inner, layers.Dense(1, activation="sigmoid")])


def build_without_dense():
    from keras import Input, Sequential, layers

    return Sequential(
        [Input(SPEC.shape), layers.Conv2D(1, 3, strides=4, activation="sigmoid"), layers.GlobalMaxPooling2D()]
    )


NETWORKS = {
    "mobilenet": build_mobilenet,
    "inception-resnet": build_inception_resnet,
    "nested": build_nested,
    "without-dense": build_without_dense,
}


@pytest.fixture(scope="module")
def networks():
    """Return each network with its conversion; weights are drawn wide, so that scores differ from scan to scan."""
    import keras

    built = {}
    for name, build in NETWORKS.items():
        keras.utils.set_random_seed(17)
        model = build()
        rng = np.random.default_rng(17)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):  # fresh statistics would be folded to nothing
                layer.set_weights([rng.uniform(0.5, 1.5, weights.shape) for weights in layer.get_weights()])
        built[name] = model, convert(model, SPEC)
    return built


def compute_all(converted):
    session = onnxruntime.InferenceSession(converted.model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT_NAME: SCANS}), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_reproduces_its_source_at_every_batch_size(networks, name):
    model, converted = networks[name]
    compute = open_converted(converted.model).score
    labels = model.output_shape[1]
    parity = check_parity(
        lambda scans: np.asarray(model(scans, training=False)), compute, SCANS, [0.999] * labels, batch_sizes=(1, 7, 32)
    )
    assert parity.largest_difference <= 1e-5
    check_independence(compute, SCANS)
    assert np.ptp(compute(SCANS)) > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_opset_names_and_the_free_batch_axis_are_what_is_promised(networks, name):
    proto = onnx.load_model_from_string(networks[name][1].model)
    assert {opset.domain: opset.version for opset in proto.opset_import}[""] == OPSET == 18
    assert [value.name for value in proto.graph.input] == [INPUT_NAME]
    assert proto.graph.output[0].name == SCORES
    assert all(
        not value.type.tensor_type.shape.dim[0].dim_value for value in (proto.graph.input[0], *proto.graph.output)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_no_transposes_are_left_within_the_network(networks, name):
    assert networks[name][1].transposes <= 2  # at the input and before the pooling


def test_the_converters_failed_pass_is_made_up_for(networks, monkeypatch):
    from exporter import conversion

    monkeypatch.setattr(conversion, "_remove_transposes", lambda proto: proto)
    model, converted = networks["mobilenet"]
    assert convert(model, SPEC).transposes > 90
    assert converted.transposes <= 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet", [SCORES, EMBEDDING, ACTIVATION_MAP]),
        ("inception-resnet", [SCORES, EMBEDDING, ACTIVATION_MAP]),
        ("nested", [SCORES, EMBEDDING]),
        ("without-dense", [SCORES]),
    ],
)
def test_a_network_shows_what_its_last_layers_allow_and_says_so(networks, name, expected):
    _, converted = networks[name]
    assert [output.name for output in converted.outputs] == expected
    values = compute_all(converted)
    assert list(values) == expected  # scores first, whatever tf2onnx sorts by
    for output in converted.outputs:
        assert values[output.name].shape == (len(SCANS), *output.shape)
        assert values[output.name].dtype == np.float32


@pytest.mark.parametrize("name", ["mobilenet", "inception-resnet", "nested"])
def test_the_embedding_is_what_the_last_layer_of_keras_gets(networks, name):
    import keras

    model, converted = networks[name]
    dense = next(layer for layer in reversed(model.layers) if isinstance(layer, keras.layers.Dense))
    expected = np.asarray(keras.Model(model.inputs[0], dense.input)(SCANS, training=False))
    assert np.abs(compute_all(converted)[EMBEDDING] - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", ["mobilenet", "inception-resnet"])
def test_the_mean_of_an_activation_map_and_the_bias_make_the_score(networks, name):
    import keras

    model, converted = networks[name]
    dense = next(layer for layer in reversed(model.layers) if isinstance(layer, keras.layers.Dense))
    values = compute_all(converted)
    logits = values[ACTIVATION_MAP].mean(axis=(1, 2), dtype=np.float64) + np.asarray(dense.bias)
    assert np.abs(1 / (1 + np.exp(-logits)) - values[SCORES]).max() <= 1e-5


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.INT8])
@pytest.mark.parametrize("name", ["mobilenet", "inception-resnet"])
def test_other_precisions_have_the_same_inputs_and_outputs(networks, name, precision):
    _, converted = networks[name]
    model = change_precision(converted.model, precision, SCANS[:16], input_name=INPUT_NAME)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert [value.type for value in (*session.get_inputs(), *session.get_outputs())] == ["tensor(float)"] * 4
    assert [output.name for output in session.get_outputs()] == [SCORES, EMBEDDING, ACTIVATION_MAP]
    proto = onnx.load_model_from_string(model)
    assert {opset.domain for opset in proto.opset_import} <= {"", "ai.onnx.ml"}  # no runtime's own operators
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    wanted = onnx.TensorProto.FLOAT16 if precision is Precision.FLOAT16 else onnx.TensorProto.INT8
    assert wanted in kinds


def test_int8_scores_are_not_in_256_steps(networks):
    _, converted = networks["inception-resnet"]
    model = change_precision(converted.model, Precision.INT8, SCANS[:16], input_name=INPUT_NAME)
    scores = open_converted(model).score(SCANS)
    assert np.abs(scores - open_converted(converted.model).score(SCANS)).max() <= LIMITS[Precision.INT8].parity
    graph = onnx.load_model_from_string(model).graph
    producers = {name: node for node in graph.node for name in node.output}
    assert producers[SCORES].op_type == "Sigmoid"
