"""The gate that the trainer fits is the gate in the exported graph."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from exporter.conversion import convert
from exporter.gate import check_gate
from exporter.parity import open_converted
from exporter.precision import change_precision
from nightread.errors import ExportError, ParityMismatch
from nightread.model.card import Gate, Precision
from nightread.model.gate import VARIANTS, make_variant
from nightread.model.training_folder import GATE_FILE, FittedGate, read_gate
from nightread.scan.preprocessing import InputSpec
from trainer.data.split import Part
from trainer.evaluation.gate import find_layers, fit_gate, fit_whitening

# Keras 3 on NumPy 2 warns about its own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

SPEC = InputSpec(height_px=32, width_px=32, channels=1)


def draw_scans(count, seed=0):
    """Bright discs on a dark ground that is lighter below; all alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:32] / 32
    scans = np.empty((count, 32, 32, 1), np.float32)
    for scan in scans:
        disc = np.hypot(x - rng.normal(0.5, 0.03), y - rng.normal(0.35, 0.03)) < rng.normal(0.2, 0.02)
        scan[:, :, 0] = np.clip(0.2 * y + 0.6 * disc + rng.normal(0, 0.02, (32, 32)), 0, 1)
    return scans


@dataclass
class Scans:
    inputs: np.ndarray
    sources: np.ndarray | None = None


@dataclass
class Divided:
    scans: Scans
    split: dict[Part, np.ndarray]


