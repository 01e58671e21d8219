import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from nightread.scan.preprocessing import InputSpec
from trainer.fit.augmentation import VARIATIONS, Variation, vary
from trainer.fit.hyperparameters import Augment

MODERN, STRONG = VARIATIONS[Augment.MODERN], VARIATIONS[Augment.STRONG]
SPEC = InputSpec(height_px=64, width_px=48, channels=3)


def make_scans(count=6):
    """Return scans whose left half is dark and whose right half is bright, with a gradient downwards."""
    gray = np.full((count, 64, 48, 1), 0.3, np.float32)
    gray[:, :, 24:] = 0.6
    gray += np.linspace(0, 0.2, 64, dtype=np.float32)[None, :, None, None]
    return np.broadcast_to(gray, (count, *SPEC.shape))


def test_scans_vary_within_the_range_and_are_never_mirrored():
    scans = make_scans(200)
    varied = vary(scans, SPEC, np.random.default_rng(1), MODERN)
    assert varied.shape == scans.shape
    assert varied.dtype == np.float32
    assert varied.min() >= 0
    assert varied.max() <= 1
    middle = varied[:, 20:44, :, 0].mean(axis=1)
    assert (middle[:, 30:40].mean(axis=1) > middle[:, 8:18].mean(axis=1)).all()  # right stays right
    assert (varied[..., 0] == varied[..., 2]).all()
    assert varied.std(axis=0).mean() > 0.03
    assert np.abs(varied.mean() - scans.mean()) < 0.08  # black comes in at the edges


def test_the_same_draws_give_the_same_scans_and_other_draws_others():
    scans = make_scans()
    first, again, other = (vary(scans, SPEC, np.random.default_rng(seed), MODERN) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_symmetric_range_is_varied_alike():
    scans = make_scans()
    symmetric = SPEC.model_copy(update={"value_range": (-1.0, 1.0)})
    plain, shifted = (
        vary(scans, SPEC, np.random.default_rng(1), MODERN),
        vary(scans * 2 - 1, symmetric, np.random.default_rng(1), MODERN),
    )
    assert np.allclose(shifted, plain * 2 - 1, atol=1e-5)


def test_without_any_draw_the_scans_stay(monkeypatch):
    class Middle:
        def uniform(self, low, high, size):
            return np.full(size, (low + high) / 2)

    scans = make_scans()
    assert np.allclose(vary(scans, SPEC, Middle(), MODERN), scans, atol=1e-5)


def test_strong_variation_goes_further():
    scans = make_scans(100)
    spreads = [vary(scans, SPEC, np.random.default_rng(1), how).std(axis=0).mean() for how in (MODERN, STRONG)]
    assert spreads[1] > 1.3 * spreads[0]


def test_fine_detail_comes_and_goes_with_sharpness():
    checks = np.indices((64, 48)).sum(axis=0) % 2 * 0.2 + 0.4
    scans = np.broadcast_to(checks[None, :, :, None].astype(np.float32), (50, *SPEC.shape))
    still = Variation(0, 0, 0, 0, 0, 0, sharpness=1.0)
    steps = np.abs(np.diff(vary(scans, SPEC, np.random.default_rng(1), still)[..., 0], axis=2)).mean(axis=(1, 2))
    assert steps.min() < 0.05
    assert steps.max() > 0.3
    assert np.median(steps) == pytest.approx(0.2, abs=0.06)


def test_noise_is_small_and_different_in_each_place():
    scans = np.full((50, *SPEC.shape), 0.5, np.float32)
    varied = vary(scans, SPEC, np.random.default_rng(1), Variation(0, 0, 0, 0, 0, 0, noise=0.02))
    spread = varied[..., 0].std(axis=(1, 2))
    assert 0.015 < spread.max() < 0.025
    assert np.abs(varied.mean() - 0.5) < 0.001
