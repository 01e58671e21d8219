import importlib.util
import struct
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPIPHTJ2KReferenced,
)

from nightread.errors import ScanError, UnreadableScan
from nightread.reasons import Reason
from nightread.scan.acquisition import MODALITIES, Accepted, DicomUids
from nightread.scan.decode import read_scan
from nightread.scan.formats import Format
from nightread.scan.preprocessing import InputSpec, prepare
from tests import factories

MAX_PIXELS = 40_000_000


#: pydicom's color files are secondary captures.
ACCEPTED = Accepted(frozenset(MODALITIES))


def read(data, **limits):
    return read_scan(data, **{"max_pixels": MAX_PIXELS, "accepted": ACCEPTED, **limits})


def read_dicom(pixels=None, **fields):
    return read(factories.encode_dicom(pixels, **fields))


def reason_of(data, **limits):
    with pytest.raises(ScanError) as caught:
        read(data, **limits)
    assert "CANARY" not in str(caught.value)
    return caught.value.reason


def shown(scan):
    """Gray levels as shown, 0 black to 1 white."""
    return np.clip((scan.pixels.astype(np.float64) - scan.black) / (scan.white - scan.black), 0, 1)


@pytest.fixture(scope="module")
def chest():
    return factories.small_chest()


@pytest.fixture(scope="module")
def deep(chest):
    """12-bit pixels from 105 on."""
    return chest.astype(np.uint16) * 15 + 105


def test_a_scan_tells_format_size_and_uids():
    scan = read_dicom()

    assert (scan.format, scan.width_px, scan.height_px) == (Format.DICOM, 144, 120)
    root = "1.2.826.0.1.3680043.8.498."
    assert scan.acquisition.uids == DicomUids(f"{root}2", f"{root}3", f"{root}1")


def test_no_attribute_of_a_scan_holds_patient_data():
    assert "CANARY" not in repr(read_dicom())


