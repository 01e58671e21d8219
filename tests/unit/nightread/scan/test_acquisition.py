"""What is kept of an instance's acquisition, and which views are frontal."""

from dataclasses import fields

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sr._snomed_dict import mapping
from pydicom.uid import JPEGBaseline8Bit, JPEGLosslessSV1

from nightread.errors import ScanError
from nightread.inference.content import decode_content
from nightread.reasons import Reason
from nightread.scan.acquisition import Acquisition, make_acquisition
from nightread.scan.decode import read_scan
from nightread.scan.dicom_acquisition import _VIEWS
from nightread.scan.preprocessing import InputSpec
from nightread.scan.scan import BrightnessRule, Contradiction
from tests import factories

CHEST = factories.small_chest()
DEEP = CHEST.astype(np.uint16) * 16
DEVICE = {
    "BodyPartExamined": "CHEST", "ViewPosition": "PA", "ImageLaterality": "U", "AcquisitionDate": "20261128",
    "AcquisitionTime": "231502.25", "Manufacturer": "FUJIFILM Corporation", "StationName": "ROOM-3",
    "AccessionNumber": "A-4711",
}  # fmt: skip


def read(pixels=DEEP, **attributes):
    return read_scan(factories.encode_dicom(pixels, **attributes), max_pixels=10**7)


def make_code(value, scheme="SRT", meaning="view"):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def refuse(**attributes):
    with pytest.raises(ScanError) as caught:
        read(**attributes)
    return caught.value.reason, str(caught.value)


class TestAcquisition:
    def test_view_device_and_time_are_read(self):
        root = "1.2.826.0.1.3680043.8.498."
        assert read(**DEVICE).acquisition == Acquisition(
            study=f"{root}2", series=f"{root}3", instance=f"{root}1", body_part="CHEST", view_position="PA",
            laterality="U", acquired_at="2026-11-28T23:15:02", manufacturer="FUJIFILM Corporation", station="ROOM-3",
            accession="A-4711",
        )  # fmt: skip

    def test_a_refused_scan_has_its_acquisition_too(self):
        spec = InputSpec(height_px=8, width_px=8, channels=1)
        data = factories.encode_dicom(DEEP, **{**DEVICE, "Modality": "CT"})
        decoded = decode_content(data, spec, 10**7)
        assert decoded.reason is Reason.NOT_A_RADIOGRAPH
        assert decoded.acquisition.station == "ROOM-3"

    @pytest.mark.parametrize(
        ("attributes", "expected"),
        [
            ({"AcquisitionDateTime": "20260102030405.000000+0100"}, "2026-01-02T03:04:05"),
            ({"AcquisitionDate": "2026.01.02", "AcquisitionTime": "03:04:05"}, "2026-01-02T03:04:05"),
            ({"AcquisitionDate": "20260231", "AcquisitionTime": "030405"}, None),
            ({"AcquisitionDate": "20260102"}, None),
            ({"AcquisitionDateTime": "00000000000000"}, None),
            ({}, None),
        ],
    )
    def test_acquisition_times_of_all_forms(self, attributes, expected):
        assert read(**attributes).acquisition.acquired_at == expected

    @pytest.mark.parametrize(
        ("keyword", "field", "value"),
        [
            ("StationName", "station", "=HYPERLINK(1)"), ("StationName", "station", "a" * 17),
            ("StationName", "station", "Müller"), ("StationName", "station", "MEYER^ANNA"),
            ("Manufacturer", "manufacturer", "a\nb"), ("Manufacturer", "manufacturer", "<b>x</b>"),
            ("BodyPartExamined", "body_part", "CHEST; DROP"), ("Laterality", "laterality", "LEFT"),
            ("ViewPosition", "view_position", "@SUM"), ("AccessionNumber", "accession", "a\x1bb"),
        ],
    )  # fmt: skip
    def test_values_without_their_form_are_left_out(self, keyword, field, value):
        data = factories.encode_dicom(DEEP, **{keyword: "x" * len(value.encode())})
        data = data.replace(b"x" * len(value.encode()), value.encode())  # pydicom refuses to write some of these
        assert getattr(read_scan(data, max_pixels=10**7).acquisition, field) is None

    @pytest.mark.parametrize("person", ["PatientName", "PatientID", "OperatorsName", "ReferringPhysicianName"])
    @pytest.mark.parametrize(
        ("keyword", "field"),
        [("StationName", "station"), ("Manufacturer", "manufacturer"), ("BodyPartExamined", "body_part"),
         ("ViewPosition", "view_position")],
    )  # fmt: skip
    def test_a_value_with_a_word_of_a_persons_name_is_left_out(self, person, keyword, field):
        found = read(**{person: "Meyer^Anna", keyword: "MEYER 2"}).acquisition
        assert getattr(found, field) is None
        assert "MEYER" not in repr(found)

    def test_an_accession_number_is_in_no_repr(self):
        assert "4711" not in repr(read(**DEVICE))

    def test_a_damaged_attribute_costs_no_scan(self):
        data = factories.encode_dicom(DEEP, **DEVICE)
        scan = read_scan(data.replace(b"20261128", b"\xff\xfe1\\\\1\\\\"), max_pixels=10**7)
        assert (scan.acquisition.acquired_at, scan.acquisition.station) == (None, "ROOM-3")

    def test_a_hostile_answer_is_cut_down_to_its_form(self):
        hostile = {field.name: {"a": 1} for field in fields(Acquisition)} | {"acquired_at": "2026-13-01T00:00:00"}
        assert make_acquisition(hostile) == Acquisition()


