"""The report of a training, its charts, and equal figures from Keras and ONNX Runtime."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from cli.main import app
from exporter.export import export
from trainer.data.dataset import Task
from trainer.evaluation import plots
from trainer.evaluation.metrics import PartScores
from trainer.evaluation.metrics import evaluate as evaluate_part
from trainer.evaluation.plots import draw_calibration, draw_confusion, draw_curves
from trainer.evaluation.report import ReportFacts, ReportPart, write_report
from trainer.train import train

# Keras 3 on NumPy 2 warns about its own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

HOSTILE = '<script>alert("x")</script> & \u202e"'


def ignore(*_):
    pass


def make_part(task, classes, count=60, absent=()):
    rng = np.random.default_rng(2)
    targets = rng.integers(0, classes, count)
    targets[np.isin(targets, absent)] = 0
    scores = rng.dirichlet(np.ones(classes), count)
    return PartScores(task, targets, scores, np.arange(count), ("",) * count, 0.5 if classes == 2 else None)


def test_the_page_needs_nothing_else_and_shows_every_picture(trained):
    folder = trained.request.out
    page = (folder / "report.html").read_text()
    pictures = sorted(path.stem for path in (folder / "plots").glob("*.svg"))
    assert {"calibration", "confusion", "curves", "history"} <= set(pictures)
    for name in pictures:
        drawn = ET.parse(folder / f"plots/{name}.svg").getroot()
        assert min(float(drawn.get(side).removesuffix("pt")) for side in ("width", "height")) > 150
    assert page.count("<svg") == len(pictures)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "<script" not in page
    for said in (
        "validation",
        "CC BY 4.0",
        "95 % interval",
        "What these figures do not say",
        "hold-out",
        "IM-9999-0001.png",
    ):
        assert said.lower() in page.lower()


def test_names_from_data_do_not_become_markup(trained, tmp_path):
    task = Task(("a", HOSTILE[:60]), "softmax")
    part = make_part(task, 2, absent=())
    part = replace(part, threshold=None)
    card = json.loads((trained.request.out / "card.json").read_text())
    facts = ReportFacts(
        HOSTILE, card, {"evaluation": ReportPart(part, evaluate_part(part, majority=0, seed=1))}, notes=[HOSTILE]
    )
    page = write_report(tmp_path, facts).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.filterwarnings("error")
def test_eighteen_labels_of_which_some_do_not_occur_are_drawn():
    task = Task(tuple(f"finding number {number}" for number in range(18)), "softmax")
    part = make_part(task, 18, absent=(3, 7))
    evaluation = evaluate_part(part, majority=0, seed=1, resamples=50)
    for svg in (
        draw_confusion({"a": evaluation, "b": evaluation}, task.classes),
        draw_curves(part, evaluation),
        draw_calibration({"a": (part, evaluation), "b": (part, evaluation)}),
    ):
        assert ET.fromstring(svg).tag.endswith("svg")


@pytest.mark.filterwarnings("error")
def test_a_part_of_one_label_is_drawn():
    part = make_part(Task(("pneumonia",), "sigmoid"), 2)
    part = replace(part, targets=np.ones_like(part.targets))
    evaluation = evaluate_part(part, majority=1, seed=1, resamples=50)
    assert draw_curves(part, evaluation)
    assert draw_calibration({"a": (part, evaluation)})


def test_curves_run_through_their_corners(monkeypatch):
    targets = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.6, 0.4, 0.7, 0.8, 0.9, 0.9])
    part = PartScores(
        Task(("pneumonia",), "sigmoid"), targets, np.stack([1 - scores, scores], 1), np.arange(8), ("",) * 8, 0.5
    )
    drawn = []
    monkeypatch.setattr(plots, "_render", drawn.append)
    draw_curves(part, evaluate_part(part, majority=1, seed=1, resamples=50))
    left, right = (axes.lines[0].get_xydata().T for axes in drawn[0].axes)
    false, true = left
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert float(((true[1:] + true[:-1]) / 2 * np.diff(false)).sum()) == pytest.approx(14 / 15)
    recall, precision = right
    assert (recall[0], precision[0], precision[-1]) == (1, 5 / 8, 1)
    assert recall[-1] == pytest.approx(2 / 5)  # two scans share the highest score


def test_the_same_figures_give_the_same_bytes():
    part = make_part(Task(("pneumonia",), "sigmoid"), 2)
    evaluation = evaluate_part(part, majority=1, seed=1, resamples=50)
    assert draw_curves(part, evaluation) == draw_curves(part, evaluation)


def test_a_finished_training_is_evaluated_again_without_fitting(trained, tmp_path):
    import shutil

    folder = shutil.copytree(trained.request.out, tmp_path / "again")
    (folder / "report.html").unlink()
    told = []
    train(replace(trained.request, out=folder, resume=True), report=told.append)
    assert not [progress for progress in told if progress.stage == "fit"]
    assert (folder / "report.html").read_text() == (trained.request.out / "report.html").read_text()
    assert (folder / "card.json").read_text() == (trained.request.out / "card.json").read_text()


def test_keras_and_onnx_runtime_give_the_same_figures(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("NIGHTREAD_DEVICE", "cpu")
    export(trained.request.out, tmp_path / "models", "tiny", "1", report=ignore)

    def tell(network, *more):
        arguments = ["evaluate", str(network), "--data", str(trained.request.data), "--json", *more]
        return json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)

    keras, onnx = tell(trained.request.out), tell(tmp_path / "models/tiny/1", "--out", str(tmp_path / "report"))
    assert keras["scans"] == onnx["scans"] == 40
    assert keras["confusion"] == onnx["confusion"]
    for name, metric in keras["figures"].items():
        assert metric["value"] == pytest.approx(onnx["figures"][name]["value"], abs=1e-4)
    assert "evaluation: 40 scans of 40 patients" in (tmp_path / "report/report.html").read_text().lower()


def test_labels_that_cannot_be_split_and_scans_that_are_missing_are_in_the_report(tmp_path):
    """A covid training on drawn scans, through the command line: rare labels, missing and unreadable scans."""
    data = tmp_path / "covid"
    (data / "images").mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = ["patientid,finding,filename,modality"]
    for number in range(24):
        finding = ("COVID-19", "SARS")[number % 2]
        rows.append(f"{number},{finding},{number}.png,X-ray")
        pixels = np.clip(rng.normal(60 + 100 * (number % 2), 20, (64, 64)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(data / f"images/{number}.png")
    rows += ["90,Lipoid,90.png,X-ray", "91,SARS,gone.png,X-ray", "92,SARS,92.png,X-ray", "93,todo,0.png,X-ray"]
    Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(data / "images/90.png")
    (data / "images/92.png").write_bytes(b"damaged")
    (data / "metadata.csv").write_bytes("\n".join(rows).encode("gb18030"))
    out = tmp_path / "training"
    result = CliRunner().invoke(
        app,
        ["train", "covid", "--data", str(data), "--normals", "0", "--epochs", "1", "--batch-size", "8",
         "--shares", "50/25/25", "--augment", "article", "--class-weights", "--out", str(out)],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads((out / "training.json").read_text())
    assert record["too_few_patients"] == {"Lipoid": 1}
    assert record["missing"] == ["gone.png"]
    assert record["unreadable"] == {"92.png": "not-an-image"}
    assert record["left_alone"] == {"no-finding-told": 1}
    card = json.loads((out / "card.json").read_text())
    assert (card["labels"], card["activation"], card["thresholds"]) == (["COVID-19", "SARS"], "softmax", {})
    page = (out / "report.html").read_text()
    for said in ("left out: Lipoid", "gone.png", "92.png (not-an-image)", "1 no-finding-told"):
        assert said in page
    # Many labels go all the way: into a bundle that decides by the highest score.
    exported = export(out, tmp_path / "models", "two", "1", report=ignore)
    assert exported.bundle.card.labels == ("COVID-19", "SARS")