def test_uids_that_are_none_are_left_out():
    data = factories.encode_dicom(SeriesInstanceUID=None).replace(b"8.498.2", b"PATIENT")

    assert (read(data).acquisition.study, read(data).acquisition.series) == (None, None)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_uncompressed_pixels_of_every_byte_order(chest, syntax, dtype):
    pixels = (
        (chest // 2).astype(dtype) if dtype is np.uint8 else chest.astype(dtype) * 9 - (900 if dtype is np.int16 else 0)
    )

    assert (read_dicom(pixels, syntax=syntax).pixels == pixels).all()


def test_bits_beyond_those_stored_are_no_gray(deep):
    overlaid = deep | np.where(np.indices(deep.shape).sum(0) % 2, 0x8000, 0).astype(np.uint16)

    assert (read_dicom(overlaid, BitsStored=12, HighBit=11).pixels == deep).all()


def test_without_a_window_deep_pixels_span_their_extremes(deep):
    """Of 16 bits that are not in use: they say nothing of the picture."""
    scan = read_dicom(deep, BitsStored=16, HighBit=15)

    assert (scan.black, scan.white) == (deep.min(), deep.max())


@pytest.mark.parametrize("bits", range(9, 17))
def test_without_a_window_the_range_of_the_stored_bits_is_shown_alike_for_every_depth(chest, bits):
    scan = read_dicom(
        (chest.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16), BitsStored=bits, HighBit=bits - 1
    )

    assert (scan.black, scan.white) == (0, 2**bits - 1)
    np.testing.assert_allclose(shown(scan), chest / 255, atol=1 / 500)


@pytest.mark.parametrize("lowest", [-8192, -100, 0, 4000])
def test_without_a_window_signed_pixels_of_part_of_the_range_span_their_extremes(chest, lowest):
    """Few writers of signed values use the negative half: the range of the stored bits would show them half gray."""
    signed = chest.astype(np.int16) * 16 + lowest
    scan = read_dicom(signed, BitsStored=14, HighBit=13)

    assert (scan.black, scan.white) == (signed.min(), signed.max())


def test_without_a_window_unsigned_pixels_without_black_span_the_range_of_the_stored_bits(chest):
    scan = read_dicom(chest.astype(np.uint16) * 8 + 2000, BitsStored=12, HighBit=11)

    assert (scan.black, scan.white) == (0, 4095)


@pytest.mark.parametrize("share", [1e-4, 5e-3, 3e-2])
def test_without_a_window_hot_pixels_do_not_darken_the_scan(deep, share):
    hot = deep.copy()
    hot.flat[np.random.default_rng(1).choice(deep.size, max(1, round(share * deep.size)), replace=False)] = 65535

    scan, undisturbed = read_dicom(hot), read_dicom(deep)

    assert abs(scan.white - undisturbed.white) < 0.01 * undisturbed.white
    assert scan.black == undisturbed.black


def test_without_a_window_8_bit_pixels_are_shown_as_a_jpeg_of_them_is(chest):
    scan = read_dicom(chest // 2)

    assert (scan.black, scan.white) == (0, 255)


def test_monochrome1_is_the_negative_of_monochrome2(deep):
    plain = read_dicom(deep)
    inverted = read_dicom(deep, PhotometricInterpretation="MONOCHROME1")

    assert np.allclose(shown(inverted), 1 - shown(plain))


def test_a_linear_window_is_that_of_the_standard(deep):
    scan = read_dicom(deep, WindowCenter="2048", WindowWidth="1000")

    assert scan.black == 2048 - 0.5 - 999 / 2
    assert scan.white == 2048 - 0.5 + 999 / 2


def test_a_linear_exact_window_is_that_of_the_standard(deep):
    scan = read_dicom(deep, WindowCenter="2048", WindowWidth="1000", VOILUTFunction="LINEAR_EXACT")

    assert (scan.black, scan.white) == (1548, 2548)


def test_a_sigmoid_window_is_that_of_the_standard(deep):
    scan = read_dicom(deep, WindowCenter="2048", WindowWidth="1000", VOILUTFunction="SIGMOID")

    assert np.allclose(shown(scan), 1 / (1 + np.exp(-4 * (deep - 2048.0) / 1000)), atol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_monochrome1_is_inverted_after_the_window_and_not_with_the_range_before_it(deep, function):
    window = {"WindowCenter": "1500", "WindowWidth": "800", "VOILUTFunction": function}
    plain = read_dicom(deep, **window)
    inverted = read_dicom(deep, PhotometricInterpretation="MONOCHROME1", **window)

    assert np.allclose(shown(inverted), 1 - shown(plain), atol=1e-6)


def test_the_first_of_several_windows_is_used(deep):
    scan = read_dicom(deep, WindowCenter=["2048", "40"], WindowWidth=["1001", "400"])

    assert scan.white - scan.black == 1000


@pytest.mark.parametrize(
    "window", [{"WindowCenter": ""}, {"WindowWidth": "0"}, {"WindowWidth": "-5"}, {"WindowWidth": ""}]
)
def test_a_window_that_is_none_is_passed_over(deep, window):
    scan = read_dicom(deep, **{"WindowCenter": "40", "WindowWidth": "400", **window})

    assert (scan.black, scan.white) == (deep.min(), deep.max())


def test_a_window_beside_all_pixels_shows_nothing(deep):
    assert reason_of(factories.encode_dicom(deep, WindowCenter="-9000", WindowWidth="10")) is Reason.BLANK
    assert reason_of(factories.encode_dicom(deep, WindowCenter="9000", WindowWidth="10")) is Reason.BLANK


def test_the_window_refers_to_values_after_slope_and_intercept(deep):
    scan = read_dicom(
        deep,
        RescaleSlope="2",
        RescaleIntercept="-1024",
        WindowCenter="3000",
        WindowWidth="2000",
        VOILUTFunction="LINEAR_EXACT",
    )

    assert np.allclose(shown(scan), np.clip((deep * 2.0 - 1024 - 2000) / 2000, 0, 1), atol=1e-6)


def test_a_negative_slope_inverts(deep):
    scan = read_dicom(deep, RescaleSlope="-1", RescaleIntercept="4095")

    assert np.allclose(shown(scan), 1 - shown(read_dicom(deep)), atol=1e-6)


@pytest.mark.parametrize("slope", ["0", "nan", "inf", "1e300"])
def test_a_slope_that_leaves_no_gray_levels_is_refused(deep, slope):
    data = factories.encode_dicom(deep, RescaleSlope="77.77", RescaleIntercept="0")

    assert reason_of(data.replace(b"77.77 ", slope.ljust(6).encode())) in {Reason.BLANK, Reason.DAMAGED}


def test_a_voi_table_is_looked_up_from_its_first_value_on_and_ends_clip():
    pixels = np.tile(np.arange(40, dtype=np.uint16), (40, 1))
    table = np.arange(20) ** 2

    scan = read_dicom(pixels, BitsStored=12, HighBit=11, **factories.make_table(table, first=10, bits=12))

    assert (scan.pixels[0] == table[np.clip(np.arange(40) - 10, 0, 19)]).all()
    assert (scan.black, scan.white) == (0, 511)  # the bits that the entries take, whatever is declared


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_voi_table_of_8_bits_does_not_wrap_around(deep, syntax):
    table = np.linspace(0, 255, 4096).astype(np.uint16)

    scan = read_dicom(deep, syntax=syntax, **factories.make_table(table, bits=8))

    assert (scan.pixels == table[deep]).all()
    assert scan.white == 255


def test_a_voi_table_may_start_below_zero():
    pixels = np.tile(np.arange(-20, 20, dtype=np.int16), (40, 1))

    scan = read_dicom(pixels, **factories.make_table(np.arange(40) * 3, first=-20, bits=8))

    assert (scan.pixels[0] == np.arange(40) * 3).all()


def test_a_voi_table_goes_before_a_window_and_refers_to_values_after_slope_and_intercept(deep):
    table = np.arange(4096)[::-1]
    fields = factories.make_table(table, bits=12)

    scan = read_dicom(deep, RescaleSlope="0.5", RescaleIntercept="10", WindowCenter="1", WindowWidth="2", **fields)

    assert (scan.pixels == table[np.rint(deep * 0.5 + 10).astype(int)]).all()


def test_a_voi_table_that_is_cut_short_is_damage(deep):
    fields = factories.make_table(np.arange(100), bits=12)
    fields["VOILUTSequence"][0].LUTDescriptor = [4096, 0, 12]

    assert reason_of(factories.encode_dicom(deep, **fields)) is Reason.DAMAGED


def test_a_modality_table_is_applied(deep):
    table = np.arange(4096)[::-1] * 4

    scan = read_dicom(deep, ModalityLUTType="US", **factories.make_table(table, keyword="ModalityLUTSequence"))

    assert (scan.pixels == table[deep]).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [0, 4000])
def test_padding_is_black_and_no_part_of_the_range(deep, photometric, padding):
    padded = deep.copy()
    padded[:, :20] = padding
    fields = {"PhotometricInterpretation": photometric, "BitsStored": 16, "HighBit": 15}

    scan = read_dicom(padded, PixelPaddingValue=padding, **fields)

    rest = deep[:, 20:][deep[:, 20:] != padding]
    assert {scan.black, scan.white} == {rest.min(), rest.max()}
    assert (shown(scan)[:, :20] == 0).all()


def test_a_range_of_padding_values(deep):
    padded = deep.copy()
    padded[:, :10], padded[:, 10:20] = 1, 3

    scan = read_dicom(padded, PixelPaddingValue=0, PixelPaddingRangeLimit=4)

    assert scan.black == deep[:, 20:].min()


def test_nothing_but_padding_is_blank():
    pixels = np.zeros((64, 64), np.uint16)
    pixels[0] = 1

    assert reason_of(factories.encode_dicom(pixels, PixelPaddingValue=0, PixelPaddingRangeLimit=1)) is Reason.BLANK


def test_pixels_that_decode_to_one_value_are_blank():
    assert reason_of(factories.encode_dicom(np.zeros((64, 64), np.uint16))) is Reason.BLANK


def colored(chest):
    """A picture whose red, green, blue and luma differ."""
    return np.dstack([chest, chest // 2, 255 - chest])


def luma_of(colors):
    return colors.astype(float) @ [0.299, 0.587, 0.114]


def test_rgb_becomes_luma_and_is_not_stretched(chest):
    scan = read_dicom(colored(chest))

    assert np.abs(scan.pixels - luma_of(colored(chest))).max() < 1e-3
    assert (scan.black, scan.white) == (0, 255)


def test_rgb_by_plane(chest):
    planes = np.ascontiguousarray(np.moveaxis(colored(chest), 2, 0)).tobytes()

    scan = read_dicom(colored(chest), PlanarConfiguration=1, PixelData=planes)

    assert np.abs(scan.pixels - luma_of(colored(chest))).max() < 1e-3


def test_the_y_of_uncompressed_ybr_is_the_luma_already(chest):
    ybr = np.asarray(Image.fromarray(colored(chest)).convert("YCbCr"))

    scan = read_dicom(ybr, PhotometricInterpretation="YBR_FULL")

    assert (scan.pixels == ybr[..., 0]).all()


def test_jpeg_baseline_gray(chest):
    scan = read_dicom(chest, syntax=JPEGBaseline8Bit, frame=factories.encode_jpeg(chest, quality=95))

    assert np.abs(scan.pixels.astype(int) - chest).mean() < 2


@pytest.mark.parametrize(
    ("photometric", "options"),
    [("YBR_FULL_422", {}), ("YBR_FULL", {"subsampling": 0}), ("RGB", {"keep_rgb": True})],
)
def test_jpeg_baseline_colors_become_luma(chest, photometric, options):
    frame = factories.encode_jpeg(colored(chest), quality=97, **options)

    scan = read_dicom(colored(chest), syntax=JPEGBaseline8Bit, frame=frame, PhotometricInterpretation=photometric)

    assert np.abs(scan.pixels - luma_of(colored(chest))).mean() < 3


def test_a_jpeg_frame_of_another_size_is_damage_and_is_not_decoded(chest, monkeypatch):
    data = factories.encode_dicom(chest, syntax=JPEGBaseline8Bit, frame=factories.encode_jpeg(chest[1:]))
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))

    assert reason_of(data) is Reason.DAMAGED


@pytest.mark.parametrize("frame", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xff\xd8\xff", b"\0\0"])
def test_a_frame_that_is_no_jpeg_is_damage(chest, frame):
    assert reason_of(factories.encode_dicom(chest, syntax=JPEGBaseline8Bit, frame=frame)) is Reason.DAMAGED


def test_a_jpeg_frame_that_was_cut_and_closed_is_damage(chest):
    frame = factories.encode_jpeg(chest)
    cut = frame[: len(frame) // 2] + b"\xff\xd9"

    assert reason_of(factories.encode_dicom(chest, syntax=JPEGBaseline8Bit, frame=cut)) is Reason.DAMAGED


@pytest.mark.parametrize("syntax", [MPEG2MPML, JPIPHTJ2KReferenced, "1.2.3.4"])
def test_a_transfer_syntax_without_still_pictures_is_refused_by_name(syntax):
    assert reason_of(factories.encode_dicom(syntax=syntax)) is Reason.UNSUPPORTED_TRANSFER_SYNTAX


@pytest.mark.parametrize("syntax", [MPEG2MPML, "1.2.3.4"])
def test_modality_is_looked_at_before_the_transfer_syntax(syntax):
    assert reason_of(factories.encode_dicom(syntax=syntax, Modality="CT")) is Reason.NOT_A_RADIOGRAPH


def test_a_second_transfer_syntax_does_not_smuggle_a_deflated_data_set_in():
    data = factories.encode_dicom()
    second = struct.pack("<HH2sH", 2, 0x10, b"UI", 22) + b"1.2.840.10008.1.2.1.99"
    first_end = data.index(b"1.2.840.10008.1.2.1\0") + 20

    assert reason_of(data[:first_end] + second + data[first_end:]) is Reason.DAMAGED


def test_a_missing_transfer_syntax_is_told_by_the_data_set(chest):
    data = factories.encode_dicom(chest)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"

    assert (read(data.replace(element, b"")).pixels == chest).all()


@pytest.mark.parametrize("modality", ["CT", "MR", "SEG", "US", "MG"])
def test_other_modalities_are_no_radiographs(modality):
    assert reason_of(factories.encode_dicom(Modality=modality)) is Reason.NOT_A_RADIOGRAPH


def test_an_instance_without_pixels_is_no_radiograph():
    assert reason_of(factories.encode_dicom(Rows=None)) is Reason.NOT_A_RADIOGRAPH


def test_palette_colors_are_no_radiograph():
    assert reason_of(factories.encode_dicom(PhotometricInterpretation="PALETTE COLOR")) is Reason.NOT_A_RADIOGRAPH


def test_several_frames_are_refused(chest):
    data = factories.encode_dicom(chest, NumberOfFrames=2, PixelData=chest.tobytes() * 2)

    assert reason_of(data) is Reason.MULTI_FRAME
    assert read_dicom(NumberOfFrames=1).format is Format.DICOM


def test_the_size_is_checked_before_pixels_are_decoded():
    assert reason_of(factories.encode_dicom(Rows=40_000, Columns=40_000)) is Reason.TOO_LARGE
    assert reason_of(factories.encode_dicom(Rows=1, Columns=1)) is Reason.TOO_SMALL


def test_deeply_nested_sequences_are_damage():
    item = struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    data = factories.encode_dicom()
    start = data.index(struct.pack("<HH2s", 8, 0x16, b"UI"))

    assert reason_of(data[:start] + item * 5000 + data[start:]) is Reason.DAMAGED


def test_an_ordinary_sequence_is_passed_over(chest):
    item = Dataset()
    item.PatientName = factories.CANARY

    assert (read_dicom(chest, ReferencedStudySequence=[item, item]).pixels == chest).all()


def test_a_tiff_header_in_the_preamble_changes_nothing(chest):
    preamble = factories.encode_tiff(255 - chest)[:128]

    assert (read_dicom(chest, preamble=preamble).pixels == chest).all()


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGBaseline8Bit]
)
def test_a_file_cut_anywhere_is_never_scored(chest, syntax):
    frame = factories.encode_jpeg(chest) if syntax == JPEGBaseline8Bit else None
    data = factories.encode_dicom(chest, syntax=syntax, frame=frame)
    whole = read(data).pixels
    cuts = [len(data) * percent // 100 for percent in range(5, 100, 5)] + [len(data) - n for n in range(1, 40)]

    for cut in cuts:
        try:
            scan = read(data[:cut])
        except ScanError as error:
            assert error.reason in {Reason.DAMAGED, Reason.NOT_A_RADIOGRAPH, Reason.NOT_AN_IMAGE}  # noqa: PT017
        else:
            assert np.array_equal(scan.pixels, whole), f"cut to {cut} of {len(data)} bytes"


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_raises_nothing_but_a_scan_error(deep, seed):
    data = factories.encode_dicom(
        deep, WindowCenter="2048", WindowWidth="4096", PixelPaddingValue=0, **factories.make_table(np.arange(64))
    )
    random = np.random.default_rng(seed)

    for _ in range(60):
        damaged = bytearray(data)
        for position in random.integers(132, 1400, random.integers(1, 9)):
            damaged[position] = random.integers(256)
        try:
            scan = read(bytes(damaged), max_pixels=1_000_000)
        except ScanError as error:
            assert "CANARY" not in str(error)  # noqa: PT017
        else:
            prepared = prepare(scan, InputSpec(height_px=16, width_px=16, channels=1))
            assert np.isfinite(prepared).all()


def bundled_files():
    """Files of pydicom and pydicom-data."""
    folders = [Path(pydicom.data.__file__).parent]
    if spec := importlib.util.find_spec("data_store"):
        folders.append(Path(spec.submodule_search_locations[0]))
    return sorted({path for folder in folders for path in folder.rglob("*") if path.is_file()})


def find_bundled(name):
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not installed (pydicom-data)")
    return Path(path).read_bytes()


def test_every_bundled_file_is_read_or_refused_for_a_reason():
    files = bundled_files()

    assert len(files) > 80
    for path in files:
        try:
            scan = read(path.read_bytes())
        except ScanError as error:
            assert error.reason.is_rejection, path.name  # noqa: PT017
            assert error.reason is not Reason.DAMAGED, path.name  # noqa: PT017  # pydicom reads all of them
        else:
            assert np.isfinite(prepare(scan, InputSpec(height_px=16, width_px=16, channels=1))).all(), path.name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CT_small.dcm", Reason.NOT_A_RADIOGRAPH),
        ("MR_truncated.dcm", Reason.NOT_A_RADIOGRAPH),
        ("DICOMDIR", Reason.NOT_A_RADIOGRAPH),
        ("meta_missing_tsyntax.dcm", Reason.NOT_A_RADIOGRAPH),
        ("MR_small_RLE.dcm", Reason.NOT_A_RADIOGRAPH),
        ("SC_rgb_2frame.dcm", Reason.MULTI_FRAME),
    ],
)
def test_bundled_files_are_refused_for_the_right_reason(name, reason):
    assert reason_of(find_bundled(name)) is reason


def test_a_real_chest_with_a_tiff_header_is_read_as_dicom_and_inverted():
    data = find_bundled("RG1_UNCR.dcm")
    dataset = pydicom.dcmread(Path(pydicom.data.get_testdata_file("RG1_UNCR.dcm", download=False)))

    scan = read(data)

    assert scan.format is Format.DICOM
    assert scan.pixels.shape == (1955, 1841)
    assert dataset.PhotometricInterpretation == "MONOCHROME1"
    assert scan.black > scan.white
    gray = shown(scan)
    assert gray[900:1100, 800:1000].mean() > gray[700:1200, 300:500].mean()  # the spine is brighter than a lung


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_jpeg_no_color_transform.dcm",
        "SC_rgb_jpeg_app14_dcmd.dcm",
    ],
)
def test_jpeg_colors_agree_with_pydicom(name):
    path = pydicom.data.get_testdata_file(name, download=False)
    expected = luma_of(pydicom.dcmread(path).pixel_array)

    assert np.abs(read(Path(path).read_bytes()).pixels - expected).mean() < 0.5


