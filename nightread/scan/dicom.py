"""Decoding of DICOM: from the bytes of an instance to the pixels of one radiograph (DICOM PS3.3 and PS3.5)."""

import logging
import re
import warnings
from typing import Final

import numpy as np

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.acquisition import MODALITIES, RADIOGRAPHS, Accepted, Acquisition
from nightread.scan.dicom_acquisition import check_frontal, read_acquisition
from nightread.scan.dicom_file import DICOM_ERRORS, SHOWN_PHOTOMETRICS, DicomFile, check_syntax, describe_tag, parse
from nightread.scan.dicom_frame import decode_frame
from nightread.scan.dicom_gray import apply_gray_levels
from nightread.scan.formats import Format
from nightread.scan.scan import BrightnessRule, Contradiction, Scan, check_size

# pydicom warns of each value that violates the standard and quotes it, which could reveal patient data.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

#: Further numeric attributes that are always checked, with their ranges.
_NUMBERS: Final = (
    ("SamplesPerPixel", 1, 4), ("BitsAllocated", 1, 64), ("BitsStored", 1, 64), ("HighBit", 0, 63),
    ("PixelRepresentation", 0, 1),
)  # fmt: skip
#: Attributes without which pixels are undefined; defaults stand in for them.
_REQUIRED: Final = ("SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "PixelRepresentation")
#: Where parametric maps have their values instead.
_FLOATS: Final = ("FloatPixelData", "DoubleFloatPixelData")
_PHOTOMETRIC = re.compile(r"MONOCHROME[12]|PALETTECOLOR|RGB|XYB|YBR[A-Z0-9]*")
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")


def read_dicom(data: bytes, *, max_pixels: int, with_colors: bool = False, accepted: Accepted = RADIOGRAPHS) -> Scan:
    """Decode a single-frame DICOM radiograph.

    Gray levels follow `nightread.scan.dicom_gray`. If attributes and compressed frame contradict each other, the frame
    takes precedence. Colors become luma.

    Raises:
        UnreadableScan: damaged, cut short, too large or too small.
        UnsupportedScan: another modality, a lateral view, several frames, no image, or an unsupported transfer syntax.
    """
    try:
        file = parse(data)
        attributes = file.attributes
        _check_radiograph(file, max_pixels, accepted)
        attributes.take_gray_levels()
        acquisition = read_acquisition(attributes)
        with np.errstate(all="ignore"):  # an overflow shows in the resulting gray levels, which are checked
            stored = decode_frame(file, with_colors=with_colors)
            if stored.is_shown:
                pixels, black, white = stored.gray, 0.0, float(2**stored.bits - 1)
                rule = BrightnessRule.FULL_RANGE
            else:
                pixels, black, white, rule = apply_gray_levels(stored.gray, stored.bits, attributes)
        height_px, width_px = pixels.shape
    except RecursionError:
        raise UnreadableScan(Reason.DAMAGED, "the DICOM sequences are nested too deeply") from None
    except DICOM_ERRORS:
        raise UnreadableScan(Reason.DAMAGED, "the DICOM data is damaged or cut short") from None
    return Scan(
        pixels, black, white, Format.DICOM, width_px, height_px, colors=stored.colors, rule=rule,
        acquisition=acquisition, contradictions=frozenset(attributes.noted),
    )  # fmt: skip


def find_acquisition(data: bytes) -> Acquisition:
    """Return the acquisition of an instance without decoding its pixels."""
    return read_acquisition(parse(data).attributes)


def _check_radiograph(file: DicomFile, max_pixels: int, accepted: Accepted) -> None:
    """Refuse other instances than single-frame radiographs; the modality is checked before the transfer syntax."""
    attributes = file.attributes
    _check_modality(file, accepted)
    if file.is_cut:
        raise UnreadableScan(Reason.DAMAGED, "the DICOM data is cut short")
    check_syntax(file.syntax)
    if file.pixels_at is attributes.raw("Rows") is None and attributes.text("PhotometricInterpretation"):
        raise UnreadableScan(Reason.DAMAGED, "(0028,0010) Rows is missing: the DICOM data is cut short")
    missing = [describe_tag(keyword) for keyword in ("Rows", "Columns") if attributes.raw(keyword) is None]
    floats = next((keyword for keyword in _FLOATS if keyword in attributes.dataset), None)
    if file.pixels_at is None and floats is not None:
        raise UnsupportedScan(
            Reason.UNSUPPORTED_FORMAT,
            f"the image lies in {describe_tag(floats)}; supported is {describe_tag('PixelData')}",
        )
    if file.pixels_at is None or missing:
        named = missing[0] if file.pixels_at is not None else describe_tag("PixelData")
        raise UnsupportedScan(Reason.NOT_A_RADIOGRAPH, f"the DICOM instance holds no image: {named} is missing")
    if attributes.text("PresentationIntentType").upper() == "FOR PROCESSING" and not accepted.for_processing:
        raise UnsupportedScan(
            Reason.FOR_PROCESSING,
            "(0008,0068) Presentation Intent Type is FOR PROCESSING: raw detector values; send the image FOR "
            "PRESENTATION, or set NIGHTREAD_FOR_PROCESSING=true",
        )
    check_frontal(attributes)
    if not all(attributes.text(keyword) or attributes.number(keyword) is not None for keyword in _REQUIRED):
        attributes.noted.add(Contradiction.MISSING_ATTRIBUTE)
    if attributes.text("PhotometricInterpretation") and not _PHOTOMETRIC.fullmatch(attributes.photometric):
        tag = describe_tag("PhotometricInterpretation")
        raise UnsupportedScan(Reason.UNSUPPORTED_FORMAT, f"{tag} is none of the supported ones: {SHOWN_PHOTOMETRICS}")
    for keyword, low, high in _NUMBERS:
        attributes.whole(keyword, low, high, low)
    if attributes.whole("NumberOfFrames", 0, 2**31, 1) > 1:
        raise UnsupportedScan(Reason.MULTI_FRAME, "(0028,0008) Number of Frames is not 1; a scan has one frame")
    check_size(attributes.whole("Columns", 0, 2**31), attributes.whole("Rows", 0, 2**31), max_pixels)


def _check_modality(file: DicomFile, accepted: Accepted) -> None:
    modalities = [modality.upper() for modality in file.attributes.texts("Modality") if modality]
    if not modalities or accepted.modalities.intersection(modalities):
        return
    known = next((modality for modality in modalities if modality in MODALITIES), None)
    shown = known or (modalities[0] if _CODE.fullmatch(modalities[0]) else "invalid")
    raise UnsupportedScan(
        Reason.NOT_A_RADIOGRAPH,
        f"(0008,0060) Modality is {shown}; accepted are {', '.join(sorted(accepted.modalities))}"
        + (f": add {known} to NIGHTREAD_MODALITIES if it stands for radiographs" if known else ""),
    )
