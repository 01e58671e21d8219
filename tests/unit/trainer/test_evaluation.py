import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainer.evaluation import choose_threshold, compute_auc, compute_metrics, evaluate

TARGETS = np.array([0, 0, 0, 1, 1, 1, 1, 1], bool)
SCORES = np.array([0.1, 0.2, 0.6, 0.4, 0.7, 0.8, 0.9, 0.9])


def draw(patients, scans_each, seed=0):
    """Draw scans whose scores depend on the patient alone."""
    rng = np.random.default_rng(seed)
    targets = rng.random(patients) < 0.7
    scores = np.clip(rng.normal(0.4 + 0.2 * targets, 0.2), 0, 1)
    return tuple(np.repeat(array, scans_each) for array in (targets, scores, np.arange(patients)))


def count_pairs(targets, scores):
    differences = scores[targets][:, np.newaxis] - scores[~targets]
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


@given(arrays(bool, 20), arrays(np.int64, 20, elements=st.integers(0, 5)))
def test_auc_is_the_share_of_pairs_in_order(targets, levels):
    scores = levels / 5
    if targets.all() or not targets.any():
        assert np.isnan(compute_auc(targets, scores))
    else:
        assert compute_auc(targets, scores) == pytest.approx(count_pairs(targets, scores))


@given(arrays(np.int64, len(TARGETS), elements=st.integers(1, 3)))
def test_a_weight_counts_like_a_repetition(times):
    weighted = compute_metrics(TARGETS, SCORES, 0.5, majority=True, weights=times.astype(float))
    repeated = compute_metrics(np.repeat(TARGETS, times), np.repeat(SCORES, times), 0.5, majority=True)
    assert weighted == pytest.approx(repeated)


def test_figures_of_a_small_example():
    assert compute_metrics(TARGETS, SCORES, 0.5, majority=True) == pytest.approx(
        {
            "auc": 14 / 15,
            "accuracy": 6 / 8,
            "balanced_accuracy": (4 / 5 + 2 / 3) / 2,
            "sensitivity": 4 / 5,
            "specificity": 2 / 3,
            "majority_baseline_accuracy": 5 / 8,
        }
    )


def test_a_score_at_the_threshold_is_positive():
    assert compute_metrics(TARGETS, SCORES, 0.6, majority=True)["specificity"] == pytest.approx(2 / 3)


def test_the_threshold_has_the_best_balanced_accuracy():
    assert choose_threshold(TARGETS, SCORES) == pytest.approx(0.65)


def test_of_equally_good_thresholds_the_one_nearest_to_half_is_taken():
    assert choose_threshold(np.array([False, True, False, True]), np.array([0.0, 1.0, 0.0, 1.0])) == 0.5


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_threshold_is_one_that_a_card_can_hold(score):
    assert 0 < choose_threshold(np.array([True, False]), np.array([score, score])) < 1


def test_intervals_hold_the_figure_and_are_the_same_for_the_same_seed():
    targets, scores, groups = draw(200, 1)
    first = evaluate(targets, scores, groups, 0.5, majority=True, seed=3, resamples=200)
    assert all(metric.low <= metric.value <= metric.high for metric in first.values())
    assert first == evaluate(targets, scores, groups, 0.5, majority=True, seed=3, resamples=200)
    assert first != evaluate(targets, scores, groups, 0.5, majority=True, seed=4, resamples=200)


def test_scans_of_one_patient_do_not_narrow_an_interval():
    def width(targets, scores, groups):
        metric = evaluate(targets, scores, groups, 0.5, majority=True, seed=3, resamples=400)["auc"]
        return metric.high - metric.low

    assert width(*draw(100, 10)) == pytest.approx(width(*draw(100, 1)))
    targets, scores, _ = draw(100, 10)
    assert width(targets, scores, np.arange(1000)) < width(*draw(100, 1)) / 2


def test_draws_with_one_label_only_are_left_out():
    metrics = evaluate(
        np.array([True, False]), np.array([0.9, 0.1]), np.arange(2), 0.5, majority=True, seed=0, resamples=50
    )
    assert metrics["auc"].low == metrics["auc"].high == 1.0
