from math import comb, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nightread.model import drift
from nightread.model.drift import (
    compare,
    compute_fisher_p,
    compute_ks,
    compute_psi,
    find_critical_ks,
    find_critical_psi,
    summarise,
)


def draw(scans=800, seed=0, shift=0.0):
    """Draw three measurements: a score that is mostly 0 or 1, a wide one, and a narrow one."""
    rng = np.random.default_rng(seed)
    return {
        "score": rng.beta(0.08, 0.03, scans),
        "distance": rng.gamma(9, 2, scans) * (1 + shift),
        "brightness": rng.normal(0.5, 0.05, scans) + shift / 10,
    }


def find_quantiles(values):
    return np.array(summarise({"x": np.asarray(values, float)}, rejected_share=0).quantiles["x"])


REFERENCE = summarise(draw(), rejected_share=4 / 800)


def look(scans=200, seed=1, shift=0.0, rejected=0, judged=0):
    return compare(REFERENCE, draw(scans, seed, shift), rejected=rejected, judged=judged)


def test_a_reference_holds_the_quantiles_of_each_measurement():
    values = np.arange(1001) / 1000
    reference = summarise({"score": values}, rejected_share=0.001)

    assert reference.scans == 1001
    assert reference.rejected_share == 0.001
    assert reference.quantiles["score"] == pytest.approx([place / 100 for place in range(101)], abs=0.001)


def test_a_night_like_the_reference_raises_no_alarm():
    told = look()
    assert told.looks_alike
    assert [shift.name for shift in told.shifts] == ["score", "distance", "brightness"]
    assert not any(shift.is_alarm for shift in told.shifts)


def test_a_shifted_measurement_is_named_and_the_others_are_not():
    values = draw(100, 1) | {"brightness": draw(100, 1)["brightness"] + 0.06}
    told = compare(REFERENCE, values, rejected=0, judged=0)

    assert told.looks_alike is False
    assert [shift.name for shift in told.shifts if shift.is_alarm] == ["brightness"]
    brightness = told.shifts[2]
    assert brightness.median == pytest.approx(0.56, abs=0.02)
    assert brightness.reference_median == pytest.approx(0.5, abs=0.01)


def test_scans_that_lie_nearer_than_the_hold_out_are_no_alarm_and_farther_ones_are():
    nearer, farther = draw(200, 1), draw(200, 1)
    nearer["distance"] = nearer["distance"] * 0.7
    farther["distance"] = farther["distance"] / 0.7

    assert compare(REFERENCE, nearer, rejected=0, judged=0).looks_alike
    assert compare(REFERENCE, farther, rejected=0, judged=0).looks_alike is False


def test_small_nights_seldom_raise_a_false_alarm():
    alarms = [
        compare(summarise(draw(seed=night), rejected_share=0), draw(20 + night % 200, 10_000 + night),
                rejected=0, judged=0).looks_alike is False
        for night in range(60)
    ]  # fmt: skip
    assert sum(alarms) <= 7  # at 5 %, more come once in 500 such tests; the draws are always the same


def test_a_shift_that_is_sure_but_small_is_no_alarm():
    told = look(scans=50_000, shift=0.02)
    assert told.looks_alike
    assert any(shift.ks > shift.critical_ks for shift in told.shifts)


def test_few_scans_that_show_nothing_tell_nothing():
    assert look(scans=9).looks_alike is None
    assert look(scans=10).looks_alike is True


def test_few_scans_that_lie_far_away_are_an_alarm_all_the_same():
    assert look(scans=9, shift=2.0).looks_alike is False


def test_a_measurement_that_no_scan_has_is_not_compared():
    told = compare(REFERENCE, draw(50) | {"distance": np.empty(0), "unknown": np.ones(50)}, rejected=0, judged=0)
    assert [shift.name for shift in told.shifts] == ["score", "brightness"]


def test_nothing_measured_is_nothing_told():
    told = compare(REFERENCE, {}, rejected=0, judged=0)
    assert (told.shifts, told.rejections, told.looks_alike) == ((), None, None)


@pytest.mark.parametrize(("rejected", "alarm"), [(0, False), (1, False), (3, False), (10, True), (200, True)])
def test_the_gates_rejections_are_an_alarm_beyond_chance(rejected, alarm):
    told = look(rejected=rejected, judged=200)
    assert told.rejections.is_alarm is alarm
    assert told.looks_alike is not alarm


def test_a_run_without_a_gate_has_no_rejections_to_compare():
    assert look(judged=0).rejections is None


