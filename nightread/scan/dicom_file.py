"""Parsing of DICOM files: the attributes that a radiograph needs, with checked types, and its single frame.

Common errors of writers are tolerated: a missing preamble or meta group, another encoding than the transfer syntax
declares, a frame without delimiter or with a wrong offset table (PS3.5 and PS3.10).
"""

import math
import re
import struct
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import pydicom
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator, read_dataset
from pydicom.sequence import Sequence

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.scan import DECODER_ERRORS, Contradiction

#: Offsets of "DICM": after the preamble, or without one.
_MAGIC_AT: Final = (128, 0)
_META_GROUP: Final = 0x0002
_HIGHEST_FIRST_GROUP: Final = 0x0028
#: Its group also holds elements before it: the group's length, and offset tables.
_PIXEL_DATA: Final = (0x7FE0, 0x0010)
_ITEM: Final = (0xFFFE, 0xE000)
_DELIMITER: Final = (0xFFFE, 0xE0DD)
_UNDEFINED: Final = 0xFFFFFFFF
#: First bytes of JPEG or JPEG-LS and of JPEG 2000; an offset is never that large.
_FRAME_STARTS: Final = {b"\xff\xd8", b"\xff\x4f"}
#: Maximum size of inflated attributes before the pixels, and of those after them.
_ATTRIBUTES_BYTES: Final = 2**20
_UID = re.compile(r"[0-9.]{1,64}")
_NO_LETTERS = re.compile(r"[^A-Z0-9]")

