import io

import numpy as np
import pydicom
import pytest
from PIL import Image

from exporter.parity import open_converted
from exporter.same_pixels import (
    DATA_SET_FILE,
    DICOM_COPY,
    FULL_DECODING,
    NO_WINDOW,
    PNG_COPY,
    Compared,
    compare_ways,
    encode_dicom,
)
from nightread.errors import ExportError
from nightread.model.card import Threshold
from nightread.scan.decode import read_scan
from nightread.scan.preprocessing import InputSpec
from tests.factories import encode_image, small_chest, write_jpeg
from tests.onnx_factories import make_onnx

SPEC = InputSpec(height_px=8, width_px=8, channels=1)
BAND = (Threshold(low=0.4, high=0.6),)
SMALLER = DATA_SET_FILE.format(width=32, height=32)


def score(scans):
    """Score a scan with its mean."""
    return scans.mean(axis=(1, 2))


@pytest.fixture
def folders(tmp_path):
    """Twelve scans of full resolution, with a folder for other reasons, and the same ones as a data set scales them."""
    for number in range(12):
        pixels = small_chest(number, 300, 240)
        write_jpeg(tmp_path / "full" / "ward" / f"scan{number}.jpeg", pixels, quality=95)
        write_jpeg(tmp_path / "data" / "NORMAL" / f"scan{number}.jpeg", Image.fromarray(pixels).resize((32, 32)))
    (tmp_path / "full" / "damaged.jpeg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "full" / "list.txt").write_text("not a scan")
    return tmp_path / "full", tmp_path / "data"


def test_every_way_to_a_scan_is_compared(folders):
    compute = open_converted(make_onnx(gain=4.0, bias=-2.0)).score  # a network, if a small one
    compared = compare_ways(*folders, SPEC, compute, BAND)

    dicom = {
        DICOM_COPY.format(photometric=photometric, bits=bits)
        for photometric in ("MONOCHROME1", "MONOCHROME2")
        for bits in (8, 16)
    }
    assert set(compared) == {FULL_DECODING, PNG_COPY, NO_WINDOW, SMALLER, *dicom}
    assert {found.scans for found in compared.values()} == {12}


def test_copies_that_hold_the_same_pixels_differ_as_full_decoding_does(folders):
    compared = compare_ways(*folders, SPEC, score, BAND)
    decoded = compared[FULL_DECODING]
    assert 0 < decoded.largest_difference < 0.01
    for name, found in compared.items():
        if name != SMALLER:  # a copy without a window shows the range of its stored bits, which it fills
            # 8 bits are resized as 8 bits, deeper copies as floats.
            assert found.largest_difference == pytest.approx(decoded.largest_difference, abs=2e-3), name


def test_another_picture_under_the_same_name_is_told(folders):
    full, data = folders
    for path in (data / "NORMAL").iterdir():
        write_jpeg(path, 255 - small_chest(0, 32, 32))
    found = compare_ways(full, data, SPEC, score, BAND)[SMALLER]
    assert found.median_difference > 0.1
    assert found.decisions_changed > 0


def test_without_the_data_set_its_files_are_not_compared(folders):
    full, _ = folders
    assert SMALLER not in compare_ways(full, None, SPEC, score, BAND)


def test_only_scans_of_the_same_name_are_compared(folders):
    full, data = folders
    for path in sorted((data / "NORMAL").iterdir())[:-3]:
        path.unlink()
    compared = compare_ways(full, data, SPEC, score, BAND)
    assert compared[SMALLER].scans == 3
    assert compared[PNG_COPY].scans == 12


def test_a_png_of_full_resolution_has_no_scaled_decoding_to_compare(tmp_path):
    (tmp_path / "scan.png").write_bytes(encode_image(small_chest()))
    compared = compare_ways(tmp_path, None, SPEC, score, BAND)
    assert FULL_DECODING not in compared
    assert compared[PNG_COPY].largest_difference == 0


@pytest.mark.parametrize("content", [None, b"\xff\xd8\xff"])
def test_a_folder_without_scans_is_an_error(tmp_path, content):
    if content:
        (tmp_path / "damaged.jpeg").write_bytes(content)
    with pytest.raises(ExportError, match="name a folder of scans with --full-resolution"):
        compare_ways(tmp_path, None, SPEC, score, BAND)


def test_folders_that_share_no_name_are_an_error(folders, tmp_path):
    full, _ = folders
    write_jpeg(tmp_path / "other" / "elsewhere.jpeg")
    with pytest.raises(ExportError, match="no files of the same name"):
        compare_ways(full, tmp_path / "other", SPEC, score, BAND)


def test_a_decision_changes_where_a_score_enters_or_leaves_the_abstain_band():
    pairs = Compared([np.array([[0.39], [0.41], [0.5], [0.7]])], [np.array([[0.41], [0.42], [0.61], [0.9]])])
    found = pairs.summarise(BAND)
    assert (found.scans, found.decisions_changed) == (4, 2)
    assert found.largest_difference == pytest.approx(0.2)
    assert found.median_difference == pytest.approx(0.065)


def test_of_many_labels_the_highest_score_decides():
    pairs = Compared([np.array([[0.6, 0.4], [0.9, 0.1]])], [np.array([[0.4, 0.6], [0.6, 0.4]])])
    assert pairs.summarise(()).decisions_changed == 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_dicom_copy_shows_the_picture(bits, inverted):
    gray = np.array([[0, 64, 128], [129, 200, 255]], np.uint8).repeat(40, axis=0).repeat(40, axis=1)
    content = encode_dicom(gray, bits=bits, inverted=inverted, window=True)
    scan = read_scan(content, max_pixels=100_000)
    shown = (scan.pixels.astype(np.float64) - scan.black) / (scan.white - scan.black)
    assert np.abs(shown - gray / 255).max() < 1e-9
    stored = pydicom.dcmread(io.BytesIO(content))
    assert (stored.BitsStored, stored.PhotometricInterpretation) == (bits, f"MONOCHROME{1 if inverted else 2}")
