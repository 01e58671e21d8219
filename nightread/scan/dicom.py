"""Decoding of DICOM: from the bytes of an instance to the pixels of one radiograph (DICOM PS3.3 and PS3.5)."""

import logging
import re
import warnings
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.utils import pixel_array

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.formats import Format
from nightread.scan.raster import check_jpeg_end, sample_jpeg_colors
from nightread.scan.scan import COLORS_SIDE_PX, DECODER_ERRORS, Colors, DicomUids, Pixels, Scan, check_size

# pydicom warns of each value that violates the standard and quotes it, which could reveal patient data.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

#: Supported transfer syntaxes. Deflated ones are excluded: they inflate without limit before the first tag is read.
TRANSFER_SYNTAXES = frozenset(
    {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.JPEGBaseline8Bit}
)

#: Projection radiographs: computed, digital, screen-film digitised, and "other", which secondary captures carry.
MODALITIES = frozenset({"CR", "DX", "RG", "OT"})

_UID_TAGS: list[Any] = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
# Only the tags that decoding needs and the three UIDs, so that no patient data is parsed.
_TAGS: list[Any] = [
    *_UID_TAGS, "Modality",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "PixelData",
]  # fmt: skip
_PREAMBLE_BYTES = 132
_FILE_META_GROUP = 0x0002
_UID = re.compile(r"[0-9.]{1,64}")

# Errors of the image decoders, and those that pydicom adds.
_DICOM_ERRORS = (
    *DECODER_ERRORS,
    RuntimeError,
    pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
)


def read_dicom(data: bytes, *, max_pixels: int, with_colors: bool = False) -> Scan:
    """Decode a single-frame DICOM radiograph.

    Gray levels follow PS3.3 C.11: the modality transform, then the first VOI table or window. Without either, 8-bit
    pixels and colors are used as stored, and for deeper pixels the minimum and maximum (without padding) become black
    and white. MONOCHROME1 swaps black and white after the window, since the window refers to values before the swap.
    Padding is black.

    Raises:
        UnreadableScan: damaged, cut short, too large or too small.
        UnsupportedScan: another modality, several frames, no image, or an unsupported transfer syntax.
    """
    try:
        _check_transfer_syntax(_read_transfer_syntax(data))
        dataset = pydicom.dcmread(BytesIO(data), specific_tags=_TAGS)
        _check_radiograph(dataset, max_pixels)
        with np.errstate(all="ignore"):  # an overflow shows in the resulting gray levels, which are checked
            stored = _decode(dataset)
            pixels, black, white = _apply_gray_levels(_to_gray(stored, dataset), dataset)
        colors = _sample_colors(stored, dataset) if with_colors else None
        size_px = int(dataset.Columns), int(dataset.Rows)
        uids = _get_uids(dataset)
    except RecursionError:
        raise UnreadableScan(Reason.DAMAGED, "the DICOM sequences are nested too deeply") from None
    except _DICOM_ERRORS:
        raise UnreadableScan(Reason.DAMAGED, "the DICOM data is damaged or cut short") from None
    return Scan(pixels, black, white, Format.DICOM, *size_px, uids, colors=colors)


def read_uids(data: bytes) -> DicomUids:
    """Return the three UIDs of an instance that `read_dicom` decoded before, without decoding its pixels again."""
    dataset = pydicom.dcmread(BytesIO(data), specific_tags=_UID_TAGS, stop_before_pixels=True)
    return _get_uids(dataset)


def _get_uids(dataset: pydicom.Dataset) -> DicomUids:
    return DicomUids(*(_clean_uid(dataset.get(keyword)) for keyword in _UID_TAGS))


def _read_transfer_syntax(data: bytes) -> str:
    """Return (0002,0010) from the file meta group, before the data set is parsed or inflated.

    It is parsed by the function that `dcmread` uses, so that both choose equally among duplicate elements.
    """

    def is_beyond_meta(tag: int, _vr: str | None, _length: int) -> bool:
        return tag >> 16 != _FILE_META_GROUP

    source = BytesIO(data)
    source.seek(_PREAMBLE_BYTES)
    meta = read_dataset(source, is_implicit_VR=False, is_little_endian=True, stop_when=is_beyond_meta)
    if source.tell() == len(data):
        raise UnreadableScan(Reason.DAMAGED, "the file ends before the data set")
    syntax = meta.get("TransferSyntaxUID")
    if not isinstance(syntax, str) or not syntax:
        raise UnreadableScan(Reason.DAMAGED, "(0002,0010) Transfer Syntax UID is missing")
    return syntax


