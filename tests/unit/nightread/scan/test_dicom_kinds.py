"""What writers of DICOM leave out or get wrong, kind by kind: shown right, or refused with the tag named."""

import struct

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
)

from nightread.errors import ScanError
from nightread.reasons import Reason
from nightread.scan.acquisition import Accepted
from nightread.scan.decode import read_scan
from nightread.scan.dicom_file import describe_tag
from nightread.scan.formats import SNIFF_BYTES, Format, sniff
from nightread.scan.scan import BrightnessRule, Contradiction
from tests import factories

CHEST = factories.small_chest()
DEEP = CHEST.astype(np.uint16) * 16
TWELVE = {"BitsStored": 12, "HighBit": 11}
WINDOW = {"WindowCenter": "2048", "WindowWidth": "4096"}


def read(data):
    return read_scan(data, max_pixels=10**7)


def shown(data):
    scan = read(data)
    return np.clip((scan.pixels.astype(np.float64) - scan.black) / (scan.white - scan.black), 0, 1)


def refuse(data):
    with pytest.raises(ScanError) as caught:
        read(data)
    assert factories.CANARY not in str(caught.value)
    return caught.value.reason, str(caught.value)


def assert_shown(data, gray, levels=255):
    np.testing.assert_allclose(shown(data), gray, atol=1 / levels)


def save(dataset):
    buffer = DicomBytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


EXPECTED = DEEP / 4095


class TestStoredBits:
    def test_high_bit_above_the_stored_bits_shifts_them_down(self):
        noise = np.random.default_rng(1).integers(0, 16, DEEP.shape).astype(np.uint16)
        assert_shown(factories.encode_dicom((DEEP << 4) | noise, BitsStored=12, HighBit=15, **WINDOW), EXPECTED)

    def test_overlay_bits_above_the_stored_ones_are_masked(self):
        overlay = (np.arange(DEEP.size).reshape(DEEP.shape) % 7 == 0).astype(np.uint16) << 12
        assert_shown(factories.encode_dicom(DEEP | overlay, **TWELVE, **WINDOW), EXPECTED)

    @pytest.mark.parametrize("tag", [0x60000100, 0x601E0102])
    @pytest.mark.parametrize("encode", [imagecodecs.ljpeg_encode, imagecodecs.jpegls_encode, imagecodecs.jpeg2k_encode])
    def test_a_declared_overlay_in_a_compressed_frame_is_masked(self, tag, encode):
        overlay = (np.arange(DEEP.size).reshape(DEEP.shape) % 7 == 0).astype(np.uint16) << 12
        frame = bytes(encode(DEEP | overlay, **({"level": 0} if encode is imagecodecs.jpeg2k_encode else {})))
        data = factories.encode_dicom(DEEP, syntax=JPEG2000Lossless, frame=frame, **TWELVE)
        dataset = dcmread(DicomBytesIO(data))
        dataset.add_new(tag, "US", 16 if tag & 0xFF == 0 else 12)
        assert_shown(save(dataset), EXPECTED)

    def test_an_8_bit_frame_that_is_tagged_12_bits_deep_is_shown_as_8_bits(self):
        frame = factories.encode_jpeg(CHEST)
        data = factories.encode_dicom(DEEP, syntax=JPEGBaseline8Bit, frame=frame, **TWELVE)
        assert_shown(data, shown(frame))

    @pytest.mark.parametrize("stored", [4294967295, 0, "12 bits"])
    def test_bits_stored_of_another_type_or_range_is_damage_that_names_the_tag(self, stored):
        data = factories.encode_dicom(
            CHEST, syntax=JPEGBaseline8Bit, frame=factories.encode_jpeg(CHEST), BitsStored=None
        )
        vr, value = ("LO", stored) if isinstance(stored, str) else ("UL", stored)
        dataset = dcmread(DicomBytesIO(data))
        dataset.add_new("BitsStored", vr, value)
        reason, text = refuse(save(dataset))
        assert (reason, "(0028,0101) Bits Stored" in text) == (Reason.DAMAGED, True)


