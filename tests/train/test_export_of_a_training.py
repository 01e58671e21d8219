import hashlib
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

import onnx
import typer
from typer.testing import CliRunner

from cli.commands import export as export_module
from cli.commands import train as train_module
from exporter import export as exporting
from exporter.conversion import INPUT_NAME, Converted
from exporter.export import export
from exporter.parity import open_converted
from exporter.precision import LIMITS
from nightread.errors import CardMismatch, ExportError, ParityMismatch
from nightread.inference.scorer import Scorer
from nightread.model.bundle import load_bundle
from nightread.model.card import Precision
from nightread.settings import Device

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
    scores = open_converted(bundle.model).score(bundle.parity_inputs)
    assert scores.dtype == np.float32
    assert np.abs(scores - bundle.parity_scores).max() <= bundle.card.parity_tolerance
    assert exported.parity.largest_difference <= 1e-5


def test_the_parity_scans_run_from_the_lowest_to_the_highest_score(exported):
    scores = exported.bundle.parity_scores[:, 0]
    assert np.array_equal(scores, np.sort(scores))


def test_names_and_the_free_batch_axis_are_in_the_graph(exported):
    graph = onnx.load_model_from_string(exported.bundle.model).graph
    (graph_input,) = graph.input
    assert (graph_input.name, graph.output[0].name) == (INPUT_NAME, "scores")
    axes = graph_input.type.tensor_type.shape.dim
    assert not axes[0].dim_value
    assert [axis.dim_value for axis in axes[1:]] == [75, 75, 3]


def test_transposes_stay_at_the_borders_of_the_convolutions(exported):
    assert exported.conversion.transposes <= 2


def perturb(model, initializer_size, change):
    """Change the first weights of the given size in an ONNX model."""
    proto = onnx.load_model_from_string(model)
    tensor = next(t for t in proto.graph.initializer if np.prod(t.dims) == initializer_size)
    values = onnx.numpy_helper.to_array(tensor) + np.float32(change)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return proto.SerializeToString()


def test_a_broken_conversion_is_refused_and_writes_nothing(trained, monkeypatch, tmp_path):
    convert = exporting.convert

    def convert_wrongly(model, spec, gate):
        right = convert(model, spec, gate)
        return Converted(perturb(right.model, 7500 * 75, 1e-3), right.transposes, right.outputs)

    monkeypatch.setattr(exporting, "convert", convert_wrongly)
    with pytest.raises(ParityMismatch, match="differ from Keras'"):
        export(trained.request.out, tmp_path, "broken", "1", report=ignore)
    assert list(tmp_path.iterdir()) == []


def test_the_card_tells_outputs_and_conversion(exported):
    card = exported.bundle.card
    assert [(output.name, output.shape) for output in card.outputs] == [("scores", (1,)), ("embedding", (75,))]
    assert card.precision == "float32"
    assert card.conversion.scans == 8
    assert card.conversion.parity <= 1e-5
    assert card.conversion.decisions_changed == 0
    assert card.conversion.auc == card.conversion.source_auc


def test_a_worker_asks_for_the_scores_and_gets_nothing_else(exported):
    scorer = Scorer(exported.bundle, Device.CPU, 1)
    session, asked = scorer._session, []

    class Listening:
        def run(self, names, feeds):
            values = session.run(names, feeds)
            asked.append((names, [value.shape for value in values]))
            return values

    scorer._session = Listening()
    assert scorer.score_batch(exported.bundle.parity_inputs).shape == (8, 1)
    assert asked == [(["scores"], [(8, 1)])]


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.INT8])
def test_another_precision_is_a_bundle_of_its_own_that_a_worker_serves(trained, tmp_path, precision):
    exported = export(trained.request.out, tmp_path, "tiny", "1", precision=precision, report=ignore)
    assert exported.folder == tmp_path / f"tiny-{precision}" / "1"
    card = exported.bundle.card
    assert (card.name, card.precision) == (f"tiny-{precision}", precision)
    assert card.parity_tolerance == LIMITS[precision].parity
    assert card.conversion.calibration_scans == (24 if precision is Precision.INT8 else 0)
    assert Scorer(exported.bundle, Device.CPU, 1).parity <= card.parity_tolerance


