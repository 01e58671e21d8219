from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainer.data.dataset import Task
from trainer.evaluation.auc import compute_aucs
from trainer.evaluation.metrics import PartScores, choose_threshold, evaluate, spread_scores

BINARY = Task(("pneumonia",), "sigmoid")
THREE = Task(("a", "b", "c"), "softmax")
TARGETS = np.array([0, 0, 0, 1, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.6, 0.4, 0.7, 0.8, 0.9, 0.9])


def make_part(targets=TARGETS, scores=SCORES, groups=None, threshold=0.5, subgroups=None):
    groups = np.arange(len(targets)) if groups is None else groups
    class_scores = spread_scores(BINARY, np.asarray(scores)[:, None])
    return PartScores(BINARY, np.asarray(targets), class_scores, groups, subgroups or ("",) * len(targets), threshold)


def make_three(targets, decisions, groups=None):
    """Return a part of three labels in which the decided label scores 0.8."""
    class_scores = np.full((len(targets), 3), 0.1)
    class_scores[np.arange(len(targets)), decisions] = 0.8
    groups = np.arange(len(targets)) if groups is None else groups
    return PartScores(THREE, np.asarray(targets), class_scores, groups, ("",) * len(targets), None)


def draw(patients, scans_each, seed=0):
    """Draw scans whose scores depend only on the patient."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(patients) < 0.7).astype(np.int64)
    scores = np.clip(rng.normal(0.4 + 0.2 * targets, 0.2), 0, 1)
    return tuple(np.repeat(array, scans_each) for array in (targets, scores, np.arange(patients)))


def tell(part, **options):
    return evaluate(part, majority=1, seed=3, **options)


@given(arrays(np.int64, 20, elements=st.integers(0, 2)), arrays(np.int64, (20, 3), elements=st.integers(0, 5)))
def test_auc_is_the_share_of_pairs_in_order(targets, levels):
    aucs = compute_aucs(targets, levels / 5, np.ones((1, 20)))[0]
    for place in range(3):
        present = targets == place
        if present.all() or not present.any():
            assert np.isnan(aucs[place])
        else:
            differences = levels[present, place][:, None] - levels[~present, place]
            assert aucs[place] == pytest.approx(float(((differences > 0) + 0.5 * (differences == 0)).mean()))


@given(arrays(np.int64, len(TARGETS), elements=st.integers(1, 3)))
def test_a_weight_counts_like_a_repetition(times):
    class_scores = spread_scores(BINARY, SCORES[:, None])
    weighted = compute_aucs(TARGETS, class_scores, times[None].astype(float))
    repeated = compute_aucs(TARGETS.repeat(times), class_scores.repeat(times, axis=0), np.ones((1, times.sum())))
    assert weighted == pytest.approx(repeated)


def test_figures_of_a_small_example():
    told = tell(make_part())
    values = {name: metric.value for name, metric in told.figures.items()}
    assert values == pytest.approx(
        {
            "auc": 14 / 15,
            "accuracy": 6 / 8,
            "balanced_accuracy": (4 / 5 + 2 / 3) / 2,
            "sensitivity": 4 / 5,
            "specificity": 2 / 3,
            "majority_baseline_accuracy": 5 / 8,
            # By bins of a tenth: |0.1 - 0| + |0.2 - 0| + |0.6 - 0| + |0.4 - 1| + |0.7 - 1| + |0.8 - 1| + 2 |0.9 - 1|
            "ece": (0.1 + 0.2 + 0.6 + 0.6 + 0.3 + 0.2 + 0.2) / 8,
        },
        abs=1e-4,
    )
    assert told.confusion.tolist() == [[2, 1], [1, 4]]
    assert (told.scans, told.patients) == (8, 8)
    pneumonia = told.labels["pneumonia"]
    assert (pneumonia.support, pneumonia.precision.value, pneumonia.recall.value) == (5, 0.8, 0.8)
    assert pneumonia.f1.value == pytest.approx(0.8)
    assert told.labels["normal"].precision.value == pytest.approx(2 / 3, abs=1e-4)


def test_figures_of_three_labels():
    told = tell(make_three([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]))
    assert told.figures["accuracy"].value == pytest.approx(4 / 6, abs=1e-4)
    assert told.figures["balanced_accuracy"].value == pytest.approx((0.5 + 1 + 0.5) / 3, abs=1e-4)
    assert "sensitivity" not in told.figures
    assert told.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert told.labels["b"].precision.value == pytest.approx(2 / 3, abs=1e-4)
    assert told.labels["c"].f1.value == pytest.approx(2 / 3, abs=1e-4)
    assert told.labels["a"].specificity.value == pytest.approx(3 / 4)
    assert told.figures["ece"].value == pytest.approx(abs(0.8 - 4 / 6), abs=1e-4)


@pytest.mark.filterwarnings("error")
def test_a_label_that_does_not_occur_leaves_its_figures_undefined():
    told = tell(make_three([0, 0, 1, 1], [0, 0, 1, 0]))
    absent = told.labels["c"]
    assert (absent.support, absent.recall, absent.precision, absent.f1, absent.auc) == (0, None, None, None, None)
    assert absent.specificity.value == 1
    assert told.figures["balanced_accuracy"].value == pytest.approx(0.75)
    assert all(np.isfinite([metric.value, metric.low, metric.high]).all() for metric in told.figures.values())


def test_a_mean_over_rare_labels_lies_in_its_interval_and_accuracy_keeps_its_width():
    targets = np.array([0] * 90 + [1] * 8 + [2] * 2)
    decisions = np.array([0] * 85 + [1] * 5 + [1] * 4 + [0] * 4 + [0] * 2)
    figures = tell(make_three(targets, decisions)).figures
    assert figures["balanced_accuracy"].low <= figures["balanced_accuracy"].value <= figures["balanced_accuracy"].high
    assert figures["accuracy"].high - figures["accuracy"].low == pytest.approx(
        2 * 1.96 * (0.89 * 0.11 / 100) ** 0.5, rel=0.2
    )


@pytest.mark.filterwarnings("error")
def test_one_scan_alone_is_no_error():
    told = tell(make_part([1], [0.9]))
    assert "auc" not in told.figures
    assert "specificity" not in told.figures
    assert told.figures["sensitivity"].value == 1


def test_all_right_is_not_told_as_certain():
    targets = np.array([1] * 51 + [0] * 20)
    told = tell(make_part(targets, targets * 0.98 + 0.01))
    assert (told.figures["accuracy"].value, told.figures["accuracy"].high) == (1, 1)
    assert told.figures["accuracy"].low == pytest.approx(0.9494, abs=1e-4)  # of 71 scans, as in the article
    assert told.figures["specificity"].low == pytest.approx(0.8316, abs=1e-4)  # of 20
    assert told.figures["balanced_accuracy"].low == pytest.approx((0.8316 + 0.9302) / 2, abs=1e-4)
    wrong = tell(make_part(targets, 1 - targets * 0.98 - 0.01)).figures["accuracy"]
    assert (wrong.value, wrong.low) == (0, 0)
    assert wrong.high == pytest.approx(1 - 0.9494, abs=1e-4)


def test_a_score_at_the_threshold_is_positive():
    assert tell(make_part(threshold=0.6)).figures["specificity"].value == pytest.approx(2 / 3, abs=1e-4)


def test_subgroups_tell_their_share_of_right_decisions():
    told = tell(make_part(subgroups=("", "", "", "viral", "viral", "bacterial", "bacterial", "bacterial")))
    assert {name: (count, metric.value) for name, (count, metric) in told.subgroups.items()} == {
        "viral": (2, 0.5),
        "bacterial": (3, 1.0),
    }
    assert told.subgroups["bacterial"][1].low < 0.5


def test_a_card_tells_a_subgroup_by_what_its_share_of_right_decisions_is():
    subgroups = ("screening", "screening", "mixed", "mixed", "viral", "viral", "viral", "")
    told = tell(make_part(subgroups=subgroups))
    assert told.card_figures["sensitivity (viral)"] == told.subgroups["viral"][1]
    assert {name for name in told.card_figures if "(" in name} == {
        "accuracy (mixed)",
        "sensitivity (viral)",
        "specificity (screening)",
    }
    assert told.card_figures["auc"] == told.figures["auc"]


def test_the_threshold_has_the_best_balanced_accuracy():
    assert choose_threshold(TARGETS, SCORES) == pytest.approx(0.65)


@given(arrays(np.int64, 30, elements=st.integers(0, 1)), arrays(np.int64, 30, elements=st.integers(0, 9)))
def test_no_other_threshold_has_a_better_balanced_accuracy(targets, levels):
    if not 0 < targets.sum() < 30:
        return
    scores = levels / 9

    def weigh(threshold):
        return ((scores[targets == 1] >= threshold).mean() + (scores[targets == 0] < threshold).mean()) / 2

    chosen = choose_threshold(targets, scores)
    # Above all and below all scores would be a guess; halves between neighbours are what there is.
    middles = np.unique(scores)[:-1] + 1 / 18
    assert weigh(chosen) >= max(map(weigh, middles), default=0.5) - 1e-9


def test_of_equally_good_thresholds_the_one_nearest_to_half_is_taken():
    assert choose_threshold(np.array([0, 1, 0, 1]), np.array([0.0, 1.0, 0.0, 1.0])) == 0.5


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_threshold_is_one_that_a_card_can_hold(score):
    assert 0 < choose_threshold(np.array([1, 0]), np.array([score, score])) < 1


def test_intervals_hold_the_figure_and_are_the_same_for_the_same_seed():
    part = make_part(*draw(200, 1))
    first = evaluate(part, majority=1, seed=3, resamples=300).figures
    assert all(metric.low <= metric.value <= metric.high for metric in first.values())
    assert first == evaluate(part, majority=1, seed=3, resamples=300).figures
    assert first != evaluate(part, majority=1, seed=4, resamples=300).figures


def test_scans_of_one_patient_do_not_narrow_an_interval():
    def width(part):
        metric = evaluate(part, majority=1, seed=3, resamples=400).figures["auc"]
        return metric.high - metric.low

    assert width(make_part(*draw(100, 10))) == pytest.approx(width(make_part(*draw(100, 1))))
    targets, scores, _ = draw(100, 10)
    assert width(make_part(targets, scores)) < width(make_part(*draw(100, 1))) / 2


def test_draws_with_one_label_only_are_left_out():
    told = evaluate(make_part([1, 0], [0.9, 0.1]), majority=1, seed=0, resamples=50)
    assert told.figures["auc"].low == told.figures["auc"].high == 1.0


def test_an_unbalanced_part_has_the_majority_of_the_training_part_as_its_baseline():
    assert evaluate(make_part(), majority=0, seed=0).figures["majority_baseline_accuracy"].value == 3 / 8


def test_scores_of_one_label_are_spread_over_both_classes():
    assert spread_scores(BINARY, np.array([[0.25]], np.float32)).tolist() == [[0.75, 0.25]]
    part = replace(make_part(), threshold=0.25)
    assert part.decisions.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