class TestMissing:
    @pytest.mark.parametrize("tag", ["BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation"])
    def test_an_attribute_with_a_plain_default_may_be_missing(self, tag):
        assert_shown(factories.encode_dicom(DEEP, **(TWELVE | WINDOW | {tag: None})), EXPECTED)

    def test_samples_per_pixel_may_be_missing(self):
        assert_shown(factories.encode_dicom(DEEP, SamplesPerPixel=None, **TWELVE, **WINDOW), EXPECTED)

    def test_bits_allocated_has_no_default_and_is_named(self):
        assert "(0028,0100) Bits Allocated is missing" in refuse(factories.encode_dicom(DEEP, BitsAllocated=None))[1]

    @pytest.mark.parametrize("tag", ["Rows", "Columns"])
    def test_a_side_has_no_default_and_is_named(self, tag):
        reason, text = refuse(factories.encode_dicom(DEEP, **{tag: None}))
        assert (reason, f"{tag} is missing" in text) == (Reason.NOT_A_RADIOGRAPH, True)

    @pytest.mark.parametrize(
        "photometric", ["monochrome1", "Monochrome1 ", "MONOCHROME 1", "MONOCHROME_1", "Monochrome1\0"]
    )
    def test_photometric_interpretation_is_read_however_it_is_spelled(self, photometric):
        data = factories.encode_dicom(DEEP, PhotometricInterpretation=photometric, **TWELVE, **WINDOW)
        assert_shown(data, 1 - EXPECTED)

    @pytest.mark.parametrize("photometric", ["MONOCROME1", "MONOCHROME", "GRAYSCALE", "HSV", "ARGB", "??"])
    def test_another_photometric_interpretation_is_refused_and_not_taken_for_monochrome2(self, photometric):
        reason, text = refuse(factories.encode_dicom(DEEP, PhotometricInterpretation=photometric, **TWELVE, **WINDOW))
        assert (reason, text[:39]) == (Reason.UNSUPPORTED_FORMAT, "(0028,0004) Photometric Interpretation ")

    @pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept", "NumberOfFrames"])
    def test_a_number_of_blanks_is_missing(self, tag):
        data = factories.encode_dicom(DEEP, **{tag: "77"}, **TWELVE, **WINDOW)
        assert_shown(data.replace(b"\x02\x0077", b"\x02\x00  "), EXPECTED)