def _check_transfer_syntax(syntax: str) -> None:
    if syntax not in TRANSFER_SYNTAXES:
        name = uid.UID(syntax).name if _UID.fullmatch(syntax) else "unknown"
        raise UnsupportedScan(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            f"(0002,0010) Transfer Syntax is {name}; supported are uncompressed and JPEG Baseline",
        )


def _check_radiograph(dataset: pydicom.Dataset, max_pixels: int) -> None:
    modality = str(dataset.get("Modality") or "")
    if modality and modality not in MODALITIES:
        allowed = ", ".join(sorted(MODALITIES))
        shown = modality if re.fullmatch(r"[A-Z0-9_ ]{1,16}", modality) else "invalid"
        raise UnsupportedScan(Reason.NOT_A_RADIOGRAPH, f"(0008,0060) Modality is {shown}; supported are {allowed}")
    if "PixelData" not in dataset or "Rows" not in dataset or "Columns" not in dataset:
        raise UnsupportedScan(Reason.NOT_A_RADIOGRAPH, "the DICOM instance holds no image")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnsupportedScan(Reason.MULTI_FRAME, "(0028,0008) Number of Frames is not 1; a scan has one frame")
    check_size(int(dataset.Columns), int(dataset.Rows), max_pixels)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise UnsupportedScan(
            Reason.NOT_A_RADIOGRAPH, "(0028,0004) Photometric Interpretation is PALETTE COLOR; a radiograph is gray"
        )


def _decode(dataset: pydicom.Dataset) -> Pixels:
    """Return the pixels as stored, (H, W), or (H, W, 3) in color; for a JPEG frame its luma."""
    if dataset.file_meta.TransferSyntaxUID == uid.JPEGBaseline8Bit:
        return _decode_jpeg(dataset)
    pixels: Pixels = pixel_array(dataset, raw=True)  # raw: without conversion from YBR
    return pixels


def _to_gray(stored: Pixels, dataset: pydicom.Dataset) -> Pixels:
    """Return gray pixels, (H, W); colors are reduced to luma (ITU-R BT.601)."""
    if stored.ndim == 2:
        return stored
    return stored[..., 0] if _photometric(dataset).startswith("YBR") else _to_luma(stored)


def _sample_colors(stored: Pixels, dataset: pydicom.Dataset) -> Colors | None:
    """Return a sample of the colors; None if the instance stores gray."""
    if dataset.file_meta.TransferSyntaxUID == uid.JPEGBaseline8Bit:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        with Image.open(BytesIO(frame), formats=("JPEG",)) as image:
            return sample_jpeg_colors(frame, is_unmarked_rgb=_is_unmarked_rgb(image, dataset))
    if stored.ndim == 2:
        return None
    rows, columns = (np.linspace(0, size - 1, COLORS_SIDE_PX).astype(np.int64) for size in stored.shape[:2])
    sample = (stored[np.ix_(rows, columns)] >> max(0, int(dataset.BitsStored) - 8)).astype(np.uint8)
    if _photometric(dataset).startswith("YBR"):
        return sample
    return np.asarray(Image.fromarray(sample).convert("YCbCr"))


def _decode_jpeg(dataset: pydicom.Dataset) -> Pixels:
    """Decode the JPEG frame with Pillow; pydicom would use any installed decoder, without a size limit."""
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    with Image.open(BytesIO(frame), formats=("JPEG",)) as image:
        if image.size != (dataset.Columns, dataset.Rows):
            raise UnreadableScan(
                Reason.DAMAGED, "(0028,0010) Rows and (0028,0011) Columns differ from the size of the JPEG frame"
            )
        if is_unmarked_rgb := _is_unmarked_rgb(image, dataset):
            image.draft("YCbCr", image.size)  # no conversion: the decoder would take it for YBR
        else:
            image.draft("L", image.size)
        check_jpeg_end(image, image.height)
        return _to_luma(np.asarray(image)) if is_unmarked_rgb else np.asarray(image.convert("L"))


def _is_unmarked_rgb(image: Image.Image, dataset: pydicom.Dataset) -> bool:
    """Return whether the frame holds RGB according to the data set only, not to its markers or component names."""
    is_marked = bool(image.info.keys() & {"adobe_transform", "jfif"})
    names = bytes(component[0] for component in getattr(image, "layer", ()))
    return _photometric(dataset) == "RGB" and image.mode == "RGB" and not is_marked and names.upper() != b"RGB"


def _photometric(dataset: pydicom.Dataset) -> str:
    return str(dataset.get("PhotometricInterpretation") or "")


