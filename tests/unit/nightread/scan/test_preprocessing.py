import os
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydantic import ValidationError

from nightread.errors import UnreadableScan
from nightread.scan.decode import read_scan
from nightread.scan.formats import Format
from nightread.scan.preprocessing import PREPROCESSING_VERSION, InputSpec, complete_input, prepare, read_and_prepare
from nightread.scan.scan import Scan
from tests import factories

MAX_PIXELS = 40_000_000


def make_spec(size_px=75, **fields):
    return InputSpec(**{"height_px": size_px, "width_px": size_px, "channels": 1, **fields})


def make_scan(pixels, black=0.0, white=255.0, **fields):
    return Scan(pixels, black, white, Format.PNG, pixels.shape[1], pixels.shape[0], **fields)


def prepared_file(data, spec):
    return read_and_prepare(data, spec, max_pixels=MAX_PIXELS)[0]


def test_the_version_is_what_stored_predictions_are_keyed_on():
    assert PREPROCESSING_VERSION == "3"


def test_shape_and_type():
    prepared = prepare(make_scan(factories.small_chest()), InputSpec(height_px=60, width_px=75, channels=3))

    assert prepared.shape == (60, 75, 3)
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous
    assert (prepared[..., 0] == prepared[..., 1]).all()
    assert (prepared[..., 0] == prepared[..., 2]).all()


@pytest.mark.parametrize("version", ["1", "2", "3"])
@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "PNG of 16 bits", "PNG of 16 bits and alpha", "TIFF", "TIFF of 16 bits"]
)
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_scan_that_is_turned_upright_is_prepared_as_one_that_was_stored_so(orientation, kind, version):
    chest = np.kron(factories.small_chest(), np.ones((3, 4), np.uint8))
    turned = np.ascontiguousarray(np.rot90(chest, {3: 2, 6: 1, 8: -1}[orientation]))
    deep = turned.astype(np.uint16) * 257
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHLHxx", 274, 3, 1, orientation) + bytes(4)
    if kind.startswith("TIFF"):
        data = factories.encode_tiff(deep if "16" in kind else turned, **{"274": orientation})
    elif kind == "JPEG":
        data = factories.encode_jpeg(turned, quality=100, exif=b"Exif\0\0" + exif)
    else:
        plain = {
            "PNG": factories.encode_image(turned), "PNG of 16 bits": factories.encode_png16(deep),
            "PNG of 16 bits and alpha": imagecodecs.png_encode(np.stack([deep, deep], axis=2)),
        }[kind]  # fmt: skip
        data = plain[:33] + factories.encode_png_chunk(b"eXIf", exif) + plain[33:]
    spec = make_spec(32, preprocessing_version=version)

    prepared, scan = read_and_prepare(data, spec, max_pixels=MAX_PIXELS)

    np.testing.assert_allclose(prepared, prepared_file(factories.encode_image(chest), spec), atol=0.01)
    assert (scan.height_px, scan.width_px) == chest.shape


def test_black_and_white_are_the_ends_of_the_value_range():
    pixels = np.tile(np.array([10, 110], np.uint8).repeat(40), (80, 1))

    prepared = prepare(make_scan(pixels, black=10, white=110), make_spec(value_range=(-1.0, 1.0)))

    assert (prepared.min(), prepared.max()) == (-1, 1)


def test_values_beyond_black_and_white_are_clipped():
    pixels = np.tile(np.arange(0, 256, 2, dtype=np.uint8), (128, 1))

    prepared = prepare(make_scan(pixels, black=100, white=150), make_spec())

    assert (prepared.min(), prepared.max()) == (0, 1)


def test_white_below_black_inverts():
    pixels = factories.small_chest()

    assert np.allclose(
        prepare(make_scan(pixels, black=255, white=0), make_spec()),
        1 - prepare(make_scan(pixels), make_spec()),
        atol=1e-6,
    )


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32]), (33, 40), elements=st.integers(0, 120)
    ),
    st.floats(-1e6, 1e6),
    st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6),
)
def test_a_prepared_scan_is_finite_and_within_its_range(pixels, black, span):
    prepared = prepare(make_scan(pixels, black, black + span), make_spec(8, value_range=(-0.3, 0.7)))

    assert np.isfinite(prepared).all()
    assert prepared.min() >= np.float32(-0.3)
    assert prepared.max() <= np.float32(0.7)


def test_wide_pixels_keep_small_differences_on_top_of_a_large_value():
    pixels = np.tile(np.arange(64, dtype=np.int32) + 2_000_000_000, (64, 1))

    prepared = prepare(make_scan(pixels, 2_000_000_000, 2_000_000_063), make_spec(64))

    assert np.allclose(prepared[0, :, 0], np.arange(64) / 63, atol=1e-6)


def test_preparing_leaves_the_scan_as_it_is():
    pixels = factories.small_chest()
    before = pixels.copy()

    prepare(make_scan(pixels), make_spec())

    assert (pixels == before).all()


@pytest.mark.parametrize(("version", "most"), [("1", 1e-5), ("2", 1.01 / 255), ("3", 1e-5)])
def test_8_and_16_bit_copies_of_a_scan_prepare_to_the_same(version, most):
    spec = make_spec(preprocessing_version=version)
    chest = factories.draw_chest(3, 400, 480)
    eight = prepared_file(factories.encode_image(chest), spec)

    assert np.abs(eight - prepared_file(factories.encode_png16(chest), spec)).max() < most
    assert np.abs(eight - prepared_file(factories.encode_tiff(chest.astype(np.uint16) * 257), spec)).max() < most
    assert np.abs(eight - prepared_file(factories.encode_dicom(chest), spec)).max() < most
    inverted = factories.encode_dicom(255 - chest, PhotometricInterpretation="MONOCHROME1")
    assert np.abs(eight - prepared_file(inverted, spec)).max() < most