class TestFileStructure:
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    def test_the_length_of_the_group_of_the_pixels_may_precede_them(self, syntax):
        data = factories.encode_dicom(DEEP, syntax=syntax, **TWELVE, **WINDOW)
        at = data.rindex(b"\xe0\x7f\x10\x00")
        head = b"UL\x04\x00" if syntax == ExplicitVRLittleEndian else b"\x04\x00\x00\x00"
        length = b"\xe0\x7f\x00\x00" + head + struct.pack("<L", len(data) - at)
        assert_shown(data[:at] + length + data[at:], EXPECTED)

    def test_an_extended_offset_table_may_precede_the_pixels(self):
        frame = factories.encode_jpeg(CHEST)
        fields = {"ExtendedOffsetTable": bytes(8), "ExtendedOffsetTableLengths": struct.pack("<Q", len(frame))}
        assert_shown(factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=frame, **fields), shown(frame))

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    @pytest.mark.parametrize("with_preamble", [False, True])
    @pytest.mark.parametrize("with_meta", [False, True])
    def test_a_data_set_is_found_without_preamble_or_meta_group(self, syntax, with_preamble, with_meta):
        data = factories.encode_dicom(DEEP, syntax=syntax, **TWELVE, **WINDOW)
        at = data.index(b"\x08\x00\x16\x00")
        whole = data[:132] * with_preamble + data[132:at] * with_meta + data[at:]
        if with_preamble and not with_meta:
            whole = data[:132] + data[at:]
        assert sniff(whole[:SNIFF_BYTES]) is Format.DICOM
        assert_shown(whole, EXPECTED)

    def test_the_preamble_alone_may_be_missing(self):
        data = factories.encode_dicom(DEEP, **TWELVE, **WINDOW)[128:]
        assert sniff(data[:SNIFF_BYTES]) is Format.DICOM
        assert_shown(data, EXPECTED)

    def test_a_native_frame_whose_syntax_says_jpeg_is_read_as_it_is(self):
        data = factories.encode_dicom(DEEP, syntax=JPEGBaseline8Bit, **TWELVE, **WINDOW)
        assert_shown(data, EXPECTED)
        assert read(data).contradictions == {Contradiction.TRANSFER_SYNTAX}
        assert refuse(data[:-2])[0] is Reason.DAMAGED

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    def test_an_instance_of_private_groups_alone_holds_no_image(self, syntax):
        data = factories.encode_dicom(CHEST, syntax=syntax)
        meta = data[: data.index(b"\x08\x00\x16\x00")]
        private = b"\x03\x3f\x10\0" + (b"LO\x04\0" if syntax == ExplicitVRLittleEndian else b"\x04\0\0\0") + b"abcd"
        assert refuse(meta + private) == (
            Reason.NOT_A_RADIOGRAPH, "the DICOM instance holds no image: (7FE0,0010) Pixel Data is missing"
        )  # fmt: skip

    def test_text_and_random_bytes_are_no_data_set(self):
        random = np.random.default_rng(0)
        for head in (
            b"\x08\x00abcdefgh" * 40,
            b"\x02\x00\x00\x00" * 90,
            *(random.bytes(SNIFF_BYTES) for _ in range(2000)),
        ):
            assert sniff(head) is not Format.DICOM

    def test_a_frame_without_sequence_delimiter_is_read(self):
        data = factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=factories.encode_jpeg(CHEST))
        assert data.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
        assert np.array_equal(read(data[:-8]).pixels, read(data).pixels)

    def test_a_wrong_offset_table_has_no_say(self):
        frame = factories.encode_jpeg(CHEST)
        table = struct.pack("<HHLL", 0xFFFE, 0xE000, 4, 123456)
        content = table + encapsulate([frame], has_bot=False)[8:]
        data = factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=frame, PixelData=content)
        assert np.array_equal(
            read(data).pixels, read(factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=frame)).pixels
        )

    @pytest.mark.parametrize("fragments", [1, 3])
    def test_an_offset_table_that_was_left_out_takes_no_part_of_the_frame(self, fragments):
        frame = factories.encode_jpeg(CHEST)
        content = encapsulate([frame], has_bot=False, fragments_per_frame=fragments)[8:]
        data = factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=frame, PixelData=content)
        np.testing.assert_array_equal(read(data).pixels, read(frame).pixels)

    def test_one_frame_in_many_fragments_is_joined(self):
        frame = factories.encode_jpeg(CHEST)
        content = encapsulate([frame], fragments_per_frame=5)
        data = factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=frame, PixelData=content)
        assert read(data).pixels.shape == CHEST.shape

    def test_of_an_odd_number_of_bytes_the_last_may_never_have_been_stored(self):
        odd = CHEST[:119, :143]
        data = factories.encode_dicom(odd, PixelData=odd.tobytes()[:-1])
        assert np.array_equal(read(data).pixels.ravel()[:-1], odd.ravel()[:-1])

    def test_a_file_that_is_cut_before_its_rows_is_damaged(self):
        data = factories.encode_dicom(DEEP)
        assert refuse(data[: data.index(b"\x28\x00\x10\x00US")])[0] is Reason.DAMAGED

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
    def test_a_file_that_is_cut_in_the_head_of_an_attribute_is_damaged(self, syntax):
        data = factories.encode_dicom(DEEP, syntax=syntax)
        place = data.rindex(b"CR") + 2  # of Modality, a whole attribute
        assert {refuse(data[: place + more])[0] for more in range(1, 8)} == {Reason.DAMAGED}

    def test_a_cut_frame_is_damaged(self):
        data = factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=factories.encode_jpeg(CHEST))
        assert refuse(data[:-200])[0] is Reason.DAMAGED

    @pytest.mark.parametrize("percent", [25, 75, 90])
    def test_a_progressive_frame_that_was_cut_and_closed_is_damaged_as_a_file_of_it_is(self, percent):
        large = np.kron(CHEST, np.ones((4, 4), np.uint8))
        frame = factories.encode_jpeg(large, progressive=True)
        cut = frame[: len(frame) * percent // 100] + b"\xff\xd9"
        assert read(factories.encode_dicom(large, syntax=JPEGBaseline8Bit, frame=frame)).pixels.shape == large.shape
        assert refuse(factories.encode_dicom(large, syntax=JPEGBaseline8Bit, frame=cut))[0] is Reason.DAMAGED
        assert refuse(cut)[0] is Reason.DAMAGED

    @pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"])
    def test_a_progressive_frame_of_a_retired_syntax_is_decoded(self, syntax):
        frame = factories.encode_jpeg(CHEST, progressive=True)
        data = factories.encode_dicom(CHEST, syntax=syntax, frame=frame)
        assert_shown(data, shown(frame))
        assert read(data).contradictions == frozenset()

    def test_a_signed_frame_in_baseline_jpeg_is_signed(self):
        frame = factories.encode_jpeg(CHEST ^ 0x80, quality=100)
        fields = {"PixelRepresentation": 1, "WindowCenter": "0", "WindowWidth": "256"}
        np.testing.assert_allclose(
            shown(factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=frame, **fields)).mean(),
            (CHEST / 255).mean(), atol=0.02,
        )  # fmt: skip

    def test_a_baseline_frame_whose_syntax_says_lossless_is_decoded(self):
        frame = factories.encode_jpeg(CHEST)
        plain = read(factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=frame))
        assert np.array_equal(
            read(factories.encode_dicom(CHEST, syntax=JPEGLosslessSV1, frame=frame)).pixels, plain.pixels
        )


