"""Decoding of DICOM: from the bytes of an instance to the pixels of one radiograph (DICOM PS3.3 and PS3.5)."""

import logging
import re
import warnings
from typing import Final

import numpy as np
import pydicom

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.dicom_file import DicomFile, check_syntax, parse
from nightread.scan.dicom_frame import decode_frame
from nightread.scan.dicom_gray import apply_gray_levels
from nightread.scan.formats import Format
from nightread.scan.scan import DECODER_ERRORS, DicomUids, Scan, check_size

# pydicom warns of each value that violates the standard and quotes it, which could reveal patient data.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

#: Projection radiographs: computed, digital, screen-film digitised, fluoroscopic, and the codes that older writers and
#: secondary captures carry.
MODALITIES: Final = frozenset({"CR", "DX", "DR", "XR", "RG", "RF", "OT", "SC"})

#: Further numeric attributes that are always checked, with their ranges.
_NUMBERS: Final = (
    ("SamplesPerPixel", 1, 4), ("BitsAllocated", 1, 64), ("BitsStored", 1, 64), ("HighBit", 0, 63),
    ("PixelRepresentation", 0, 1),
)  # fmt: skip
_UID_KEYWORDS: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_UID = re.compile(r"[0-9.]{1,64}")
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")

# Errors of the image decoders, and those that pydicom adds.
_DICOM_ERRORS: Final = (
    *DECODER_ERRORS,
    RuntimeError,
    pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
)


def read_dicom(data: bytes, *, max_pixels: int, with_colors: bool = False) -> Scan:
    """Decode a single-frame DICOM radiograph.

    Gray levels follow `nightread.scan.dicom_gray`. If attributes and compressed frame contradict each other, the frame
    takes precedence. Colors become luma.

    Raises:
        UnreadableScan: damaged, cut short, too large or too small.
        UnsupportedScan: another modality, several frames, no image, or an unsupported transfer syntax.
    """
    try:
        file = parse(data)
        _check_radiograph(file, max_pixels)
        with np.errstate(all="ignore"):  # an overflow shows in the resulting gray levels, which are checked
            stored = decode_frame(file, with_colors=with_colors)
            if stored.is_shown:
                pixels, black, white = stored.gray, 0.0, float(2**stored.bits - 1)
            else:
                pixels, black, white = apply_gray_levels(stored.gray, stored.bits, file.attributes)
        height_px, width_px = pixels.shape
        uids = DicomUids(*(_clean_uid(file.attributes.text(keyword)) for keyword in _UID_KEYWORDS))
    except RecursionError:
        raise UnreadableScan(Reason.DAMAGED, "the DICOM sequences are nested too deeply") from None
    except _DICOM_ERRORS:
        raise UnreadableScan(Reason.DAMAGED, "the DICOM data is damaged or cut short") from None
    return Scan(pixels, black, white, Format.DICOM, width_px, height_px, uids, colors=stored.colors)


def read_uids(data: bytes) -> DicomUids:
    """Return the three UIDs of an instance that `read_dicom` decoded before, without decoding its pixels again."""
    attributes = parse(data).attributes
    return DicomUids(*(_clean_uid(attributes.text(keyword)) for keyword in _UID_KEYWORDS))


def _check_radiograph(file: DicomFile, max_pixels: int) -> None:
    """Refuse other instances than single-frame radiographs; the modality is checked before the transfer syntax."""
    attributes = file.attributes
    modalities = [modality.upper() for modality in attributes.texts("Modality") if modality]
    if modalities and not MODALITIES.intersection(modalities):
        shown = modalities[0] if _CODE.fullmatch(modalities[0]) else "invalid"
        raise UnsupportedScan(
            Reason.NOT_A_RADIOGRAPH, f"(0008,0060) Modality is {shown}; supported are {', '.join(sorted(MODALITIES))}"
        )
    if file.is_cut:
        raise UnreadableScan(Reason.DAMAGED, "the DICOM data is cut short")
    check_syntax(file.syntax)
    if file.pixels_at is attributes.raw("Rows") is None and attributes.text("PhotometricInterpretation"):
        raise UnreadableScan(Reason.DAMAGED, "(0028,0010) Rows is missing: the DICOM data is cut short")
    if file.pixels_at is None or attributes.raw("Rows") is None or attributes.raw("Columns") is None:
        raise UnsupportedScan(Reason.NOT_A_RADIOGRAPH, "the DICOM instance holds no image")
    if attributes.text("PresentationIntentType").upper() == "FOR PROCESSING":
        raise UnsupportedScan(
            Reason.FOR_PROCESSING,
            "(0008,0068) Presentation Intent Type is FOR PROCESSING: raw detector values; send the image FOR "
            "PRESENTATION",
        )
    for keyword, low, high in _NUMBERS:
        attributes.whole(keyword, low, high, low)
    if attributes.whole("NumberOfFrames", 0, 2**31, 1) > 1:
        raise UnsupportedScan(Reason.MULTI_FRAME, "(0028,0008) Number of Frames is not 1; a scan has one frame")
    check_size(attributes.whole("Columns", 0, 2**31), attributes.whole("Rows", 0, 2**31), max_pixels)


def _clean_uid(text: str) -> str | None:
    return text if _UID.fullmatch(text) else None