def test_version_2_resizes_8_bit_scans_as_8_bits_and_deeper_ones_as_floats():
    chest = factories.draw_chest(3, 400, 480)
    spec = make_spec(preprocessing_version="2")
    eight, deep = (prepare(make_scan(pixels), spec) * 255 for pixels in (chest, chest.astype(np.uint16)))

    assert np.allclose(eight, np.rint(eight), atol=1e-4)
    assert not np.allclose(deep, np.rint(deep), atol=1e-2)
    assert np.abs(eight - deep).max() <= 1


def test_version_1_keeps_the_scores_of_its_bundles():
    chest = factories.draw_chest(3, 400, 480)
    gray = Image.fromarray(chest.astype(np.float32) / np.float32(255)).resize((75, 75), Image.Resampling.BILINEAR)

    prepared = prepare(make_scan(chest), make_spec(preprocessing_version="1"))

    assert np.allclose(prepared[:, :, 0], np.asarray(gray), atol=1e-6)


@pytest.mark.parametrize("card", [None, {"input": None}, {"preprocessing_version": "1"}])
def test_what_is_no_card_is_left_for_the_checks_of_cards(card):
    assert complete_input(card) is card


def test_a_card_gives_its_input_its_version():
    card = factories.make_card(preprocessing_version="1")

    assert complete_input(card)["input"]["preprocessing_version"] == "1"
    assert "preprocessing_version" not in card["input"]
    assert complete_input({**card, "preprocessing_version": "99"})["input"] == card["input"]


def test_12_bit_data_in_a_16_bit_png_is_not_prepared_dark():
    chest = factories.draw_chest(3, 400, 480)
    twelve = (chest.astype(np.uint32) * 4095 // 255).astype(np.uint16)

    difference = prepared_file(factories.encode_png16(twelve), make_spec()) - prepared_file(
        factories.encode_image(chest), make_spec()
    )

    assert np.abs(difference).max() < 1 / 255


@pytest.mark.parametrize("size", [(848, 1268), (1021, 777), (1333, 1666)])
@pytest.mark.parametrize("size_px", [75, 150])
@pytest.mark.parametrize(("version", "mean", "most"), [("1", 0.001, 0.005), ("2", 0.001, 0.01), ("3", 0.0004, 0.002)])
def test_scaled_decoding_prepares_as_full_decoding_does(size, size_px, version, mean, most):
    data = factories.encode_jpeg(factories.draw_chest(1, *size))
    spec = make_spec(size_px, preprocessing_version=version)

    scaled, scan = read_and_prepare(data, spec, max_pixels=MAX_PIXELS)
    full = prepare(read_scan(data, max_pixels=MAX_PIXELS), spec)

    assert scan.scale > 1
    assert np.abs(scaled - full).mean() < mean
    assert np.abs(scaled - full).max() < most


def test_a_partial_last_pixel_of_scaled_decoding_does_not_shift_the_picture():
    edges = np.zeros((601, 601), np.uint8)
    edges[:, 300:] = 200  # the middle stays in the middle
    spec = make_spec(75)

    row = prepared_file(factories.encode_jpeg(edges, quality=100), spec)[30, :, 0]
    full = prepare(make_scan(edges), spec)[30, :, 0]

    assert np.abs(row - full).max() < 0.02


def test_a_color_copy_prepares_as_the_gray_one():
    chest = factories.draw_chest(2, 400, 480)
    gray, color = (factories.encode_jpeg(Image.fromarray(chest).convert(mode), quality=95) for mode in ("L", "RGB"))

    assert np.abs(prepared_file(gray, make_spec()) - prepared_file(color, make_spec())).max() < 0.01


def test_an_unreadable_file_is_told_as_such():
    with pytest.raises(UnreadableScan):
        prepared_file(b"no image", make_spec())


@pytest.mark.parametrize(
    "fields",
    [
        {"height_px": 7},
        {"width_px": 5000},
        {"channels": 2},
        {"value_range": (1.0, 0.0)},
        {"value_range": (0.0, 0.0)},
        {"value_range": (float("-inf"), 1.0)},
        {"value_range": (float("nan"), 1.0)},
        {"colour": "gray"},
    ],
)
def test_an_input_that_cannot_be_is_refused(fields):
    with pytest.raises(ValidationError):
        make_spec(**fields)


@pytest.mark.skipif("NIGHTREAD_TEST_DATA" not in os.environ, reason="NIGHTREAD_TEST_DATA is not set")
def test_scaled_decoding_of_real_scans_prepares_as_full_decoding_does():
    paths = sorted((Path(os.environ["NIGHTREAD_TEST_DATA"]) / "nightly").glob("*/*"))[::20]

    assert paths
    for path in paths:
        data = path.read_bytes()
        full = prepare(read_scan(data, max_pixels=MAX_PIXELS), make_spec())
        difference = np.abs(prepared_file(data, make_spec()) - full)
        assert difference.mean() < 0.0005, path.name
        assert difference.max() < 0.02, path.name  # at the burnt-in letters


@pytest.mark.parametrize("version", [[], {}, None, 3, "0"])
def test_a_card_with_a_wrong_preprocessing_version_is_left_to_the_check_of_its_fields(version):
    card = {"input": {}, "preprocessing_version": version}
    assert complete_input(card) == card
