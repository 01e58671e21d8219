"""The trainings and exports of the pages, each with two epochs on drawn scans."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from cli.main import app

# Keras 3 on NumPy 2 warns about its own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

#: What the pages leave to the published settings, and would take hours.
SHORT = ["--epochs", "2", "--batch-size", "8"]


@pytest.fixture
def home(base_request, tmp_path, monkeypatch):
    """A folder with all that the pages name: data sets, full-size scans, labels."""
    for name in ("chest_xray", "nightly"):
        (tmp_path / name).symlink_to(base_request.data)
    shutil.copytree(base_request.data, tmp_path / "next-hospital")
    rng = np.random.default_rng(1)
    for file in (tmp_path / "next-hospital").rglob("*.png"):
        Image.fromarray(rng.integers(0, 256, (80, 90), np.uint8)).save(file)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient"])
        for label, folder in (("normal", "NORMAL"), ("effusion", "PNEUMONIA")):
            for number, path in enumerate(sorted((base_request.data / folder).glob("*.png"))):
                writer.writerow([path, label, f"{label}-{number}"])
    write_covid(tmp_path / "covid-chestxray", base_request.data)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write_covid(folder, scans):
    (folder / "images").mkdir(parents=True)
    rows = ["patientid,finding,filename,modality"]
    healthy = ["X_ray_image_name,Label"]
    for number, path in enumerate(sorted(scans.rglob("*.png"))):
        if path.parent.name == "NORMAL":
            (folder / path.name).write_bytes(path.read_bytes())
            healthy.append(f"{path.name},Normal")
        else:
            (folder / "images" / f"{number}.png").write_bytes(path.read_bytes())
            rows.append(f"{number},{('COVID-19', 'SARS')[number % 2]},{number}.png,X-ray")
    (folder / "metadata.csv").write_text("\n".join(rows))
    (folder / "Chest_xray_Corona_Metadata.csv").write_text("\n".join(healthy))


def run_lines(lines, home, monkeypatch):
    for line in lines:
        monkeypatch.setenv("NIGHTREAD_MODELS_DIR", str(home / "models" / line.page))
        words = [word.replace("~", str(home)) for word in line.words]
        if words[0] == "train":
            shutil.rmtree(home / words[words.index("--out") + 1], ignore_errors=True)
            words += SHORT
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, f"{words}\n{done.output}"


@pytest.mark.timeout(600)
def test_trainings_and_exports_run(page_lines, home, monkeypatch):
    run_lines(page_lines, home, monkeypatch)
    for page, bundle in (("README.md", "pneumonia-cnn75/2"), ("docs/exporting.md", "pneumonia-cnn75-int8/2")):
        assert (home / "models" / page / bundle / "card.json").is_file()


@pytest.mark.timeout(1200)
def test_larger_networks_train_and_export(page_lines, home, monkeypatch, is_long):
    if not is_long:
        pytest.skip("takes minutes: --long")
    run_lines(page_lines, home, monkeypatch)
    assert (home / "build/bundles/pneumonia-lite0/5/card.json").is_file()
