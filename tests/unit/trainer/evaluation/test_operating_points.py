import numpy as np
import pytest

from nightread.model.card import Threshold
from tests.unit.trainer.evaluation.test_metrics import make_part
from trainer.evaluation.operating_points import choose_operating_points, measure_band, span_abstain_band


def draw(count, gap, seed):
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    return make_part(targets, 1 / (1 + np.exp(-rng.normal(gap * (targets - 0.5), 1))))


def test_each_point_keeps_its_rate_on_the_part_it_was_chosen_on():
    points = choose_operating_points(draw(1000, 4.2, 1), draw(400, 4.2, 2), seed=1)
    assert points["high-sensitivity"].chosen_on.sensitivity.value == pytest.approx(0.99, abs=0.003)
    assert points["high-specificity"].chosen_on.specificity.value == pytest.approx(0.99, abs=0.003)
    assert points["high-sensitivity"].chosen_on.sensitivity.value >= 0.99
    assert points["high-specificity"].chosen_on.specificity.value >= 0.99
    rates = points["balanced"].chosen_on
    assert rates.sensitivity.value + rates.specificity.value > 1.8
    assert rates.sensitivity.low < rates.sensitivity.value < rates.sensitivity.high


def test_the_hold_out_chooses_nothing():
    chosen_on = draw(1000, 3, 1)
    points = [choose_operating_points(chosen_on, hold_out, seed=1) for hold_out in (draw(400, 3, 2), draw(400, 1, 3))]
    assert [point.threshold for point in points[0].values()] == [point.threshold for point in points[1].values()]
    assert points[0]["balanced"].hold_out.sensitivity.value > points[1]["balanced"].hold_out.sensitivity.value


def test_between_the_cautious_points_lies_the_abstain_band():
    points = choose_operating_points(draw(1000, 3, 1), draw(400, 3, 2), seed=1)
    band = span_abstain_band(points)
    assert 0 < band.low < points["balanced"].threshold < band.high < 1


def test_scores_that_do_not_overlap_leave_no_band():
    part = make_part(np.arange(400) % 2, np.linspace(0, 0.2, 400) + 0.7 * (np.arange(400) % 2))
    points = choose_operating_points(part, part, seed=1)
    assert len({point.threshold for point in points.values()}) == 1
    band = span_abstain_band(points)
    assert band.low == band.high


def test_few_scans_still_have_thresholds_inside_the_range():
    part = make_part(np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0]))
    points = choose_operating_points(part, part, seed=1)
    assert all(0 < point.threshold < 1 for point in points.values())


def test_a_few_scans_with_the_wrong_label_do_not_make_half_the_ward_uncertain():
    part = draw(1000, 6, 1)
    scores = part.class_scores[:, 1].copy()
    present = np.flatnonzero(part.targets == 1)
    scores[present[:8]] = np.quantile(scores[part.targets == 0], 0.2)  # 1.6 % of those with the label
    part = make_part(part.targets, scores)
    points = choose_operating_points(part, part, seed=1)
    band = span_abstain_band(points)
    assert np.mean((scores >= band.low) & (scores < band.high)) <= 0.1
    assert 0.97 <= points["high-sensitivity"].chosen_on.sensitivity.value < 0.985


def test_the_band_is_measured_by_what_it_leaves_open_and_by_the_decisions_that_remain():
    targets = np.array([0] * 10 + [1] * 10)
    scores = np.array([0.1] * 7 + [0.5] * 2 + [0.9] + [0.9] * 8 + [0.5] + [0.1])
    figures = measure_band(make_part(targets, scores), Threshold(low=0.4, high=0.6), seed=1)
    assert figures["uncertain_share"].value == pytest.approx(3 / 20)
    assert figures["balanced_accuracy_decided"].value == pytest.approx((7 / 8 + 8 / 9) / 2, abs=1e-4)
    for metric in figures.values():
        assert metric.low < metric.value < metric.high


def test_a_band_that_leaves_one_label_undecided_has_no_accuracy():
    part = make_part(np.array([0, 0, 1]), np.array([0.1, 0.2, 0.5]))
    figures = measure_band(part, Threshold(low=0.4, high=0.6), seed=1)
    assert set(figures) == {"uncertain_share"}