def test_a_precision_that_changes_decisions_is_refused_and_writes_nothing(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(exporting, "change_precision", lambda model, *_, **__: perturb(model, 75, 10.0))
    with pytest.raises(ExportError, match="decisions on the hold-out change"):
        export(trained.request.out, tmp_path, "tiny", "1", precision=Precision.INT8, report=ignore)
    assert list(tmp_path.iterdir()) == []


def test_int8_is_calibrated_on_training_scans_only(trained, monkeypatch, tmp_path):
    seen = []
    change = exporting.change_precision
    monkeypatch.setattr(
        exporting, "change_precision", lambda *args, **kwargs: (seen.append(args[2]), change(*args, **kwargs))[1]
    )
    export(trained.request.out, tmp_path, "tiny", "1", precision=Precision.INT8, report=ignore)
    with np.load(trained.request.out / "prepared.npz") as arrays:
        hold_out = {scan.tobytes() for scan in arrays["inputs"]}
    assert not hold_out & {scan.tobytes() for scan in seen[0]}
    assert len(seen[0]) == 24


def test_a_training_folder_without_targets_is_refused_with_the_remedy(trained, tmp_path):
    folder = shutil.copytree(trained.request.out, tmp_path / "old")
    with np.load(folder / "prepared.npz") as arrays:
        np.savez_compressed(folder / "prepared.npz", inputs=arrays["inputs"])
    record = json.loads((folder / "training.json").read_text())
    record["sha256"]["prepared.npz"] = hashlib.sha256((folder / "prepared.npz").read_bytes()).hexdigest()
    (folder / "training.json").write_text(json.dumps(record))
    with pytest.raises(ExportError, match="repeat `nightread train --resume` on it, which trains nothing again"):
        export(folder, tmp_path / "models", "tiny", "1", precision=Precision.INT8, report=ignore)
    assert export(folder, tmp_path / "models", "tiny", "1", report=ignore).conversion.auc == {}


def test_the_hold_out_is_read_from_its_files_again(trained, tmp_path):
    exported = export(trained.request.out, tmp_path, "tiny", "1", data=trained.request.data, report=ignore)
    assert exported.conversion.files == 8
    with pytest.raises(ExportError, match="none of the hold-out's files"):
        export(trained.request.out, tmp_path, "tiny", "2", data=tmp_path, report=ignore)


def test_a_model_that_the_runtime_cannot_open_is_refused():
    with pytest.raises(ParityMismatch, match="ONNX Runtime cannot open the converted model"):
        open_converted(b"no model")


def test_a_bundle_is_never_written_over(trained, exported):
    with pytest.raises(CardMismatch, match="name another --version"):
        export(trained.request.out, exported.folder.parent.parent, "tiny", "1", report=ignore)


def test_a_name_that_no_bundle_may_have_is_refused(trained, tmp_path):
    with pytest.raises(CardMismatch, match="name"):
        export(trained.request.out, tmp_path, "Tiny Model", "1", report=ignore)


def test_a_checkpoint_that_keras_cannot_open_is_refused_in_one_line(trained, tmp_path):
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
    app.command()(train_module.train)
    app.command()(export_module.export)
    out = str(tmp_path / "training")
    arguments = ["--data", str(base_request.data), "--out", out, "--epochs", "1", "--shares", "60/20/20", "--json"]
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


def test_the_card_tells_how_scores_depend_on_the_file(trained, tmp_path, capsys):
    export_module.export(
        trained.request.out,
        "tiny",
        "1",
        data=trained.request.data,
        full_resolution=trained.request.data,
        out=tmp_path,
    )
    told = load_bundle(tmp_path / "tiny" / "1").card.same_pixels
    assert told["DICOM copy, MONOCHROME1, 16 bit"].scans == 40
    assert told["file of the data set, 90 x 80"].largest_difference == 0
    assert "file of the data set, 90 x 80: scores of 40 scans differ by 0 (median)" in capsys.readouterr().out