@pytest.fixture(scope="module")
def model():
    """A narrow network with random weights, and bottlenecks."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    scans = keras.Input((32, 32, 1))
    stack = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="first")(scans)  # (16, 16, 4)
    stack = layers.Conv2D(16, 1, activation="relu", name="wide")(stack)
    stack = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="second")(stack)  # (8, 8, 8)
    stack = layers.Conv2D(8, 3, padding="same", name="last")(stack)
    stack = layers.GlobalAveragePooling2D()(stack)
    return keras.Model(scans, layers.Dense(1, activation="sigmoid")(stack))


@pytest.fixture(scope="module")
def divided():
    return make_divided(400)


def make_divided(count):
    scans = draw_scans(count + 150)
    places = np.split(np.arange(count + 150), [count - 120, count])
    return Divided(Scans(scans), dict(zip(Part, places, strict=True)))


@pytest.fixture(scope="module")
def fitted(model, divided, tmp_path_factory):
    """The gate of the card, and the fitted gate of `gate.npz`."""
    folder = tmp_path_factory.mktemp("training")
    gate = fit_gate(folder, model, divided, SPEC)
    return gate, read_gate((folder / GATE_FILE).read_bytes())


@pytest.fixture(scope="module")
def graph(model, fitted):
    return convert(model, SPEC, fitted[1])


def run_graph(content, scans, names):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(names, {session.get_inputs()[0].name: scans})


def test_of_each_resolution_the_narrowest_layer_is_looked_at(model):
    assert find_layers(model) == ["first", "last"]


def test_training_scans_are_about_one_away_and_their_components_standardised():
    features = np.random.default_rng(0).normal(3, [1.0] * 5 + [0.1] * 7, (5000, 12))
    distances, components = fit_whitening(features).measure(features)
    assert distances.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(components.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(components.std(axis=0), 1, atol=0.01)


def test_a_feature_that_never_moves_in_training_does_not_make_a_scan_endlessly_far():
    features = np.random.default_rng(0).normal(size=(500, 12))
    features[:, 3] = 1.0
    moved = features[:1].copy()
    moved[0, 3] += 0.1
    whitening = fit_whitening(features)
    assert whitening.measure(moved)[0] < whitening.measure(features[:1])[0] + 5


def test_the_gate_lets_scans_like_the_training_scans_pass_and_rejects_others(model, fitted, graph):
    gate, _ = fitted
    assert gate.false_rejection.value <= 0.02
    assert 1 < gate.doubtful_distance < gate.max_distance
    (distances,) = run_graph(graph.model, np.random.default_rng(1).random((20, 32, 32, 1), np.float32), ["distance"])
    assert (distances > gate.max_distance).all()


def test_the_graph_has_the_distances_of_the_trainer(divided, fitted, graph):
    _, arrays = fitted
    scans = divided.scans.inputs[divided.split[Part.HOLD_OUT]]
    distances, components = run_graph(graph.model, scans, ["distance", "components"])
    assert distances.shape == (150, 1)
    assert components.shape == (150, 8)
    np.testing.assert_allclose(distances[:, 0], arrays.distances, rtol=1e-3)
    assert [output.name for output in graph.outputs][-3:] == ["distance", "components", "placement"]


def test_the_graph_tells_how_a_scan_lies(divided, graph):
    scans = divided.scans.inputs[divided.split[Part.HOLD_OUT]][:40]
    for place, name in enumerate(VARIANTS, start=1):
        variants = np.stack([make_variant(scan, name, SPEC) for scan in scans])
        (placements,) = run_graph(graph.model, variants, ["placement"])
        assert placements.shape == (40, 5)
        assert (placements[:, place] > placements[:, 0] - 1).mean() > 0.9, name
    (placements,) = run_graph(graph.model, scans, ["placement"])
    assert (placements.argmax(axis=1) == 0).mean() > 0.6  # of a network with random weights


def test_turned_scans_are_told_from_upright_ones(divided, fitted, graph):
    gate, _ = fitted
    scans = divided.scans.inputs[divided.split[Part.HOLD_OUT]][:40]
    upright, turned = (
        run_graph(graph.model, np.ascontiguousarray(batch), ["distance"])[0][:, 0]
        for batch in (scans, scans[:, ::-1, ::-1])
    )
    assert (turned > upright).mean() > 0.9
    assert (upright > gate.doubtful_distance).mean() < 0.1
    assert (turned > gate.doubtful_distance).mean() > 0.5, turned


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.INT8])
def test_lower_precisions_keep_the_gate_and_say_what_it_rejects(divided, fitted, graph, precision):
    gate, arrays = fitted
    calibration = divided.scans.inputs[:64]
    changed = change_precision(graph.model, precision, calibration, input_name="scans")
    scans = divided.scans.inputs[divided.split[Part.HOLD_OUT]]
    checked = check_gate(open_converted(changed), arrays, scans, SPEC, gate, exact=False)
    assert checked.false_rejection.value <= 0.05
    assert checked.max_distance == gate.max_distance


def test_a_graph_with_other_distances_is_refused(divided, fitted, graph):
    gate, arrays = fitted
    scans = divided.scans.inputs[divided.split[Part.HOLD_OUT]]
    other = FittedGate(arrays.layers, arrays.mean, arrays.projection, arrays.distances * 1.01, arrays.misplaced, 0.0)
    with pytest.raises(ParityMismatch, match="distances differ"):
        check_gate(open_converted(graph.model), other, scans, SPEC, gate, exact=True)


def test_a_gate_that_rejects_many_real_scans_is_refused(divided, fitted, graph):
    gate, arrays = fitted
    scans = divided.scans.inputs[divided.split[Part.HOLD_OUT]]
    strict = Gate.model_validate(gate.model_dump() | {"max_distance": 0.5, "doubtful_distance": 0.5})
    with pytest.raises(ExportError, match="rejects"):
        check_gate(open_converted(graph.model), arrays, scans, SPEC, strict, exact=True)


def test_with_too_few_scans_there_is_no_gate_and_none_stays_from_before(model, tmp_path):
    (tmp_path / GATE_FILE).write_bytes(b"of another training")
    assert fit_gate(tmp_path, model, make_divided(160), SPEC) is None
    assert not (tmp_path / GATE_FILE).exists()


def test_a_training_of_too_few_scans_has_no_gate_on_its_card(trained):
    assert json.loads((trained.request.out / "card.json").read_text())["gate"] is None
    assert not (trained.request.out / GATE_FILE).exists()