def _to_luma(pixels: Pixels) -> Pixels:
    """Return the luma (H, W), float32, of RGB pixels (H, W, 3) (ITU-R BT.601)."""
    luma: Pixels = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return luma


def _apply_gray_levels(stored: Pixels, dataset: pydicom.Dataset) -> tuple[Pixels, float, float]:
    """Return (pixels, black, white) after modality and VOI transforms.

    A linear window leaves the pixels as they are: its ends become black and white (PS3.3 C.11.2.1.2.1).
    """
    if int(dataset.get("SamplesPerPixel") or 1) != 1:  # the transforms apply to gray only
        return stored, 0.0, _largest_stored(dataset)
    padding = _find_padding(stored, dataset)
    values = _apply_modality(stored, dataset)
    is_stored = values is stored
    window = _read_window(dataset)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        values, black, white = _apply_table(values, table), 0.0, float(2 ** int(table.LUTDescriptor[2]) - 1)
    elif window is not None:
        values, black, white = _apply_window(values, *window)
    elif is_stored and stored.dtype == np.uint8:
        black, white = 0.0, _largest_stored(dataset)
    else:
        used = values if padding is None else values[~padding]
        if used.size == 0:
            raise UnreadableScan(Reason.BLANK, "every pixel is padding")
        black, white = float(used.min()), float(used.max())
    if _photometric(dataset) == "MONOCHROME1":
        black, white = white, black
    return (values if padding is None else np.where(padding, black, values)), black, white


def _largest_stored(dataset: pydicom.Dataset) -> float:
    return float(2 ** int(dataset.BitsStored) - 1)


def _apply_modality(stored: Pixels, dataset: pydicom.Dataset) -> Pixels:
    """Apply the modality table or the rescale slope and intercept (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        return _apply_table(stored, dataset.ModalityLUTSequence[0])
    slope, intercept = (dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None or (slope == 1 and intercept == 0):
        return stored
    values: Pixels = stored.astype(np.float32 if stored.dtype.itemsize <= 2 else np.float64)
    values *= float(slope)
    values += float(intercept)
    return values


def _apply_table(values: Pixels, item: pydicom.Dataset) -> Pixels:
    """Look values up in a modality or VOI table (PS3.3 C.11.1.1.1, C.11.2.1.1); values beyond it are clipped."""
    entries, first = int(item.LUTDescriptor[0]) & 0xFFFF or 2**16, int(item.LUTDescriptor[1])
    data = item.LUTData
    if isinstance(data, bytes):  # OW: 16-bit words in the data set's byte order, or one byte per entry
        order = "<" if item.original_encoding[1] is not False else ">"
        table = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * entries else np.uint8)
    else:
        table = np.asarray(data, dtype=np.int64) & 0xFFFF
    if len(table) < entries:
        raise UnreadableScan(Reason.DAMAGED, "(0028,3006) LUT Data is shorter than (0028,3002) LUT Descriptor declares")
    places = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return table[places].astype(np.uint16)


def _read_window(dataset: pydicom.Dataset) -> tuple[str, float, float] | None:
    """Return (function, center, width) of the first window, which viewers apply; None if there is none."""
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    return function, center, width


def _apply_window(values: Pixels, function: str, center: float, width: float) -> tuple[Pixels, float, float]:
    if function == "SIGMOID":  # PS3.3 C.11.2.1.3.1
        power = np.clip(-4.0 * (values.astype(np.float64) - center) / width, -700.0, 700.0)
        return (1.0 / (1.0 + np.exp(power))).astype(np.float32), 0.0, 1.0
    if function == "LINEAR" and width > 1:  # PS3.3 C.11.2.1.2.1
        return values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    return values, center - width / 2, center + width / 2  # LINEAR_EXACT, PS3.3 C.11.2.1.3.2


def _find_padding(pixels: Pixels, dataset: pydicom.Dataset) -> npt.NDArray[np.bool_] | None:
    """Return the mask of padding pixels, (H, W) bool (PS3.3 C.7.5.1.1.2); None if there are none."""
    start = dataset.get("PixelPaddingValue")
    if start is None:
        return None
    end = dataset.get("PixelPaddingRangeLimit", start)
    low, high = sorted((int(start), int(end)))
    mask = (pixels >= low) & (pixels <= high)
    return mask if mask.any() else None


def _first(value: Any) -> float | None:
    """Return the first value of an element that may hold none, one or several."""
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return None if value is None else float(value)


def _clean_uid(value: Any) -> str | None:
    text = str(value or "")
    return text if _UID.fullmatch(text) else None