class TestWhatItIs:
    @pytest.mark.parametrize(
        "modality", ["CR", "DX", "DR", "XR", "RF", "RG", "dx", "Cr ", ["CR", "DX"], ["XA", "DX"], None, ""]
    )
    def test_radiographs_are_read_whichever_of_their_names_they_have(self, modality):
        assert_shown(factories.encode_dicom(DEEP, Modality=modality, **TWELVE, **WINDOW), EXPECTED)

    @pytest.mark.parametrize("modality", ["XA", "OT", "SC", "sc"])
    def test_other_modalities_of_radiographs_are_read_if_they_are_accepted(self, modality):
        data = factories.encode_dicom(DEEP, Modality=modality, **TWELVE, **WINDOW)
        reason, text = refuse(data)
        assert reason is Reason.NOT_A_RADIOGRAPH
        assert f"add {modality.upper()} to NIGHTREAD_MODALITIES" in text
        scan = read_scan(data, max_pixels=10**7, accepted=Accepted(frozenset({"CR", modality.upper()})))
        assert scan.rule is BrightnessRule.WINDOW

    @pytest.mark.parametrize("modality", ["CT", "MR", "US", "NM", "MG", "SR", ["CT", "MR"]])
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, MPEG2MPML])
    def test_others_are_no_radiographs_whatever_their_syntax(self, modality, syntax):
        frame = None if syntax == ExplicitVRLittleEndian else b"\0\0"
        data = factories.encode_dicom(DEEP, Modality=modality, syntax=syntax, frame=frame)
        reason, text = refuse(data)
        assert reason is Reason.NOT_A_RADIOGRAPH
        assert "NIGHTREAD_MODALITIES" not in text

    def test_raw_detector_values_are_read_if_they_are_accepted(self):
        data = factories.encode_dicom(DEEP, PresentationIntentType="FOR PROCESSING", **TWELVE, **WINDOW)
        assert "NIGHTREAD_FOR_PROCESSING=true" in refuse(data)[1]
        assert read_scan(data, max_pixels=10**7, accepted=Accepted(for_processing=True)).rule is BrightnessRule.WINDOW

    def test_raw_detector_values_are_refused_by_name(self):
        reason, text = refuse(factories.encode_dicom(DEEP, PresentationIntentType="FOR PROCESSING", **TWELVE))
        assert reason is Reason.FOR_PROCESSING
        assert "(0008,0068)" in text
        assert read(factories.encode_dicom(DEEP, PresentationIntentType="FOR PRESENTATION", **TWELVE))

    def test_retired_color_spaces_are_refused_by_name(self):
        colors = np.repeat(CHEST[..., None], 3, axis=2)
        half = np.repeat(CHEST, 2, axis=0).tobytes()
        data = factories.encode_dicom(colors, PhotometricInterpretation="YBR_PARTIAL_422", PixelData=half)
        reason, text = refuse(data)
        assert (reason, "YBR_PARTIAL_422" in text) == (Reason.UNSUPPORTED_FORMAT, True)

    @pytest.mark.parametrize(("keyword", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
    def test_pixels_in_floating_point_are_refused_by_name(self, keyword, kind):
        dataset = dcmread(DicomBytesIO(factories.encode_dicom(CHEST)))
        del dataset.PixelData
        setattr(dataset, keyword, (CHEST / 255).astype(kind).tobytes())
        reason, text = refuse(save(dataset))
        assert (reason, describe_tag(keyword) in text) == (Reason.UNSUPPORTED_FORMAT, True)

    def test_a_video_is_refused_without_a_command_that_would_convert_it(self):
        reason, text = refuse(factories.encode_dicom(CHEST, syntax=MPEG2MPML, frame=b"\0\0\1\xb3"))
        assert reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX
        assert ("a scan is one picture, no video" in text, "gdcmconv" in text) == (True, False)


class TestColors:
    @pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT"])
    @pytest.mark.parametrize("mct", [True, False])
    def test_gray_in_three_components_of_jpeg_2000_is_gray_whatever_its_label(self, photometric, mct):
        pixels = np.repeat(CHEST[..., None], 3, axis=2)
        frame = imagecodecs.jpeg2k_encode(pixels, level=0, mct=mct)
        data = factories.encode_dicom(
            pixels, syntax=JPEG2000Lossless, frame=frame, PhotometricInterpretation=photometric
        )
        scan = read_scan(data, max_pixels=10**7, with_colors=True)
        np.testing.assert_allclose(scan.pixels, CHEST, atol=1e-3)
        assert (scan.colors[..., 1:] == 128).all()

    @pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
    def test_the_component_transform_of_jpeg_2000_says_rgb_whatever_the_label(self, photometric):
        pixels = np.stack([CHEST // 2, CHEST, CHEST], axis=2)
        frame = imagecodecs.jpeg2k_encode(pixels, level=0, mct=True)
        data = factories.encode_dicom(
            pixels, syntax=JPEG2000Lossless, frame=frame, PhotometricInterpretation=photometric
        )
        np.testing.assert_allclose(read(data).pixels, pixels @ [0.299, 0.587, 0.114], atol=1e-3)


class TestPalette:
    @staticmethod
    def encode(red, green, blue, bits=8, first=0, **fields):
        fields |= {"PhotometricInterpretation": "PALETTE COLOR"}
        for name, table in (("Red", red), ("Green", green), ("Blue", blue)):
            kind = "<u2" if bits == 16 else "u1"
            fields[f"{name}PaletteColorLookupTableDescriptor"] = [len(table) % 2**16, first, bits]
            fields[f"{name}PaletteColorLookupTableData"] = np.asarray(table, kind).tobytes()
        return factories.encode_dicom(CHEST, **fields)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_a_palette_of_grays_is_gray(self, bits):
        table = np.arange(256) if bits == 8 else np.arange(256) * 257
        assert_shown(self.encode(table, table, table, bits), CHEST / 255)

    def test_a_palette_of_grays_is_looked_up_in_a_jpeg_frame_too(self):
        table = np.arange(256)[::-1]
        plain = factories.encode_dicom(CHEST, syntax=JPEGBaseline8Bit, frame=factories.encode_jpeg(CHEST))
        data = self.encode(table, table, table, syntax=JPEGBaseline8Bit, frame=factories.encode_jpeg(CHEST))
        assert_shown(data, 1 - shown(plain))

    def test_a_palette_of_colors_is_no_radiograph(self):
        table = np.arange(256)
        assert refuse(self.encode(table, table[::-1], table))[0] is Reason.NOT_A_RADIOGRAPH

    def test_a_palette_in_segments_is_refused_by_name(self):
        tag = "SegmentedRedPaletteColorLookupTableData"
        data = factories.encode_dicom(CHEST, PhotometricInterpretation="PALETTE COLOR", **{tag: bytes(12)})
        assert refuse(data) == (Reason.UNSUPPORTED_FORMAT, f"{describe_tag(tag)} is not read")


class TestWindowAndTables:
    def test_a_linear_window_of_width_1_is_a_threshold(self):
        mask = (CHEST > 120).astype(np.uint8)  # PS3.3 C.11.2.1.2.1: white above center - 0.5
        assert_shown(factories.encode_dicom(mask, WindowCenter="1", WindowWidth="1"), mask)

    @pytest.mark.parametrize(
        "window", [("NaN", "4096"), ("2048", "nan"), ("2048", "-1"), ("2048", "0"), ("inf", "4096")]
    )
    def test_a_window_that_is_none_is_passed_over(self, window):
        data = factories.encode_dicom(DEEP, WindowCenter="7.5", WindowWidth="9.5", **TWELVE)
        for before, after in zip(("7.5 ", "9.5 "), window, strict=True):
            data = data.replace(
                struct.pack("<H", 4) + before.encode(), struct.pack("<H", 4) + after.ljust(4).encode()[:4]
            )
        assert_shown(data, EXPECTED)

    def test_a_window_beside_all_pixels_is_named(self):
        reason, text = refuse(factories.encode_dicom(DEEP, WindowCenter="40000", WindowWidth="1000", **TWELVE))
        assert reason is Reason.BLANK
        assert "(0028,1050) Window Center" in text

    @pytest.mark.parametrize("declared", [8, 12, 16])
    def test_white_of_a_voi_table_is_that_of_the_bits_that_its_entries_take(self, declared):
        data = factories.encode_dicom(DEEP, **TWELVE, **factories.make_table(np.arange(4096), bits=declared))
        assert_shown(data, EXPECTED)

    def test_two_8_bit_entries_in_each_word_are_unpacked(self):
        item = Dataset()
        item.LUTDescriptor = [256, 0, 8]
        item.add_new("LUTData", "US", np.arange(256, dtype=np.uint8).view("<u2").tolist())
        assert_shown(factories.encode_dicom(CHEST, VOILUTSequence=Sequence([item])), CHEST / 255)

    def test_a_negative_first_value_that_is_written_as_unsigned_is_negative(self):
        signed = DEEP.astype(np.int16) - 2000
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [4096, 63536, 12])
        item.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
        assert_shown(factories.encode_dicom(signed, VOILUTSequence=Sequence([item])), EXPECTED)

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    @pytest.mark.parametrize("first", [40_000, 40_000 - 2**16])
    def test_a_voi_table_begins_at_what_the_modality_table_returns_with_either_sign(self, syntax, first):
        signed = DEEP.astype(np.int16) - 2048
        fields = factories.make_table(np.arange(4096) + 40_000, first=-2048, keyword="ModalityLUTSequence")
        fields |= factories.make_table(np.arange(4096), first=first, bits=12)
        assert_shown(factories.encode_dicom(signed, syntax=syntax, **TWELVE, **fields), EXPECTED)

    @pytest.mark.parametrize(("fields", "is_noted"), [
        ({"RescaleSlope": "0.5"}, True), ({"RescaleIntercept": "-1024"}, True), ({"RescaleSlope": "1"}, False),
        ({"RescaleIntercept": "0"}, False),
    ])  # fmt: skip
    def test_half_of_a_rescale_is_not_applied_and_noted(self, fields, is_noted):
        data = factories.encode_dicom(DEEP, **TWELVE, **WINDOW, **fields)
        np.testing.assert_allclose(shown(data), DEEP / 4095, atol=1 / 255)
        assert (Contradiction.MISSING_ATTRIBUTE in read(data).contradictions) == is_noted

    def test_a_slope_of_0_is_damage_that_names_the_tag(self):
        reason, text = refuse(factories.encode_dicom(DEEP, RescaleSlope="0", RescaleIntercept="7", **TWELVE))
        assert (reason, "(0028,1053) Rescale Slope is 0" in text) == (Reason.DAMAGED, True)

    @pytest.mark.parametrize("place", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
    def test_an_enhanced_instance_of_one_frame_has_its_window_and_rescale_in_groups(self, place):
        group, rescale, window = Dataset(), Dataset(), Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept = "2", "100"
        window.WindowCenter, window.WindowWidth = "4196", "8192"
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = Sequence([rescale]), Sequence([window])
        data = factories.encode_dicom(DEEP, NumberOfFrames=1, **{place: Sequence([group])}, **TWELVE)
        assert read(data).rule is BrightnessRule.WINDOW
        assert_shown(data, EXPECTED)

    @pytest.mark.parametrize(("photometric", "shape", "inverted"), [
        ("MONOCHROME2", "IDENTITY", False), ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "INVERSE", True), ("MONOCHROME1", "IDENTITY", True),
    ])  # fmt: skip
    def test_presentation_lut_shape_inverts_once(self, photometric, shape, inverted):
        data = factories.encode_dicom(
            DEEP, PhotometricInterpretation=photometric, PresentationLUTShape=shape, **TWELVE, **WINDOW
        )
        assert_shown(data, 1 - EXPECTED if inverted else EXPECTED)

    def test_padding_that_is_written_as_unsigned_beside_signed_pixels_is_padding(self):
        signed = DEEP.astype(np.int16) - 1000
        signed[:, :15] = -2000
        data = factories.encode_dicom(signed, PixelPaddingValue=None)
        dataset = dcmread(DicomBytesIO(data))
        dataset.add_new("PixelPaddingValue", "US", 63536)
        scan = read(save(dataset))
        assert (scan.black, scan.white) == (signed[:, 15:].min(), signed.max())


class TestPresentation:
    """One picture in every representation: all agree within one gray level (after IHE's mlut and vlut test set)."""

    @pytest.mark.parametrize("bits", [8, 12, 16])
    @pytest.mark.parametrize("is_signed", [False, True])
    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("way", ["window", "exact", "voi", "modality", "rescaled", "sigmoid"])
    def test_every_representation_shows_the_same_picture(self, bits, is_signed, photometric, way):
        top = 2**bits
        levels = CHEST.astype(np.int64) * (top - 1) // 255
        levels = levels if photometric == "MONOCHROME2" else top - 1 - levels
        offset = top // 2 if is_signed else 0
        kind = {(8, False): np.uint8, (8, True): np.int8}.get((bits, is_signed), np.int16 if is_signed else np.uint16)
        stored = (levels - offset).astype(kind)
        fields = {"BitsStored": bits, "HighBit": bits - 1, "PhotometricInterpretation": photometric}
        table = {"first": -offset, "bits": bits}
        if way == "window":
            fields |= {"WindowCenter": str(top / 2 - offset), "WindowWidth": str(top)}
        elif way == "exact":
            fields |= {
                "WindowCenter": str((top - 1) / 2 - offset),
                "WindowWidth": str(top - 1),
                "VOILUTFunction": "LINEAR_EXACT",
            }
        elif way == "voi":
            fields |= factories.make_table(np.arange(top), **table)
        elif way == "modality":
            fields |= factories.make_table(np.arange(top), keyword="ModalityLUTSequence", **table)
            fields |= {"WindowCenter": str(top / 2), "WindowWidth": str(top)}
        elif way == "sigmoid":
            inside = np.clip(levels / (top - 1), 0.02, 0.98)
            width = top / 2  # the curve then takes most of the range
            stored = np.rint(top / 2 - offset - width / 4 * np.log(1 / inside - 1)).astype(kind)
            fields |= {"WindowCenter": str(top / 2 - offset), "WindowWidth": str(width), "VOILUTFunction": "SIGMOID"}
            assert_shown(
                factories.encode_dicom(stored, **fields),
                np.clip(CHEST / 255, 0.02, 0.98),
                levels=127 if bits == 8 else 255,
            )
            return
        else:
            fields |= {"RescaleSlope": "2", "RescaleIntercept": str(2 * offset + 10)}
            fields |= {"WindowCenter": str(top + 10), "WindowWidth": str(2 * top)}
        assert_shown(factories.encode_dicom(stored, **fields), CHEST / 255)

    def test_a_sigmoid_window_is_that_of_the_standard(self):
        data = factories.encode_dicom(DEEP, WindowCenter="2048", WindowWidth="2000", VOILUTFunction="SIGMOID", **TWELVE)
        assert_shown(data, 1 / (1 + np.exp(-4 * (DEEP.astype(float) - 2048) / 2000)))
