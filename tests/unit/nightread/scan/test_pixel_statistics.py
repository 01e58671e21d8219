"""Pixel statistics depend on the exposure of a scan, not on its file format."""

from dataclasses import astuple

import numpy as np
import pytest
from PIL import Image

from nightread.scan.pixel_statistics import measure
from nightread.scan.preprocessing import InputSpec, read_and_prepare
from tests.factories import draw_chest, encode_image, encode_jpeg

SPEC = InputSpec(height_px=64, width_px=64, channels=1)


def measure_gray(gray, **spec):
    """Measure (H, W) in [0, 1] as a network with the value range of `spec` sees it."""
    wanted = InputSpec(height_px=64, width_px=64, **{"channels": 1, **spec})
    low, high = wanted.value_range
    tensor = np.repeat((np.asarray(gray, np.float32) * (high - low) + low)[:, :, np.newaxis], wanted.channels, axis=2)
    return measure([tensor], wanted)[0]


def measure_file(data, spec=SPEC):
    tensor, _ = read_and_prepare(data, spec, max_pixels=10_000_000)
    return measure([tensor], spec)[0]


@pytest.fixture
def chest():
    return np.asarray(Image.fromarray(draw_chest(1, 640, 720)).resize((64, 64)), np.float32) / 255


def test_a_half_black_half_white_scan_measures_as_it_looks():
    gray = np.zeros((64, 64))
    gray[:, 32:] = 1
    found = measure_gray(gray)
    assert (found.brightness, found.contrast, found.darkest, found.brightest) == (0.5, 0.5, 0.0, 1.0)
    assert found.symmetry == pytest.approx(-1)
    assert found.detail == pytest.approx(1 / 31 / 2)


@pytest.mark.parametrize("gray", [0.25, 0.3, 0.999])
def test_a_scan_of_one_gray_has_no_contrast_and_no_symmetry(gray):
    tensor = np.full((75, 112, 1), gray, np.float32)
    found = measure([tensor], InputSpec(height_px=75, width_px=112, channels=1))[0]
    assert astuple(found) == pytest.approx((gray, 0, gray, gray, 0, 0))


def test_value_range_and_channels_of_the_network_change_nothing(chest):
    plain = astuple(measure_gray(chest))
    assert astuple(measure_gray(chest, value_range=(-1.0, 1.0))) == pytest.approx(plain, abs=1e-6)
    assert astuple(measure_gray(chest, channels=3)) == pytest.approx(plain, abs=1e-6)


def test_a_longer_exposure_is_seen(chest):
    dark = measure_gray(chest**2)
    assert dark.brightness < measure_gray(chest).brightness - 0.05


def test_a_scan_like_its_mirror_image_is_symmetric(chest):
    assert measure_gray(chest + chest[:, ::-1]).symmetry == pytest.approx(1)


def test_a_small_file_of_a_scan_measures_like_the_large_one():
    large = draw_chest(3, 960, 1080)
    small = np.asarray(Image.fromarray(large).resize((224, 224), Image.Resampling.LANCZOS))
    from_large = astuple(measure_file(encode_jpeg(large)))
    assert astuple(measure_file(encode_jpeg(small))) == pytest.approx(from_large, abs=0.01)
    assert astuple(measure_file(encode_image(small))) == pytest.approx(from_large, abs=0.01)


def test_networks_of_different_input_size_measure_the_same():
    data = encode_image(draw_chest(3, 960, 1080))
    sizes = [InputSpec(height_px=side, width_px=side, channels=1) for side in (75, 160, 224)]
    first, *others = [astuple(measure_file(data, spec)) for spec in sizes]
    for other in others:
        assert other == pytest.approx(first, abs=0.01)


def test_full_resolution_and_224_pixel_files_of_real_scans_measure_the_same(real_data):
    small = {path.name: path for path in real_data.glob("chest_xray/train/*/*")}
    pairs = [(path, small[path.name]) for path in sorted(real_data.glob("nightly/ward-1/*")) if path.name in small]
    assert len(pairs) > 50
    differences = [
        np.subtract(astuple(measure_file(large.read_bytes())), astuple(measure_file(other.read_bytes())))
        for large, other in pairs
    ]
    assert np.abs(differences).max() < 0.02


@pytest.mark.parametrize(("height_px", "width_px"), [(64, 64), (112, 96), (75, 75), (33, 200), (32, 8), (20, 31)])
def test_cells_are_those_of_pillows_box_filter(height_px, width_px):
    spec = InputSpec(height_px=height_px, width_px=width_px, channels=1)
    gray = np.random.default_rng(0).random((height_px, width_px), dtype=np.float32)
    cells = np.asarray(Image.fromarray(gray).resize((32, 32), Image.Resampling.BOX), np.float64)
    found = measure([gray[:, :, np.newaxis]], spec)[0]
    assert found.contrast == pytest.approx(cells.std(), abs=1e-6)
    ordered = np.sort(cells, axis=None)
    assert (found.darkest, found.brightest) == pytest.approx((ordered[51], ordered[-52]), abs=1e-6)


def test_a_scan_measures_the_same_alone_and_among_others():
    scans = np.random.default_rng(1).random((7, 64, 64, 1), dtype=np.float32)
    assert measure(scans, SPEC) == [measure([scan], SPEC)[0] for scan in scans]
