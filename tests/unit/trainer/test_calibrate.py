"""A bundle for one site: which scans are taken, what the new bundle holds, and what is refused."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nightread.errors import CardMismatch
from nightread.model.bundle import load_bundle
from tests.factories import make_metric, make_operating_points
from tests.onnx_factories import write_tiny_bundle
from trainer.calibrate import calibrate_bundle, cross_validate, open_bundle, shift_bundle
from trainer.data.dataset import Task
from trainer.errors import DatasetError, TrainingError
from trainer.evaluation.calibration import to_logits
from trainer.evaluation.site_scores import SiteScores, list_site, score_site

TASK = Task(("pneumonia",), "sigmoid")


def ignore(done, total):
    pass


def draw_site(count=200, slope=2.0, offset=1.5, seed=1):
    """Scores of a network whose logits are too high by `offset` and too flat by `slope` at this site."""
    rng = np.random.default_rng(seed)
    targets = (np.arange(count) % 3 > 0).astype(np.int64)
    logits = rng.normal(2.5 * (targets - 0.5), 1.0) / slope + offset
    return SiteScores(targets, 1 / (1 + np.exp(-logits)), np.arange(count) // 2)


def write_scans(folder, counts, *, seed=0):
    """Write scans that are brighter with pneumonia, in a folder for each label."""
    rng = np.random.default_rng(seed)
    for label, count, mean in (("NORMAL", counts[0], 110), ("PNEUMONIA", counts[1], 150)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.clip(rng.normal(mean + rng.normal(0, 10), 30, (40, 48)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture
def bundle(tmp_path):
    reference = {
        "scans": 10,
        "rejected_share": 0.0,
        "quantiles": {"score": np.linspace(0.5, 0.9, 101).tolist(), "distance": [1.0] * 101},
    }
    return write_tiny_bundle(
        tmp_path / "models",
        operating_points={"pneumonia": make_operating_points()},
        metrics={"hold-out": {"auc": make_metric(0.9), "ece": make_metric(0.1)}},
        scaling={
            "slope": 1.0, "intercept": 0.0, "scans": 10, "patients": 10,
            "ece_before": make_metric(0.1), "ece_after": make_metric(0.1),
        },
        drift_reference=reference,
    )  # fmt: skip


def test_folders_and_tables_list_the_same_scans(tmp_path, bundle):
    folder = write_scans(tmp_path / "site", (3, 4))
    from_folders = list_site(folder, bundle.card)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient"])
        writer.writerows(
            (scan.path.relative_to(folder), scan.label.upper(), f"p{place}") for place, scan in enumerate(from_folders)
        )
    from_table = list_site(folder / "labels.csv", bundle.card)
    assert [(scan.path, scan.label) for scan in from_table] == [(scan.path, scan.label) for scan in from_folders]
    assert [scan.label for scan in from_table].count("pneumonia") == 4
    assert from_table[2].patient == "p2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na.png,normal\n", "has no column path; it has: file, label"),
        ("path,label\na.png,healthy\n", r"row 1: the label is 'healthy'; the model knows pneumonia and normal"),
        ("path,label\n", "holds no labelled scans"),
    ],
)
def test_a_table_that_names_no_labels_is_refused(tmp_path, bundle, content, message):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(DatasetError, match=message):
        list_site(tmp_path / "labels.csv", bundle.card)


def test_too_few_scans_are_refused_with_the_number_that_is_needed(tmp_path, bundle):
    folder = write_scans(tmp_path / "site", (8, 24))
    with pytest.raises(DatasetError, match=r"32 labelled scans .*24 pneumonia, 8 normal.* add 18, 7 normal among them"):
        score_site(bundle, list_site(folder, bundle.card), report=ignore)


def test_scans_are_scored_by_the_bundle_and_unreadable_ones_counted(tmp_path, bundle):
    folder = write_scans(tmp_path / "site", (30, 30))
    (folder / "NORMAL" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    site = score_site(bundle, list_site(folder, bundle.card), report=ignore)
    assert (len(site.scores), site.unreadable) == (60, 1)
    assert site.scores[site.targets == 1].mean() > site.scores[site.targets == 0].mean()


def test_a_calibrated_bundle_scores_what_the_scaling_says(tmp_path, bundle):
    site = draw_site()
    new = calibrate_bundle(bundle, site, tmp_path / "models" / "tiny" / "1-site", site_name="ward", version="1-site")
    card = new.card
    assert load_bundle(tmp_path / "models" / "tiny" / "1-site").digest == new.digest
    assert (card.name, card.version) == ("tiny", "1-site")
    assert new.model != bundle.model
    expected = card.scaling.slope * to_logits(bundle.parity_scores[:, 0].astype(float)) + card.scaling.intercept
    assert np.allclose(to_logits(new.parity_scores[:, 0].astype(float)), expected, atol=1e-2)
    assert card.scaling.slope == pytest.approx(5.0, rel=0.35)  # 2.5 for unit deviation, times the flatness
    assert card.scaling.ece_after.value < 0.5 * card.scaling.ece_before.value
    assert card.thresholds["pneumonia"].low == card.operating_points["pneumonia"]["high-sensitivity"].threshold
    assert card.metrics["hold-out"].keys() == {"auc"}
    assert {"auc", "ece", "sensitivity", "specificity", "uncertain_share"} <= card.metrics["ward"].keys()
    assert "200 labelled scans of ward" in card.calibration
    scores = np.array(card.drift_reference.quantiles["score"])
    assert (np.diff(scores) > 0).all()
    assert scores[0] != pytest.approx(0.5, abs=0.01)
    assert card.drift_reference.quantiles["distance"] == bundle.card.drift_reference.quantiles["distance"]


def test_a_known_prevalence_moves_the_probabilities_and_no_decision(tmp_path, bundle):
    site = draw_site()
    plain, rare = (
        calibrate_bundle(
            bundle, site, tmp_path / version, site_name="ward", version=version, prevalence=prevalence
        ).card
        for version, prevalence in (("plain", None), ("rare", 0.1))
    )
    moved = to_logits(np.array([0.1, site.targets.mean()]))
    assert rare.scaling.intercept - plain.scaling.intercept == pytest.approx(moved[0] - moved[1], abs=1e-3)
    for name, point in plain.operating_points["pneumonia"].items():
        assert rare.operating_points["pneumonia"][name].hold_out == point.hold_out


def test_prevalence_alone_shifts_scores_and_thresholds_alike(tmp_path, bundle):
    new = shift_bundle(bundle, tmp_path / "shifted", version="1-rare", prevalence=0.1)
    share = np.mean(bundle.card.drift_reference.quantiles["score"])
    by = np.subtract(*to_logits(np.array([0.1, share])))
    moved = to_logits(new.parity_scores[:, 0].astype(float)) - to_logits(bundle.parity_scores[:, 0].astype(float))
    assert np.allclose(moved, by, atol=1e-3)
    before, after = bundle.card.thresholds["pneumonia"], new.card.thresholds["pneumonia"]
    assert to_logits(np.array([after.low]))[0] == pytest.approx(to_logits(np.array([before.low]))[0] + by, abs=1e-3)
    for old_scores, new_scores in zip(bundle.parity_scores, new.parity_scores, strict=True):
        assert bundle.card.decide(old_scores.tolist()) == new.card.decide(new_scores.tolist())


def test_scores_that_were_never_calibrated_cannot_be_shifted(tmp_path):
    plain = write_tiny_bundle(tmp_path, "2")
    with pytest.raises(TrainingError, match="not calibrated; --prevalence alone needs calibrated ones"):
        shift_bundle(plain, tmp_path / "shifted", version="3", prevalence=0.1)


def test_scores_that_fall_with_the_label_are_refused(tmp_path, bundle):
    site = draw_site()
    with pytest.raises(TrainingError, match="do not rise with the label"):
        calibrate_bundle(bundle, replace(site, scores=1 - site.scores), tmp_path / "new", site_name="ward", version="2")


def test_patients_stay_together_when_figures_are_cross_validated():
    site = draw_site(120)
    part, rates = cross_validate(site, TASK)
    assert part.class_scores.shape == (120, 2)
    assert rates["high-sensitivity"].sensitivity.value > rates["high-specificity"].sensitivity.value
    # A patient's own scans say nothing of its scores: one more scan of it would change those of the others alone.
    again, _ = cross_validate(site, TASK)
    assert np.array_equal(part.class_scores, again.class_scores)


def test_a_network_of_many_labels_is_refused(tmp_path):
    from nightread.model.bundle import write_bundle
    from tests.factories import make_card
    from tests.onnx_factories import make_onnx, score_tiny

    inputs = np.zeros((2, 8, 8, 1), np.float32)
    card = make_card(labels=["a", "b"], activation="softmax", thresholds={})
    write_bundle(
        tmp_path / "many" / "1", model=make_onnx(labels=2), parity_inputs=inputs,
        parity_scores=score_tiny(inputs, labels=2), card={**card, "name": "many"},
    )  # fmt: skip
    with pytest.raises(CardMismatch, match="has 2 labels"):
        open_bundle(tmp_path / "many" / "1")
