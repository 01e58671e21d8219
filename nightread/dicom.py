"""From the bytes of a DICOM instance to the pixels of one radiograph (DICOM PS3.3 and PS3.5)."""

import re
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid
from pydicom.filereader import data_element_generator
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.formats import Format
from nightread.reading import DECODER_ERRORS, DicomUids, Pixels, Scan, check_size
from nightread.reasons import Reason

#: What is read. Deflated syntaxes stay out for good: they inflate without a limit before a single tag is seen.
TRANSFER_SYNTAXES = frozenset(
    {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.JPEGBaseline8Bit}
)

#: Projection radiographs: computed, digital, screen-film digitised, and "other", which secondary captures carry.
MODALITIES = frozenset({"CR", "DX", "RG", "OT"})

_UID_TAGS: list[Any] = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
# Only what the pixels need and the three UIDs: no patient's name is ever in memory as a value.
_TAGS: list[Any] = [
    *_UID_TAGS, "Modality",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "PixelData",
]  # fmt: skip
_PREAMBLE_BYTES = 132
_TRANSFER_SYNTAX_TAG = 0x00020010
_UID = re.compile(r"[0-9.]{1,64}")

# pydicom adds these to what the image decoders raise.
_DICOM_ERRORS = (*DECODER_ERRORS, AttributeError, NotImplementedError, RuntimeError, pydicom.errors.InvalidDicomError)


def read_dicom(data: bytes, *, max_pixels: int) -> Scan:
    """Decode a single-frame DICOM radiograph.

    The gray levels follow PS3.3 C.11: the modality transform, then the first VOI window or table; where there is
    none, the extremes of the pixels (padding left out) are black and white. MONOCHROME1 swaps black and white, after
    the window, whose values refer to the pixels as stored.

    Raises:
        UnreadableScan: damaged, cut short, too large or too small.
        UnsupportedScan: another modality, several frames, no image, or a transfer syntax that is not read here.
    """
    try:
        _check_transfer_syntax(_read_transfer_syntax(data))
        dataset = pydicom.dcmread(BytesIO(data), specific_tags=_TAGS)
        _check_radiograph(dataset, max_pixels)
        pixels = dataset.pixel_array
        if pixels.ndim == 3:
            pixels = _to_luma(pixels, dataset.PhotometricInterpretation)
        pixels, black, white = _apply_gray_levels(pixels, dataset)
    except RecursionError:
        raise UnreadableScan(Reason.DAMAGED, "sequences are nested too deeply for a radiograph") from None
    except _DICOM_ERRORS:
        raise UnreadableScan(Reason.DAMAGED, "the DICOM data is damaged or cut short") from None
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        black, white = white, black
    return Scan(pixels, black, white, Format.DICOM, int(dataset.Columns), int(dataset.Rows), _get_uids(dataset))


def read_uids(data: bytes) -> DicomUids:
    """Return the three UIDs of an instance that `read_dicom` has decoded before, without decoding it again."""
    dataset = pydicom.dcmread(BytesIO(data), specific_tags=_UID_TAGS, stop_before_pixels=True)
    return _get_uids(dataset)


def _get_uids(dataset: pydicom.Dataset) -> DicomUids:
    return DicomUids(*(_clean_uid(dataset.get(keyword)) for keyword in _UID_TAGS))


def _read_transfer_syntax(data: bytes) -> str:
    """Return (0002,0010) from the file meta group alone, before any data set is parsed, let alone inflated."""
    source = BytesIO(data)
    source.seek(_PREAMBLE_BYTES)
    meta = data_element_generator(
        source, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag >> 16 != 0x0002
    )
    for element in meta:
        if element.tag == _TRANSFER_SYNTAX_TAG and isinstance(element.value, bytes):
            return element.value.decode("ascii", errors="replace").rstrip("\x00 ")
    raise UnreadableScan(Reason.DAMAGED, "(0002,0010) Transfer Syntax UID is missing")


def _check_transfer_syntax(syntax: str) -> None:
    if syntax not in TRANSFER_SYNTAXES:
        name = uid.UID(syntax).name if _UID.fullmatch(syntax) else "unknown"
        raise UnsupportedScan(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            f"(0002,0010) Transfer Syntax {name}; read are uncompressed and JPEG Baseline",
        )


def _check_radiograph(dataset: pydicom.Dataset, max_pixels: int) -> None:
    modality = str(dataset.get("Modality") or "")
    if modality and modality not in MODALITIES:
        allowed = ", ".join(sorted(MODALITIES))
        shown = modality if re.fullmatch(r"[A-Z0-9_ ]{1,16}", modality) else "invalid"
        raise UnsupportedScan(Reason.NOT_A_RADIOGRAPH, f"(0008,0060) Modality is {shown}; read are {allowed}")
    if "PixelData" not in dataset or "Rows" not in dataset or "Columns" not in dataset:
        raise UnsupportedScan(Reason.NOT_A_RADIOGRAPH, "the DICOM instance holds no image")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnsupportedScan(Reason.MULTI_FRAME, "(0028,0008) Number of Frames is not 1; a scan has one")
    check_size(int(dataset.Columns), int(dataset.Rows), max_pixels)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise UnsupportedScan(
            Reason.NOT_A_RADIOGRAPH, "(0028,0004) Photometric Interpretation is PALETTE COLOR; a radiograph is gray"
        )


def _to_luma(pixels: Pixels, photometric: str) -> Pixels:
    """Reduce (H, W, 3) to luma (H, W), float32 (ITU-R BT.601; the Y of YBR is that already)."""
    if photometric.startswith("YBR"):
        return pixels[..., 0]
    luma: Pixels = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return luma


def _apply_gray_levels(pixels: Pixels, dataset: pydicom.Dataset) -> tuple[Pixels, float, float]:
    """Return (pixels, black, white) after modality and VOI transforms.

    A linear window needs no new pixels: its two ends are black and white (PS3.3 C.11.2.1.2.1).
    """
    padding = _find_padding(pixels, dataset)
    values = apply_modality_lut(pixels, dataset)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        if padding is not None:
            values = np.where(padding, values.min(), values)
        return apply_voi(values, dataset), 0.0, float(2 ** int(table.LUTDescriptor[2]) - 1)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        if str(dataset.get("VOILUTFunction") or "LINEAR") == "LINEAR" and width > 1:
            return values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        if width > 0:  # LINEAR_EXACT; SIGMOID differs from it at the ends of the range only
            return values, center - width / 2, center + width / 2
    used = values if padding is None else values[~padding]
    if used.size == 0:
        raise UnreadableScan(Reason.BLANK, "every pixel is padding")
    return values, float(used.min()), float(used.max())


def _find_padding(pixels: Pixels, dataset: pydicom.Dataset) -> npt.NDArray[np.bool_] | None:
    """Return the mask of padding pixels (PS3.3 C.7.5.1.1.2), or None where the instance declares no padding."""
    start = dataset.get("PixelPaddingValue")
    if start is None:
        return None
    end = dataset.get("PixelPaddingRangeLimit", start)
    low, high = sorted((int(start), int(end)))
    mask = (pixels >= low) & (pixels <= high)
    return mask if mask.any() else None


def _first(value: Any) -> float:
    """Return the first of one or more values; the first window is the one that viewers show."""
    return float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)


def _clean_uid(value: Any) -> str | None:
    text = str(value or "")
    return text if _UID.fullmatch(text) else None
