import json
import shutil

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

import onnx
import typer
from typer.testing import CliRunner

from cli import training
from exporter import export as exporting
from exporter.conversion import INPUT_NAME, OUTPUT_NAME, Converted
from exporter.errors import ExportError
from exporter.export import export
from exporter.parity import open_session
from nightread.bundle import load_bundle
from nightread.errors import CardMismatch, ParityMismatch

# Keras 3 on NumPy 2 warns about its own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def ignore(stage):
    pass


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export(trained.request.out, tmp_path_factory.mktemp("models"), "tiny", "1", report=ignore)


def test_the_bundle_is_one_that_a_worker_loads(exported):
    bundle = load_bundle(exported.folder)
    assert bundle.card.reference == "tiny@1"
    assert bundle.card.labels == ("pneumonia",)
    assert bundle.parity_inputs.shape == (8, 75, 75, 3)
    assert {"tensorflow", "keras", "tf2onnx", "onnx"} <= set(bundle.card.training.packages)
    assert set(bundle.card.metrics) == {"validation", "hold-out"}


def test_onnx_runtime_reproduces_the_scores_in_the_bundle(exported):
    bundle = exported.bundle
    scores = open_session(bundle.model)(bundle.parity_inputs)
    assert scores.dtype == np.float32
    assert np.abs(scores - bundle.parity_scores).max() <= bundle.card.parity_tolerance
    assert exported.parity.largest_difference <= 1e-5


def test_the_parity_scans_run_from_the_lowest_to_the_highest_score(exported):
    scores = exported.bundle.parity_scores[:, 0]
    assert np.array_equal(scores, np.sort(scores))


def test_names_and_the_free_batch_axis_are_in_the_graph(exported):
    graph = onnx.load_model_from_string(exported.bundle.model).graph
    (graph_input,), (graph_output,) = graph.input, graph.output
    assert (graph_input.name, graph_output.name) == (INPUT_NAME, OUTPUT_NAME)
    axes = graph_input.type.tensor_type.shape.dim
    assert not axes[0].dim_value
    assert [axis.dim_value for axis in axes[1:]] == [75, 75, 3]


def test_transposes_stay_at_the_borders_of_the_convolutions(exported):
    assert exported.transposes <= 2


def perturb(model, initializer_size, change):
    """Change the first weights of the given size in an ONNX model."""
    proto = onnx.load_model_from_string(model)
    tensor = next(t for t in proto.graph.initializer if np.prod(t.dims) == initializer_size)
    values = onnx.numpy_helper.to_array(tensor) + np.float32(change)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return proto.SerializeToString()


def test_a_broken_conversion_is_refused_and_writes_nothing(trained, monkeypatch, tmp_path):
    convert = exporting.convert

    def convert_wrongly(model, spec):
        right = convert(model, spec)
        return Converted(perturb(right.model, 7500 * 75, 1e-3), right.transposes)

    monkeypatch.setattr(exporting, "convert", convert_wrongly)
    with pytest.raises(ParityMismatch, match="differ from Keras'"):
        export(trained.request.out, tmp_path, "broken", "1", report=ignore)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_the_runtime_cannot_open_is_refused():
    with pytest.raises(ParityMismatch, match="ONNX Runtime cannot open the converted model"):
        open_session(b"no model")


def test_a_bundle_is_never_written_over(trained, exported):
    with pytest.raises(ExportError, match="name another --version"):
        export(trained.request.out, exported.folder.parent.parent, "tiny", "1", report=ignore)


def test_a_name_that_no_bundle_may_have_is_refused(trained, tmp_path):
    with pytest.raises(CardMismatch, match="name"):
        export(trained.request.out, tmp_path, "Tiny Model", "1", report=ignore)


def test_a_checkpoint_that_keras_cannot_open_is_refused_in_one_line(trained, tmp_path):
    import hashlib

    folder = shutil.copytree(trained.request.out, tmp_path / "damaged")
    (folder / "checkpoint.keras").write_bytes(b"no checkpoint")
    record = json.loads((folder / "training.json").read_text())
    record["sha256"]["checkpoint.keras"] = hashlib.sha256(b"no checkpoint").hexdigest()
    (folder / "training.json").write_text(json.dumps(record))
    with pytest.raises(ExportError, match="Keras cannot open") as caught:
        export(folder, tmp_path / "models", "tiny", "1", report=ignore)
    assert "\n" not in str(caught.value)


def test_the_command_line_trains_and_exports_with_one_json_object_each(base_request, tmp_path):
    app = typer.Typer()
    app.command()(training.train)
    app.command()(training.export)
    out = str(tmp_path / "training")
    arguments = ["--data", str(base_request.data), "--out", out, "--epochs", "1", "--split", "60/20/20", "--json"]
    result = CliRunner().invoke(app, ["train", "pediatric", *arguments], catch_exceptions=False)
    record = json.loads(result.stdout)
    assert record["epochs_done"] == 1
    result = CliRunner().invoke(
        app,
        ["export", out, "--name", "tiny", "--version", "2", "--out", str(tmp_path / "models"), "--json"],
        catch_exceptions=False,
    )
    outcome = json.loads(result.stdout)
    assert outcome["model"] == "tiny@2"
    assert outcome["digest"] == load_bundle(tmp_path / "models/tiny/2").digest
