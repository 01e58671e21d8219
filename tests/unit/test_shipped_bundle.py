"""The shipped bundle; its scores with ONNX Runtime are checked in the tests of the worker."""

from nightread.model.bundle import DEFAULT_MODEL, SHIPPED_DIR, find_bundle, load_bundle

BUNDLE = load_bundle(find_bundle("", SHIPPED_DIR))


def test_it_is_whole_and_is_the_default():
    assert BUNDLE.card.reference == DEFAULT_MODEL


def test_its_card_tells_hold_out_figures_with_intervals():
    metrics = BUNDLE.card.metrics["hold-out"]
    assert {"auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity"} <= set(metrics)
    assert all(metric.low <= metric.value <= metric.high for metric in metrics.values())


def test_it_beats_the_majority_baseline():
    metrics = BUNDLE.card.metrics["hold-out"]
    assert metrics["accuracy"].low > metrics["majority_baseline_accuracy"].high


def test_its_card_tells_what_it_is_not_for():
    card = BUNDLE.card
    assert "no diagnosis" in card.intended_use
    assert any("official test part" in limitation for limitation in card.limitations)
    assert card.calibration.startswith("Calibrated: ")
    assert card.training.license == "CC BY 4.0"
    assert "10.17632/rscbjbr9sj" in card.training.attribution


def test_its_parity_scans_take_every_decision():
    decisions = {BUNDLE.card.decide((float(score),))[0] for score in BUNDLE.parity_scores[:, 0]}
    assert decisions >= {"pneumonia", "normal"}


def test_it_keeps_what_it_was_made_for():
    hold_out = BUNDLE.card.metrics["hold-out"]
    assert hold_out["auc"].value >= 0.985
    assert hold_out["balanced_accuracy_decided"].value >= 0.97
    assert hold_out["ece"].value <= 0.03
    assert BUNDLE.card.gate.false_rejection.value <= 0.01


def test_its_decisions_carry_over_to_other_children_of_another_period():
    """The visible half of the official test part: thresholds were chosen there, no weight was fitted on it."""
    visible = BUNDLE.card.metrics["next-hospital"]
    assert visible["auc"].value >= 0.985
    assert visible["balanced_accuracy_decided"].value >= 0.94
    assert visible["uncertain_share"].value <= 0.12
    assert visible["ece"].value <= 0.05
    assert "not figures of an unseen site" in BUNDLE.card.calibration
    assert any("0.54" in limitation for limitation in BUNDLE.card.limitations)


def test_all_bundles_together_are_small_enough_to_travel():
    assert sum(file.stat().st_size for file in SHIPPED_DIR.rglob("*") if file.is_file()) <= 20e6
