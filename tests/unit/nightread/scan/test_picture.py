"""Pictures of scans for people."""

import io

import numpy as np
import pytest
from PIL import Image

from nightread.scan.picture import Window, draw_picture, encode_png, encode_webp
from tests.factories import encode_dicom, encode_image, encode_png16, small_chest


def draw(data, side_px=1024):
    return draw_picture(data, side_px=side_px, max_pixels=10_000_000)


def test_eight_bits_are_shown_as_they_are_stored():
    pixels = small_chest()
    assert np.array_equal(draw(encode_image(pixels)).show(Window()), pixels)


def test_sixteen_bits_are_windowed_before_they_become_eight():
    ramp = np.linspace(0, 65_535, 100 * 100).reshape(100, 100).astype(np.uint16)
    picture = draw(encode_png16(ramp))
    narrow = picture.show(Window(center=0.5, width=0.01))
    inside = (ramp > 0.496 * 65_535) & (ramp < 0.504 * 65_535)
    assert len(np.unique(narrow[inside])) > 60  # of some 80 steps; with 8 bits there were two
    assert narrow[ramp < 0.49 * 65_535].max() == 0
    assert narrow[ramp > 0.51 * 65_535].min() == 255


def test_a_window_reaches_beyond_that_of_the_file():
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    picture = draw(encode_dicom(pixels, WindowCenter=2000, WindowWidth=1000))
    shown = picture.show(Window())
    assert (shown == 255).mean() > 0.3
    wider = picture.show(Window(center=0.5, width=2.5))
    assert (wider == 255).mean() < 0.25


def test_monochrome1_is_shown_right_way_round():
    pixels = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    shown = draw(encode_dicom(pixels, PhotometricInterpretation="MONOCHROME1")).show(Window())
    assert shown[0, 0] > 200
    assert shown[-1, -1] < 50


def test_an_inverted_window_is_the_negative():
    picture = draw(encode_image(small_chest()))
    assert np.array_equal(picture.show(Window(invert=True)), 255 - picture.show(Window()))


@pytest.mark.parametrize(("side_px", "shape"), [(72, (60, 72)), (144, (120, 144)), (1000, (120, 144))])
def test_a_picture_is_scaled_down_and_never_up(side_px, shape):
    picture = draw(encode_image(small_chest()), side_px)
    assert picture.levels.shape == shape
    assert (picture.width_px, picture.height_px) == (144, 120)


@pytest.mark.parametrize("encode", [encode_png, encode_webp])
def test_an_encoded_picture_holds_pixels_alone(encode):
    with Image.open(io.BytesIO(encode(small_chest()))) as image:
        assert image.size == (144, 120)
        assert not image.info or set(image.info) <= {"background", "loop", "timestamp", "duration"}
