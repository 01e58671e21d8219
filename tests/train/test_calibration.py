import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from nightread.model.card import Card
from trainer.errors import DatasetError, TrainingError
from trainer.evaluation.calibration import fit_scaling
from trainer.fit.hyperparameters import Monitor, Optimizer, Schedule
from trainer.train import train

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def ignore(progress):
    pass


def squash(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 0.8), (2.0, -1.0), (1.0, 0.0)])
def test_the_scaling_that_scores_need_is_found(slope, intercept):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, 40_000)
    targets = (rng.random(40_000) < squash(slope * logits + intercept)).astype(np.int64)
    found = fit_scaling(targets, squash(logits))
    assert found.slope == pytest.approx(slope, rel=0.05)
    assert found.intercept == pytest.approx(intercept, abs=0.05)


def test_scans_that_are_told_apart_without_a_fault_have_a_finite_slope():
    found = fit_scaling(np.array([0] * 20 + [1] * 20), np.array([0.1] * 20 + [0.9] * 20))
    assert 0 < found.slope < 10
    edge = fit_scaling(np.array([0] * 20 + [1] * 20), np.array([0.0] * 20 + [1.0] * 20))
    assert np.isfinite([edge.slope, edge.intercept]).all()


def test_scores_that_fall_with_the_label_are_refused():
    with pytest.raises(TrainingError, match="do not rise with the label"):
        fit_scaling(np.array([0, 1] * 20), np.array([0.9, 0.1] * 20))


@pytest.fixture(scope="module")
def calibrated(base_request, tmp_path_factory):
    settings = replace(
        base_request.settings,
        epochs=3,
        optimizer=Optimizer.ADAM,
        learning_rate=0.001,
        schedule=Schedule.COSINE,
        monitor=Monitor.LAST,
        balanced=True,
        calibrate=True,
    )
    request = replace(base_request, settings=settings, out=tmp_path_factory.mktemp("calibrated") / "training")
    return request, train(request, report=ignore)


def test_the_checkpoint_gives_scaled_scores_in_the_same_order(calibrated):
    import keras

    request, (_, card) = calibrated
    before, after = (
        keras.models.load_model(request.out / name, compile=False)
        for name in ("uncalibrated.keras", "checkpoint.keras")
    )
    with np.load(request.out / "prepared.npz") as arrays:
        inputs = arrays["inputs"]
    plain, scaled = (np.asarray(model(inputs, training=False))[:, 0].astype(float) for model in (before, after))
    logits = np.log(plain / (1 - plain))
    assert np.allclose(scaled, squash(card["scaling"]["slope"] * logits + card["scaling"]["intercept"]), atol=1e-3)


def test_the_card_tells_the_scaling_the_points_and_the_band(calibrated):
    request, (record, card) = calibrated
    assert record.best_epoch == 3
    points = card["operating_points"]["pneumonia"]
    assert list(points) == ["high-sensitivity", "balanced", "high-specificity"]
    assert card["thresholds"]["pneumonia"] == {
        "low": points["high-sensitivity"]["threshold"],
        "high": points["high-specificity"]["threshold"],
    }
    assert card["scaling"]["scans"] == record.scans["validation"]
    assert card["calibration"].startswith("Calibrated: ")
    zeros = "0" * 64
    Card.model_validate(
        {
            **json.loads((request.out / "card.json").read_text()),
            "digest": zeros, "name": "mine", "version": "1", "created_at": "2026-01-01T00:00:00Z",
            "parity_tolerance": 1e-5, "files": {"model.onnx": zeros, "parity.npz": zeros},
        }
    )  # fmt: skip


def test_a_finished_training_is_calibrated_again_from_what_was_fitted(calibrated, tmp_path):
    request, (_, card) = calibrated
    shutil.copytree(request.out, tmp_path / "again")
    _, again = train(replace(request, out=tmp_path / "again", resume=True), report=ignore)
    assert again["scaling"] == card["scaling"]


def test_a_schedule_ends_with_its_epochs_so_they_cannot_be_changed(calibrated, tmp_path):
    request, _ = calibrated
    settings = replace(request.settings, epochs=4)
    with pytest.raises(TrainingError, match="other epochs"):
        train(replace(request, settings=settings, resume=True), report=ignore)


@pytest.fixture(scope="module")
def with_site(base_request, calibrated, tmp_path_factory):
    """The same training, calibrated on the scans of another site too, one of which it knows."""
    folder = tmp_path_factory.mktemp("site") / "next-hospital"
    rng = np.random.default_rng(11)
    for label, mean, name in (("NORMAL", 90, "IM-{:04d}-0001.png"), ("PNEUMONIA", 170, "person{}_virus_1.png")):
        (folder / label).mkdir(parents=True)
        for patient in range(10):
            pixels = np.clip(rng.normal(mean, 40, (80, 90)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / name.format(patient))
    known = base_request.data / "NORMAL" / "IM-0000-0001.png"
    (folder / "NORMAL" / "IM-0500-0001.png").write_bytes(known.read_bytes())
    request, _ = calibrated
    out = tmp_path_factory.mktemp("with-site") / "training"
    shutil.copytree(request.out, out)
    return train(replace(request, out=out, resume=True, calibration_set=folder), report=ignore)


def test_another_site_has_its_say_in_the_calibration_and_its_own_figures(calibrated, with_site):
    (_, (_, alone)), (record, card) = calibrated, with_site
    assert record.scans["next-hospital"] == 20  # without the one that was trained on
    assert card["scaling"]["scans"] == record.scans["validation"] + 20
    assert card["scaling"] != alone["scaling"]
    assert list(card["metrics"]) == ["validation", "next-hospital", "hold-out"]
    assert "uncertain_share" in card["metrics"]["next-hospital"]
    assert f"{record.scans['validation']} scans of validation" in card["calibration"]
    assert "20 scans of next-hospital (" in card["calibration"]
    assert card["scaling"]["patients"] == record.patients["validation"] + 20
    assert "not figures of an unseen site" in card["calibration"]


def test_without_another_site_the_card_says_so(calibrated):
    _, (_, card) = calibrated
    assert "chosen on the validation part alone" in card["calibration"]


def test_a_site_without_one_of_the_labels_is_refused(calibrated, tmp_path):
    request, _ = calibrated
    (tmp_path / "NORMAL").mkdir()
    (tmp_path / "PNEUMONIA").mkdir()
    Image.fromarray(np.tile(np.arange(80, dtype=np.uint8), (80, 1))).save(tmp_path / "NORMAL" / "IM-0001-0001.png")
    with pytest.raises(DatasetError, match="pneumonia"):
        train(replace(request, resume=True, calibration_set=tmp_path), report=ignore)
