"""The batch tuner finds the fastest batch size while scans are scored."""

import math

import pytest

from nightread.inference.batch_tuner import BatchTuner


def score(tuner, scans, seconds):
    """Score `scans` in parts of up to eight; returns the batch sizes."""
    sizes = []
    while scans:
        left = min(scans, 8)
        scans -= left
        while left:
            size = tuner.choose(left)
            tuner.note(size, seconds(size))
            sizes.append(size)
            left -= size
    return sizes


@pytest.mark.parametrize("best", [1, 2, 4, 8])
def test_the_size_that_takes_least_for_a_scan_is_kept_to(best):
    tuner = BatchTuner()
    score(tuner, 200, lambda size: size * (1.0 + abs(math.log2(size / best)) / 10))
    assert tuner.best == best
    assert set(score(tuner, 64, lambda size: 1.0)) == {best}


def test_a_size_may_be_slower_than_both_its_neighbours():
    tuner = BatchTuner()
    score(tuner, 300, lambda size: size * {1: 1.04, 2: 1.08, 4: 1.0, 8: 1.06}[size])
    assert tuner.best == 4


def test_what_is_larger_than_two_slower_sizes_is_not_tried():
    tuner = BatchTuner()
    assert 8 not in score(tuner, 300, lambda size: size * (1.0 + size / 10))
    assert tuner.best == 1


def test_the_first_run_of_a_size_and_a_disturbed_one_do_not_count_against_it():
    tuner, runs = BatchTuner((1, 2)), []

    def seconds(size):
        runs.append(size)
        return 9.0 if runs.count(size) in {1, 3} else (1.0 if size == 1 else 2.5)

    score(tuner, 100, seconds)
    assert tuner.best == 1


def test_every_scan_is_scored_while_sizes_are_tried_and_later():
    tuner = BatchTuner()
    for scans in (1, 3, 8, 13, 200, 5):
        assert sum(score(tuner, scans, lambda size: 1.0)) == scans


def test_few_scans_are_never_more_than_there_are():
    tuner = BatchTuner((8,))
    assert [tuner.choose(most) for most in (1, 3, 8, 20)] == [1, 3, 8, 8]
    score(tuner, 100, lambda size: 1.0)
    assert [tuner.choose(most) for most in (1, 3, 8, 20)] == [1, 3, 8, 8]


def test_a_size_that_never_comes_up_does_not_keep_the_best_of_the_others_from_being_used():
    tuner = BatchTuner((1, 8))
    assert tuner.choose(4) == 1
    for _ in range(50):
        tuner.note(1, 1.0)
    assert (tuner.choose(4), tuner.choose(8)) == (1, 8)
    assert tuner.best is None