def test_the_chance_of_rejections_is_fishers():
    expected = sum(comb(5, k) * comb(45, 20 - k) for k in (3, 4, 5)) / comb(50, 20)
    assert compute_fisher_p(3, 20, 2, 30) == pytest.approx(expected)
    assert compute_fisher_p(0, 20, 2, 30) == pytest.approx(1)
    assert compute_fisher_p(1, 20, 0, 780) == pytest.approx(20 / 800)  # none in the reference is no rate of zero


def test_the_index_is_that_of_the_shares_with_half_a_scan_in_each_bin():
    values = np.repeat(np.arange(10), [8, 2, 0, 0, 0, 0, 0, 0, 0, 0]) + 0.5
    shares = np.array([8.5, 2.5, *[0.5] * 8]) / 15
    expected = sum((share - 0.1) * log(share / 0.1) for share in shares)
    assert compute_psi(np.linspace(0, 10, 101), values) == pytest.approx(expected)


def test_an_empty_bin_leaves_the_index_finite():
    assert np.isfinite(compute_psi(find_quantiles(np.arange(1000)), np.full(5, 999.0)))


def test_a_value_that_many_scans_share_is_one_bin():
    """60 % of the reference is 0, so six deciles form one bin."""
    reference = np.concatenate([np.zeros(600), np.linspace(0.01, 1, 400)])
    quantiles = find_quantiles(reference)
    alike, different = np.concatenate([np.zeros(60), np.linspace(0.01, 1, 40)]), np.zeros(100)

    assert compute_psi(quantiles, alike) < 0.01
    assert compute_psi(quantiles, different) > 1
    assert compute_ks(quantiles, alike) == pytest.approx(0, abs=0.02)
    assert compute_ks(quantiles, different) == pytest.approx(0.4, abs=0.01)


def test_a_reference_of_one_value_can_be_compared():
    quantiles = np.full(101, 0.5)
    assert (compute_psi(quantiles, np.full(50, 0.5)), compute_ks(quantiles, np.full(50, 0.5))) == (0, 0)
    assert compute_ks(quantiles, np.full(50, 0.7)) == 1
    assert compute_ks(quantiles, np.full(50, 0.3)) == 1
    assert find_critical_psi(quantiles, 800, 50, 0.01) == 0


def test_differences_that_a_device_makes_are_none():
    quantiles = find_quantiles(np.full(500, 0.99999))
    assert compute_ks(quantiles, np.full(20, 0.999985)) == 0


@settings(deadline=None)
@given(
    arrays(np.int64, st.integers(5, 60), elements=st.integers(-8, 8)),
    arrays(np.int64, 400, elements=st.integers(-8, 8)),
)
def test_the_distance_is_that_of_two_samples_but_for_the_quantiles_steps(values, reference):
    def reach(sample, place):
        return (sample <= place).mean()

    exact = max(abs(reach(values, place) - reach(reference, place)) for place in range(-8, 9))
    assert compute_ks(find_quantiles(reference), values.astype(float)) == pytest.approx(exact, abs=0.011)


@pytest.mark.parametrize("scans", [20, 240])
def test_chance_exceeds_its_bounds_as_seldom_as_asked_for(scans):
    rng = np.random.default_rng(5)
    psi_bound, ks_bound = (
        find_critical_psi(np.linspace(0, 1, 101), 800, scans, 0.05),
        find_critical_ks(800, scans, 0.05),
    )
    quantiles = [find_quantiles(rng.random(800)) for _ in range(500)]
    nights = rng.random((500, scans))
    pairs = list(zip(quantiles, nights, strict=True))
    assert 0.02 < np.mean([compute_psi(own, night) > psi_bound for own, night in pairs]) < 0.08
    assert 0.02 < np.mean([compute_ks(own, night) > ks_bound for own, night in pairs]) < 0.08


def test_more_scans_leave_less_to_chance():
    quantiles = np.linspace(0, 1, 101)
    psi = [find_critical_psi(quantiles, 800, scans, 0.01) for scans in (20, 100, 1000, 100_000)]
    ks = [find_critical_ks(800, scans, 0.01) for scans in (20, 100, 1000, 100_000)]
    assert psi == sorted(psi, reverse=True)
    assert ks == sorted(ks, reverse=True)
    assert psi[0] > 0.25  # the rule of thumb would call most nights of 20 scans different


def test_the_bounds_of_many_figures_are_wider_than_that_of_one():
    one = compare(summarise({"score": draw()["score"]}, rejected_share=0), draw(100), rejected=0, judged=0)
    assert one.shifts[0].critical_ks < look(100).shifts[0].critical_ks


def test_components_are_counted_from_one():
    assert [drift.name_component(place) for place in (0, 7)] == ["component_1", "component_8"]