#: Names and identifiers of persons, with which other values are compared before these are stored.
PERSON_KEYWORDS: Final = (
    "PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy",
    "PhysiciansOfRecord", "RequestingPhysician",
)  # fmt: skip
#: Only these attributes are parsed.
_KEYWORDS: Final = (
    *PERSON_KEYWORDS,
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber", "Modality", "PresentationIntentType",
    "BodyPartExamined", "ViewPosition", "ViewCodeSequence", "PatientOrientation", "ImageLaterality", "Laterality",
    "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "Manufacturer", "StationName",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "PresentationLUTShape", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "FloatPixelData", "DoubleFloatPixelData",
    *(f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
)  # fmt: skip
#: Overlay Bits Allocated and Overlay Bit Position of each of the 16 overlay planes.
_OVERLAY_TAGS: Final = [group << 16 | number for group in range(0x6000, 0x6020, 2) for number in (0x0100, 0x0102)]
_TAGS: Final = [*(tag_for_keyword(keyword) or 0 for keyword in _KEYWORDS), *_OVERLAY_TAGS]
#: Where an enhanced instance keeps the gray levels of its frame, in the order in which they are looked for.
_GROUPS: Final = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_GRAY_KEYWORDS: Final = {
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}

ENCAPSULATED_NATIVE: Final = uid.UID("1.2.840.10008.1.2.1.98")  # newer than pydicom's list
JPEG_XL: Final = tuple(uid.UID(f"1.2.840.10008.1.2.4.{number}") for number in (110, 111, 112))
#: Retired, but in archives: JPEG that is stored in several scans.
PROGRESSIVE: Final = tuple(uid.UID(f"1.2.840.10008.1.2.4.{number}") for number in (53, 55))
SYNTAXES: Final = frozenset({
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
    ENCAPSULATED_NATIVE, uid.RLELossless,
    uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, *PROGRESSIVE, uid.JPEGLossless, uid.JPEGLosslessSV1,
    uid.JPEGLSLossless, uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless, uid.JPEG2000, uid.JPEG2000MCLossless, uid.JPEG2000MC,
    uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K,
    *JPEG_XL,
})  # fmt: skip


#: How the names of transfer syntaxes of videos begin.
_VIDEOS: Final = ("MPEG", "Fragmentable MPEG", "HEVC", "SMPTE")
_STILL: Final = "a scan is one picture, no video"

#: Supported values of Photometric Interpretation, for messages.
SHOWN_PHOTOMETRICS: Final = "MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB, YBR_FULL and YBR_FULL_422"

#: Errors of the image decoders, and those that pydicom adds.
DICOM_ERRORS: Final = (
    *DECODER_ERRORS, RuntimeError, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of an instance by keyword, with typed access so that values of a wrong type are not used.

    `noted` collects contradictions while the instance is read.
    """

    dataset: pydicom.Dataset
    is_little_endian: bool
    noted: set[Contradiction] = field(default_factory=set)

    def text(self, keyword: str) -> str:
        """Return the first value as stripped text; "" if there is none."""
        value = _first(self.raw(keyword))
        return value.strip() if isinstance(value, str) else ""

    def texts(self, keyword: str) -> list[str]:
        """Return all values as stripped text."""
        value = self.raw(keyword)
        values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
        return [one.strip() for one in values if isinstance(one, str)]

    def number(self, keyword: str) -> float | None:
        """Return the first value; None if it is missing or not a finite number."""
        value = _first(self.raw(keyword))
        try:
            number = float(value) if isinstance(value, str | float | int) else math.nan
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    def whole(self, keyword: str, low: int, high: int, default: int | None = None) -> int:
        """Return the first value as a whole number.

        Raises:
            UnreadableScan: not a whole number from `low` to `high`, or missing without a default; names the tag.
        """
        value = _first(self.raw(keyword))
        if value is None and default is not None:
            return default
        number = self.number(keyword)
        if number is None or number != int(number) or not low <= number <= high:
            found = "is missing" if value is None else "is out of range or of another type"
            raise UnreadableScan(
                Reason.DAMAGED, f"{describe_tag(keyword)} {found}; allowed are whole numbers from {low} to {high}"
            )
        return int(number)

    def item(self, keyword: str) -> "Attributes | None":
        """Return the first item of a sequence; None if there is none."""
        value = self.raw(keyword)
        is_filled = isinstance(value, Sequence) and len(value)
        return Attributes(value[0], self.is_little_endian, self.noted) if is_filled else None

    def raw(self, keyword: str) -> Any:
        """Return a value as parsed by pydicom; None if it is missing or blank."""
        value = self.dataset.get(keyword)
        return None if isinstance(value, str) and not value.strip() else value

    def take_gray_levels(self) -> None:
        """Take over what the functional groups of an enhanced instance say of its gray levels (PS3.3 C.7.6.16)."""
        items = [(group.item(name), keywords) for place in _GROUPS if (group := self.item(place))
                 for name, keywords in _GRAY_KEYWORDS.items()]  # fmt: skip
        for item, keywords in items:
            if item is not None and not any(keyword in self.dataset for keyword in keywords):
                for keyword in filter(item.dataset.__contains__, keywords):
                    self.dataset.add(item.dataset[keyword])

    @property
    def has_embedded_overlay(self) -> bool:
        """Whether an overlay plane lies in bits of the pixels, as was allowed until 2004 (PS3.3 C.9.2)."""
        values = [getattr(self.dataset.get(tag), "value", None) for tag in _OVERLAY_TAGS]
        allocated, position = values[::2], values[1::2]
        return any(isinstance(bits, int) and bits > 1 for bits in allocated) or any(
            isinstance(bit, int) and bit > 0 for bit in position
        )

    @property
    def photometric(self) -> str:
        """Photometric Interpretation as capitals and digits alone: some writers have "Monochrome 1"."""
        return _NO_LETTERS.sub("", self.text("PhotometricInterpretation").upper())


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A parsed file.

    Attributes:
        attributes: its attributes.
        syntax: transfer syntax; "" if missing.
        data: content of the file, inflated.
        pixels_at: offset of the Pixel Data element; None if there is none.
        is_cut: whether the file ends within an attribute.
        is_implicit: whether its elements lack a VR.
    """

    attributes: Attributes
    syntax: str
    data: bytes
    pixels_at: int | None
    is_cut: bool
    is_implicit: bool


def describe_tag(keyword: str) -> str:
    """Return "(gggg,eeee) Name" of an attribute."""
    tag = tag_for_keyword(keyword) or 0
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", keyword)
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {name}"


def parse(data: bytes) -> DicomFile:
    """Read the attributes of a file up to its pixels.

    Raises:
        UnreadableScan: the data set is missing, or inflates to more than it declares.
    """
    start = next((place + 4 for place in _MAGIC_AT if data[place : place + 4] == b"DICM"), 0)
    syntax, start = _read_meta(data, start)
    if syntax != uid.DeflatedExplicitVRLittleEndian:
        return _parse_elements(data, start, syntax)
    head = _parse_elements(_inflate(data[start:], _ATTRIBUTES_BYTES), 0, syntax)
    if head.pixels_at is None:
        return head
    whole = _ATTRIBUTES_BYTES + head.pixels_at + count_stored_bytes(head.attributes)
    inflated = _inflate(data[start:], whole)
    if len(inflated) == whole:
        raise UnreadableScan(Reason.DAMAGED, "the deflated data set is larger than the picture that it declares")
    return _parse_elements(inflated, 0, syntax)


def count_stored_bytes(attributes: Attributes) -> int:
    """Return the size of the uncompressed frame in bytes."""
    samples = attributes.whole("SamplesPerPixel", 1, 4, 1)
    bits = attributes.whole("BitsAllocated", 1, 64)
    return -(-attributes.whole("Rows", 1, 65535) * attributes.whole("Columns", 1, 65535) * samples * bits // 8)


def _parse_elements(data: bytes, start: int, syntax: str) -> DicomFile:
    if start + 8 > len(data):
        raise UnreadableScan(Reason.DAMAGED, "the file ends before the data set")
    group, vr = data[start : start + 2], data[start + 4 : start + 6]
    is_little = _is_little_endian(group, syntax)
    is_implicit = not (vr.isalpha() and vr.isupper())  # the data decide, not the transfer syntax
    source = BytesIO(data)
    source.seek(start)
    elements, is_cut, pixels_at = {}, False, None
    ended = 0  # where the last element ends

    def is_at_pixels(tag: int, _vr: str | None, length: int) -> bool:
        nonlocal ended
        ended = source.tell() + (length if length != _UNDEFINED else 0)
        return (tag >> 16, tag & 0xFFFF) >= _PIXEL_DATA

    try:
        for element in data_element_generator(source, is_implicit, is_little, is_at_pixels, specific_tags=_TAGS):
            elements[element.tag] = element
            if isinstance(element, RawDataElement) and element.length != _UNDEFINED:
                is_cut |= len(element.value or b"") < element.length
    except EOFError:
        is_cut = True
    place = source.tell()
    if place + 4 <= len(data):
        group, number = struct.unpack_from("<HH" if is_little else ">HH", data, place)
        pixels_at = place if (group, number) == _PIXEL_DATA else None
    is_cut |= place > len(data) or (pixels_at is None and 0 < len(data) - ended < 8)  # part of an element's header
    dataset = pydicom.Dataset(elements)
    dataset.set_original_encoding(is_implicit, is_little, "iso8859")
    return DicomFile(Attributes(dataset, is_little), syntax, data, pixels_at, is_cut, is_implicit)


def _is_little_endian(group: bytes, syntax: str) -> bool:
    """Return the byte order of a data set from its first group, which is low, else from its transfer syntax."""
    little, big = int.from_bytes(group, "little"), int.from_bytes(group, "big")
    if min(little, big) > _HIGHEST_FIRST_GROUP:  # it holds private groups alone
        return syntax != uid.ExplicitVRBigEndian
    return little <= big


def _read_meta(data: bytes, start: int) -> tuple[str, int]:
    """Return (0002,0010), "" if missing, and the offset of the data set."""

    def is_beyond_meta(tag: int, _vr: str | None, _length: int) -> bool:
        return tag >> 16 != _META_GROUP

    if data[start : start + 2] != b"\x02\x00":
        return "", start
    source = BytesIO(data)
    source.seek(start)
    meta = read_dataset(source, is_implicit_VR=False, is_little_endian=True, stop_when=is_beyond_meta)
    syntax = meta.get("TransferSyntaxUID")
    return (syntax if isinstance(syntax, str) else ""), source.tell()


def _inflate(data: bytes, max_bytes: int) -> bytes:
    """Inflate at most `max_bytes` of a data set.

    Raises:
        UnreadableScan: the data is cut short.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, max_bytes)
    if len(inflated) < max_bytes and not inflater.eof:
        raise UnreadableScan(Reason.DAMAGED, "the deflated data set is cut short")
    return inflated


def check_syntax(syntax: str) -> None:
    """Refuse an unsupported transfer syntax.

    Raises:
        UnsupportedScan: names it and the supported ones.
    """
    if syntax and syntax not in SYNTAXES:
        name = uid.UID(syntax).name if _UID.fullmatch(syntax) else "unknown"
        is_video = name.startswith(_VIDEOS)
        raise UnsupportedScan(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            f"(0002,0010) Transfer Syntax is {name}; supported are uncompressed, deflated, RLE, JPEG, JPEG Lossless, "
            f"JPEG-LS, JPEG 2000, HTJ2K and JPEG XL; {_STILL if is_video else 'convert it with gdcmconv or dcmdjpeg'}",
        )


def read_frame(file: DicomFile) -> tuple[memoryview, bool]:
    """Return the bytes of the frame, and whether they were encapsulated.

    All fragments belong to the single frame, so neither the offset table nor the sequence delimiter is needed.

    Raises:
        UnreadableScan: the frame is cut short.
    """
    at, data = file.pixels_at or 0, memoryview(file.data)
    order = "<" if file.attributes.is_little_endian else ">"
    is_long = not file.is_implicit and file.data[at + 4 : at + 6] in {b"OB", b"OW", b"UN", b"OF", b"OD", b"OV"}
    head, form = (12, f"{order}L") if is_long else (8, f"{order}L")
    if head == 8 and not file.is_implicit:
        form = f"{order}2xH"
    (length,) = struct.unpack_from(form, data, at + (8 if is_long else 4))
    place = at + head
    if length != _UNDEFINED:
        if place + length > len(data) + 1:  # the padding byte may be missing
            raise UnreadableScan(Reason.DAMAGED, "(7FE0,0010) Pixel Data is cut short")
        return data[place : place + length], False
    fragments: list[memoryview] = []
    is_table = data[place + 8 : place + 10] not in _FRAME_STARTS  # the first item is the offset table
    while place + 8 <= len(data):
        *tag, size = struct.unpack_from("<HHL", data, place)
        if tuple(tag) == _DELIMITER:
            break
        if tuple(tag) != _ITEM or place + 8 + size > len(data) + 1:  # the last padding byte may be missing
            raise UnreadableScan(Reason.DAMAGED, "the compressed frame is cut short")
        if not is_table:
            fragments.append(data[place + 8 : place + 8 + size])
        is_table, place = False, place + 8 + size
    if len(fragments) == 1:
        return fragments[0], True
    return memoryview(b"".join(fragments)), True


def _first(value: Any) -> Any:
    if isinstance(value, pydicom.multival.MultiValue):
        return value[0] if value else None
    return value