class TestView:
    @pytest.mark.parametrize(
        "view", ["LL", "RL", "LATERAL", "lateral", "LAT", "L LAT", "LLO", "RAO", "OBLIQUE", "XTABLE LATERAL"]
    )
    def test_lateral_and_oblique_views_are_refused(self, view):
        reason, text = refuse(ViewPosition=view)
        assert reason is Reason.NOT_FRONTAL
        assert "(0018,5101) View Position" in text
        assert view not in text.replace("lateral", "")

    @pytest.mark.parametrize("view", ["PA", "AP", "AP AXIAL", "LLD", "AP RLD", "", None, "AP/LAT", "CHEST", "ERECT"])
    def test_frontal_and_unknown_views_are_read(self, view):
        assert read(ViewPosition=view).pixels.shape == DEEP.shape

    @pytest.mark.parametrize(
        "code",
        [make_code("R-10236"), make_code("399198007", "SCT"), make_code("R-102CD"), make_code("X", "99A", "Lateral")],
    )
    def test_a_lateral_view_code_is_refused(self, code):
        reason, text = refuse(ViewCodeSequence=[code])
        assert reason is Reason.NOT_FRONTAL
        assert "(0054,0220) View Code Sequence" in text
        assert refuse(ViewPosition="PA", ViewCodeSequence=[code])[0] is Reason.NOT_FRONTAL

    def test_the_view_of_a_code_is_stored(self):
        assert read(ViewCodeSequence=[make_code("R-10214")]).acquisition.view_position == "PA"
        assert read(ViewCodeSequence=[make_code("X", "99A", "weird")]).acquisition.view_position == "WEIRD"

    @pytest.mark.parametrize("directions", [["A", "F"], ["P", "F"], ["AL", "FP"], ["P", "H"], ["F", "A"]])
    def test_a_sagittal_orientation_is_refused_unless_a_view_is_named(self, directions):
        reason, text = refuse(PatientOrientation=directions)
        assert reason is Reason.NOT_FRONTAL
        assert "(0020,0020) Patient Orientation" in text
        scan = read(PatientOrientation=directions, ViewPosition="PA")
        assert scan.contradictions == {Contradiction.VIEW}

    @pytest.mark.parametrize("directions", [["L", "F"], ["R", "H"], ["LA", "F"], ["A"], ["X", "Y"], ["A", "R"], [""]])
    def test_frontal_and_unknown_orientations_are_read(self, directions):
        assert read(PatientOrientation=directions).contradictions == frozenset()

    def test_both_versions_of_snomed_name_one_view(self):
        pairs = {code: mapping["SRT"].get(code) for code in _VIEWS if not code.isdigit()}
        assert {code: _VIEWS[other] for code, other in pairs.items() if other} == {
            code: _VIEWS[code] for code, other in pairs.items() if other
        }


