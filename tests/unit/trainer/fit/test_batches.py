import threading
from itertools import chain

import numpy as np
import pytest

from nightread.scan.preprocessing import InputSpec
from trainer.fit.augmentation import blacken
from trainer.fit.batches import FitData, count_steps, encode_targets, iterate_batches, mix, order_items, weigh_classes
from trainer.fit.hyperparameters import Augment, FitSettings

SPEC = InputSpec(height_px=8, width_px=8, channels=3)


@pytest.fixture
def data():
    """Twenty scans whose gray level is their number / 255; all but the last three are training scans."""
    inputs = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None, None, None] / 255, (20, 8, 8, 3))
    targets = (np.arange(20) % 4 == 0).astype(np.int64)
    return FitData(inputs, targets, np.arange(17), np.arange(17, 20), SPEC, 1, "digest")


def numbers(batches):
    return [np.round(batch.inputs[:, 0, 0, 0] * 255).astype(int).tolist() for batch in batches]


def test_an_epoch_is_one_pass_in_an_order_of_its_own(data):
    settings = FitSettings(batch_size=5, seed=3)
    first, second = (numbers(iterate_batches(data, settings, epoch)) for epoch in (1, 2))
    assert [len(batch) for batch in first] == [5, 5, 5, 2]
    assert count_steps(data, settings) == 4
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(17))
    assert first != second
    assert first == numbers(iterate_batches(data, settings, 1))


def test_targets_go_with_their_scans(data):
    for batch in iterate_batches(data, FitSettings(batch_size=5), 1):
        assert np.array_equal(batch.targets[:, 0], np.round(batch.inputs[:, 0, 0, 0] * 255).astype(int) % 4 == 0)
        assert batch.weights is None


def test_steps_cut_epochs_from_an_endless_row_of_passes(data):
    settings = FitSettings(batch_size=4, seed=3, steps_per_epoch=3)
    items = np.concatenate([np.concatenate(list(order_items(data, settings, epoch))) for epoch in range(1, 18)])
    assert len(items) == 17 * 12
    for number in range(12):  # 17 scans at a time, however epochs are cut
        assert sorted(items[number * 17 : (number + 1) * 17].tolist()) == list(range(17))


def test_the_articles_augmentation_doubles_the_training_part(data):
    settings = FitSettings(batch_size=6, seed=1, augment=Augment.ARTICLE)
    assert count_steps(data, settings) == 6
    levels = sorted(chain(*numbers(iterate_batches(data, settings, 1))))
    assert levels == sorted([*range(17), *[0] * 17])  # all are below 25 of 255


def test_gray_levels_below_25_become_black_in_any_range():
    levels = np.array([0, 24, 25, 255], np.float32).reshape(1, 2, 2, 1) / 255
    assert np.allclose(blacken(levels, SPEC).ravel() * 255, [0, 0, 25, 255])
    symmetric = SPEC.model_copy(update={"value_range": (-1.0, 1.0)})
    assert np.allclose(blacken(levels * 2 - 1, symmetric).ravel(), np.array([0, 0, 25, 255]) / 255 * 2 - 1)


def test_class_weights_make_labels_equal_and_keep_the_mean(data):
    weights = weigh_classes(np.array([0, 0, 0, 1]))
    assert weights.tolist() == pytest.approx([4 / 6, 2])
    assert weights[[0, 0, 0, 1]].mean() == pytest.approx(1)
    batch = next(iterate_batches(data, FitSettings(batch_size=17, class_weights=True), 1))
    present = batch.targets[:, 0] == 1
    assert batch.weights[present].sum() == pytest.approx(batch.weights[~present].sum())


def test_a_label_without_scans_in_training_gets_a_finite_weight():
    assert np.isfinite(weigh_classes(np.array([0, 0, 2]))).all()


def test_an_abandoned_epoch_leaves_no_thread_behind(data):
    batches = iterate_batches(data, FitSettings(batch_size=2), 1)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_balanced_batches_hold_as_many_scans_of_each_label(data):
    settings = FitSettings(batch_size=6, seed=3, balanced=True)
    batches = list(iterate_batches(data, settings, 1))
    assert len(batches) == count_steps(data, settings) == 3
    assert [batch.targets.sum() for batch in batches] == [3, 3, 3]
    assert numbers(batches) == numbers(iterate_batches(data, settings, 1))
    assert numbers(batches) != numbers(iterate_batches(data, settings, 2))
    assert max(chain(*numbers(batches))) < 17  # of the training part alone


def test_every_output_has_a_column_and_the_absence_of_a_single_label_has_none():
    assert encode_targets(np.array([0, 1, 1]), 1).tolist() == [[0], [1], [1]]
    assert encode_targets(np.array([1, 0]), 2).tolist() == [[0, 1], [1, 0]]
    assert encode_targets(np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_mixed_targets_tell_how_much_of_each_scan_is_in_a_mixture():
    inputs = np.arange(8, dtype=np.float32)[:, None, None, None] * np.ones((8, 2, 2, 1), np.float32)
    mixed, targets = mix(inputs, inputs[:, 0, 0], 0.4, np.random.default_rng(1))
    assert np.allclose(mixed[:, 0, 0, 0], targets[:, 0])  # these targets are the gray levels themselves
    assert np.abs(targets[:, 0] - np.arange(8)).max() > 0.1
    assert (mixed.dtype, targets.dtype) == (np.float32, np.float32)


def test_smoothed_targets_stop_short_of_certainty(data):
    batch = next(iterate_batches(data, FitSettings(batch_size=17, label_smoothing=0.1), 1))
    assert sorted(set(batch.targets[:, 0].tolist())) == pytest.approx([0.05, 0.95])
