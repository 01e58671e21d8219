from dataclasses import replace

import numpy as np
import pytest

from nightread.scan.preprocessing import InputSpec
from trainer.fit.augmentation import CROP, Crop, crop
from trainer.fit.batches import FitData, iterate_batches
from trainer.fit.hyperparameters import Augment, FitSettings

SPEC = InputSpec(height_px=16, width_px=16, channels=1)
WHOLE = Crop(least_area=1.0, aspect=0.0, gamma=0.0, contrast=0.0, brightness=0.0, noise=0.0)


def make_sources(count=200):
    """Return scans that are brighter to the right and, less so, to the bottom."""
    ramp = np.add.outer(np.arange(32), 4 * np.arange(32)).astype(np.uint8)
    return np.repeat(ramp[None], count, axis=0)


def crop_all(variation, seed=1, spec=SPEC, sources=None):
    return crop(make_sources() if sources is None else sources, spec, np.random.default_rng(seed), variation)


def test_a_crop_of_the_whole_area_is_the_resized_scan_or_its_mirror_image():
    cropped = crop_all(WHOLE)
    kinds = np.unique(cropped, axis=0)
    assert len(kinds) == 2
    assert np.array_equal(kinds[0], kinds[1][:, ::-1])


def test_a_crop_is_not_rounded_to_8_bits():
    gray = 255 * crop_all(WHOLE)
    assert np.abs(gray - np.rint(gray)).max() > 0.3


def test_the_noise_of_a_scan_is_small_and_differs_between_scans():
    quiet, noisy = (crop_all(replace(WHOLE, noise=noise)) for noise in (0.0, 0.02))
    spreads = np.minimum(*(np.std(noisy - turned, axis=(1, 2, 3)) for turned in (quiet, quiet[:, :, ::-1])))
    assert spreads.min() < 0.002
    assert 0.015 < spreads.max() < 0.022


def test_crops_have_the_wanted_areas():
    spans = np.ptp(crop_all(replace(WHOLE, least_area=0.25))[:, 0, :, 0], axis=1)  # of the ramp to the right
    whole = np.ptp(crop_all(WHOLE)[:, 0, :, 0], axis=1)[0]
    assert 0.45 * whole < spans.min() < 0.6 * whole
    assert spans.max() > 0.95 * whole


def test_aspect_ratios_vary_both_ways():
    cropped = crop_all(replace(WHOLE, least_area=0.3, aspect=np.log(4 / 3)))[..., 0]
    across, down = np.ptp(cropped, axis=2).mean(axis=1), 4 * np.ptp(cropped, axis=1).mean(axis=1)
    ratios = across / down
    assert ratios.min() < 0.85
    assert ratios.max() > 1.15
    assert (ratios > 0.6).all()
    assert (ratios < 1.6).all()


def test_crops_stay_in_the_range_of_the_input():
    spec = InputSpec(height_px=8, width_px=12, channels=3, value_range=(-1.0, 1.0))
    cropped = crop_all(CROP, spec=spec)
    assert cropped.shape == (200, 8, 12, 3)
    assert cropped.dtype == np.float32
    assert cropped.min() >= -1
    assert cropped.max() <= 1
    assert (cropped[..., 0] == cropped[..., 2]).all()


def test_the_same_draws_give_the_same_crops():
    first, again, other = (crop_all(CROP, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_gray_levels_vary_around_those_of_the_scan():
    sources = np.full((500, 32, 32), 128, np.uint8)
    levels = crop_all(replace(CROP, least_area=1.0), sources=sources).mean(axis=(1, 2, 3))
    assert levels.std() > 0.03
    assert levels.mean() == pytest.approx(0.5, abs=0.02)


def test_batches_are_cropped_from_the_larger_scans():
    sources = make_sources(8)
    data = FitData(
        np.zeros((8, 16, 16, 1), np.float32),
        np.arange(8) % 2,
        np.arange(6),
        np.arange(6, 8),
        SPEC,
        1,
        "digest",
        sources,
    )
    settings = FitSettings(batch_size=3, augment=Augment.CROP)
    first, again = ([batch.inputs for batch in iterate_batches(data, settings, 1)] for _ in range(2))
    assert [len(batch) for batch in first] == [3, 3]
    assert all(batch.std() > 0 for batch in first)
    assert np.array_equal(np.concatenate(first), np.concatenate(again))
