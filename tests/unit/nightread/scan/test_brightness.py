"""Estimated black and white are those of NumPy's quantiles, however the values are ranked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nightread.scan.brightness import find_extremes, find_white

PIXELS = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32]).flatmap(
    lambda dtype: hnp.arrays(dtype, (12, 10), elements=st.integers(max(-128, np.iinfo(dtype).min), 127))
)


def take_inner(pixels):
    return pixels[1:11, 1:9].astype(float)


@given(PIXELS)
def test_outliers_are_those_far_from_the_bulk(pixels):
    low, high = np.quantile(take_inner(pixels), (0.05, 0.95))
    reach = high - low
    near = pixels[(pixels >= low - reach) & (pixels <= high + reach)] if reach else pixels
    assert find_extremes(pixels) == pytest.approx((near.min(), near.max()))


@given(hnp.arrays(np.uint16, (12, 10)))
def test_white_is_the_end_of_the_bits_in_use(pixels):
    level = int(np.quantile(take_inner(pixels), 0.995, method="lower"))
    assert find_white(pixels) == 2 ** max(8, level.bit_length()) - 1


def test_both_ways_of_ranking_agree():
    pixels = np.random.default_rng(1).normal(0, 3000, (300, 400)).astype(np.int16)
    assert find_extremes(pixels) == find_extremes(pixels.astype(np.int32)) == find_extremes(pixels.astype(np.float32))