class TestBrightness:
    @pytest.mark.parametrize(
        ("pixels", "attributes", "rule"),
        [
            (CHEST, {}, BrightnessRule.FULL_RANGE),
            (DEEP, {"BitsStored": 12, "HighBit": 11}, BrightnessRule.STORED_BITS),
            (DEEP, {"WindowCenter": "2048", "WindowWidth": "4096"}, BrightnessRule.WINDOW),
            (DEEP, {}, BrightnessRule.EXTREMES),
            (DEEP, factories.make_table(np.arange(4096), bits=12), BrightnessRule.VOI_TABLE),
        ],
    )
    def test_the_rule_is_told(self, pixels, attributes, rule):
        scan = read(pixels, **attributes)
        assert (scan.rule, scan.contradictions) == (rule, frozenset())

    @pytest.mark.parametrize(
        ("data", "rule"),
        [
            (factories.encode_jpeg(CHEST), BrightnessRule.FULL_RANGE),
            (factories.encode_png16(CHEST), BrightnessRule.BITS_IN_USE),
            (factories.encode_tiff(CHEST), BrightnessRule.FULL_RANGE),
            (factories.encode_tiff(DEEP), BrightnessRule.BITS_IN_USE),
            (factories.encode_tiff(DEEP.astype(np.float32)), BrightnessRule.EXTREMES),
        ],
    )
    def test_the_rule_of_other_formats_is_told(self, data, rule):
        assert read_scan(data, max_pixels=10**7).rule is rule

    @pytest.mark.parametrize(
        ("attributes", "contradiction"),
        [
            ({"BitsStored": 12, "HighBit": 15}, Contradiction.HIGH_BIT),
            ({"PixelRepresentation": None}, Contradiction.MISSING_ATTRIBUTE),
            ({"PhotometricInterpretation": None}, Contradiction.MISSING_ATTRIBUTE),
            ({"WindowCenter": "2048", "WindowWidth": "0"}, Contradiction.WINDOW),
            ({"WindowCenter": "32768", "WindowWidth": "65536"}, Contradiction.WINDOW),
            (factories.make_table(np.arange(4096), bits=16), Contradiction.VOI_TABLE),
            ({"PresentationLUTShape": "INVERSE"}, Contradiction.PRESENTATION_LUT_SHAPE),
            (
                {"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"},
                Contradiction.PRESENTATION_LUT_SHAPE,
            ),
        ],
    )
    def test_a_contradiction_is_noted(self, attributes, contradiction):
        assert read(**attributes).contradictions == {contradiction}

    def test_a_padding_value_of_the_other_sign_is_noted(self):
        pixels = DEEP.astype(np.int16) - 2000
        pixels[:8] = -2000
        data = factories.encode_dicom(pixels, PixelPaddingValue=-2000)
        data = data.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US")
        assert read_scan(data, max_pixels=10**7).contradictions == {Contradiction.PADDING}

    def test_a_frame_of_another_compression_and_depth_is_noted(self):
        frame = factories.encode_jpeg(CHEST)
        twelve = {"BitsStored": 12, "HighBit": 11}
        assert read(syntax=JPEGBaseline8Bit, frame=frame, **twelve).contradictions == {Contradiction.BITS_STORED}
        assert read(CHEST, syntax=JPEGLosslessSV1, frame=frame).contradictions == {Contradiction.TRANSFER_SYNTAX}
