"""`evaluate` with the bundle that ships, in the default installation."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from nightread.errors import NightreadError


def draw_scan(path, mean, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).normal(mean, 40, (90, 100)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(autouse=True)
def _own_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NIGHTREAD_DEVICE", "cpu")


@pytest.fixture
def labelled(tmp_path):
    """Six normal and six pneumonia scans of six patients, and a file that is damaged."""
    folder = tmp_path / "test"
    for number in range(6):
        draw_scan(folder / f"NORMAL/IM-{number:04d}-0001.png", 60 + 5 * number, number)
        draw_scan(folder / f"PNEUMONIA/person{number % 3}_virus_{number}.png", 150 + 5 * number, number + 10)
    (folder / "NORMAL/IM-0099-0001.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return folder


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_a_bundle_is_evaluated_on_a_folder_of_two_labels(labelled):
    told = json.loads(invoke("evaluate", "pneumonia-cnn75", "--data", labelled, "--json").stdout)
    assert (told["scans"], told["patients"], told["unreadable"]) == (12, 9, 1)
    assert np.sum(told["confusion"]) == 12
    assert [told["labels"][label]["support"] for label in ("normal", "pneumonia")] == [6, 6]
    assert told["subgroups"]["viral"]["scans"] == 6
    assert told["figures"]["majority_baseline_accuracy"]["value"] == 0.5
    assert 0 < told["threshold"] < 1
    shown = invoke("evaluate", "pneumonia-cnn75@1", "--data", labelled).stdout
    assert "balanced accuracy" in shown
    assert "unreadable: 1 scans" in shown


def test_the_figures_are_those_of_the_single_predictions(labelled):
    told = json.loads(invoke("evaluate", "pneumonia-cnn75", "--data", labelled, "--json").stdout)
    files = sorted((labelled / "PNEUMONIA").iterdir())
    rows = json.loads(invoke("predict", *files, "--json").stdout)
    called = sum(row["labels"]["pneumonia"]["decision"] == "pneumonia" for row in rows)
    assert told["confusion"][1] == [6 - called, called]


def write_labels(labelled):
    """Write the labels of `labelled` as a file, in another case, with one scan more than a run will have."""
    names = sorted(path for path in labelled.rglob("*.png"))
    lines = [f"{path},{path.parent.name.title()},{path.stem.partition('_')[0]}" for path in names]
    table = labelled.parent / "labels.csv"
    table.write_text("\n".join(["path,label,patient", *lines, f"{labelled}/gone.png,normal,x"]) + "\n")
    return table


def test_own_labels_judge_a_network_and_a_past_run_alike(labelled):
    table = write_labels(labelled)
    network = json.loads(invoke("evaluate", "pneumonia-cnn75", "--labels", table, "--json").stdout)
    assert (network["scans"], network["patients"], network["unreadable"], network["missing"]) == (12, 9, 1, 1)
    invoke("score", labelled, "--name", "ward", "--model", "pneumonia-cnn75", "--no-gate")
    past = json.loads(invoke("evaluate", "ward", "--labels", table, "--json").stdout)
    assert past["confusion"] == network["confusion"]
    assert past["figures"]["auc"] == pytest.approx(network["figures"]["auc"])
    assert past["left_alone"] == {"rejected in the run": 1, "not in the run": 1}


def test_labels_and_data_exclude_each_other_and_an_unknown_run_is_told(labelled):
    table = write_labels(labelled)
    assert invoke("evaluate", "pneumonia-cnn75").exit_code == 2
    assert invoke("evaluate", "pneumonia-cnn75", "--labels", table, "--data", labelled).exit_code == 2
    with pytest.raises(NightreadError, match=r"there is no run 'ward'.* nor is there a model bundle"):
        invoke("evaluate", "ward", "--labels", table)


@pytest.mark.parametrize(
    ("network", "message"),
    [("adult-model", "there is no model bundle adult-model"), ("./nothing/here", "there is no model bundle")],
)
def test_an_unknown_network_is_told(labelled, network, message):
    with pytest.raises(NightreadError, match=message):
        invoke("evaluate", network, "--data", labelled)


def test_labels_that_the_network_does_not_know_are_told(tmp_path):
    folder = tmp_path / "covid"
    for number, finding in enumerate(("SARS", "COVID-19")):
        draw_scan(folder / f"images/{number}.png", 100, number)
        with (folder / "metadata.csv").open("a") as table:
            table.write("finding,filename,modality\n" * (number == 0) + f"{finding},{number}.png,X-ray\n")
    with pytest.raises(NightreadError, match="has the labels COVID-19, SARS; the network has normal, pneumonia"):
        invoke("evaluate", "pneumonia-cnn75", "--dataset", "covid", "--data", folder, "--normals", "0")


def test_a_training_folder_without_the_extra_names_the_remedy(tmp_path, labelled, monkeypatch):
    (tmp_path / "checkpoint.keras").write_bytes(b"keras")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NightreadError, match="uv sync --extra train"):
        invoke("evaluate", tmp_path, "--data", labelled)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_help_ends_in_an_example(command):
    assert f"Example: nightread {command}" in " ".join(invoke(command, "--help").stdout.split())
