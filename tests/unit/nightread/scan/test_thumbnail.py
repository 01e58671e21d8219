"""Thumbnails show a scan in its own shape, with the gray levels that networks see."""

import numpy as np
import pytest

from nightread.errors import UnreadableScan
from nightread.scan.thumbnail import make_thumbnail
from tests.factories import encode_dicom, encode_jpeg, encode_png16, small_chest

MAX_PIXELS = 10**7


@pytest.mark.parametrize("encode", [encode_jpeg, encode_png16, encode_dicom])
def test_each_format_has_its_thumbnail(encode):
    chest = small_chest(1)
    made = make_thumbnail(encode(chest), side_px=64, max_pixels=MAX_PIXELS)
    assert made.dtype == np.uint8
    assert max(made.shape) == 64
    height, width = chest.shape
    assert made.shape[0] / made.shape[1] == pytest.approx(height / width, abs=0.05)
    assert made.min() < made.mean() < made.max()


def test_inverted_gray_levels_are_shown_as_people_see_them():
    shown = make_thumbnail(encode_dicom(small_chest(1)), side_px=64, max_pixels=MAX_PIXELS)
    of_png = make_thumbnail(encode_png16(small_chest(1)), side_px=64, max_pixels=MAX_PIXELS)
    assert np.corrcoef(shown.ravel(), of_png.ravel())[0, 1] > 0.99


def test_a_narrow_scan_keeps_some_pixels():
    strip = np.tile(np.linspace(0, 255, 40, dtype=np.uint8)[:, None], (1, 4000))
    assert make_thumbnail(encode_jpeg(strip), side_px=64, max_pixels=MAX_PIXELS).shape == (8, 64)


def test_what_is_no_scan_is_refused():
    with pytest.raises(UnreadableScan):
        make_thumbnail(b"no image", side_px=64, max_pixels=MAX_PIXELS)