@pytest.mark.parametrize("name", ["SC_rgb_dcmtk_+eb+cr.dcm", "SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
def test_the_sample_of_jpeg_colors_agrees_with_pydicom(name):
    path = pydicom.data.get_testdata_file(name, download=False)
    pixels = pydicom.dcmread(path).pixel_array
    expected = np.asarray(Image.fromarray(pixels).convert("YCbCr").resize((64, 64), Image.Resampling.BOX), np.float64)

    sampled = read(Path(path).read_bytes(), with_colors=True).colors.astype(np.float64)

    assert np.abs(sampled.mean(axis=(0, 1)) - expected.mean(axis=(0, 1))).max() < 6


def test_uncompressed_colors_are_sampled_and_gray_has_none(chest):
    red = np.full((90, 120, 3), (200, 20, 20), np.uint8)
    red[0] = (0, 0, 0)
    ybr = np.asarray(Image.fromarray(red).convert("YCbCr"))
    for data in (
        factories.encode_dicom(red),
        factories.encode_dicom(ybr, PhotometricInterpretation="YBR_FULL"),
    ):
        assert (np.abs(read(data, with_colors=True).colors[1:, :, 2].astype(int) - ybr[1, 0, 2]) <= 1).all()
    assert read(factories.encode_dicom(chest), with_colors=True).colors is None
    assert read(factories.encode_dicom(red)).colors is None


def test_plain_text_named_dicom_is_no_image():
    assert reason_of(b"DICM is only a word" * 99) is Reason.NOT_AN_IMAGE


def test_an_error_of_the_file_is_no_unexpected_one():
    with pytest.raises(UnreadableScan):
        read(b"\0" * 128 + b"DICM")
