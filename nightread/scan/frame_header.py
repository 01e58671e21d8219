"""Headers of compressed pictures in JPEG, TIFF and DICOM files.

They are read before decoding: they bound the memory, and identify the codec if the file around a frame declares
another one.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason


class Codec(StrEnum):
    """Compression of a frame."""

    JPEG = "JPEG"  # baseline, extended or progressive
    JPEG_LOSSLESS = "JPEG Lossless"
    JPEG_LS = "JPEG-LS"
    JPEG_2000 = "JPEG 2000"  # HTJ2K included
    JPEG_XL = "JPEG XL"


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """Header of a compressed picture.

    Attributes:
        codec: compression.
        width_px: width.
        height_px: height.
        components: number of components; 1 for gray.
        bits: bits per sample.
        is_progressive: whether a JPEG is progressive, that is, stored in several scans.
        is_rgb: whether a JPEG 2000 codes its components as one picture in RGB, whatever is declared around it.
    """

    codec: Codec
    width_px: int
    height_px: int
    components: int
    bits: int
    is_progressive: bool = False
    is_rgb: bool = False


#: Codec by the marker of a frame header.
JPEG_FRAMES: Final = {
    0xC0: Codec.JPEG, 0xC1: Codec.JPEG, 0xC2: Codec.JPEG, 0xC3: Codec.JPEG_LOSSLESS, 0xF7: Codec.JPEG_LS,
}  # fmt: skip
_OTHER_SOFS: Final = frozenset({0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_BARE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_JP2_SIGNATURE: Final = b"\0\0\0\x0cjP  \r\n\x87\n"
_JXL_SIGNATURE: Final = b"\0\0\0\x0cJXL \r\n\x87\n"
_CODESTREAM_START: Final = b"\xff\x4f\xff\x51"
_CODING_STYLE: Final = b"\xff\x52"
_TILE_START: Final = b"\xff\x90"
#: Bytes in which the coding style is looked for: a header of tiny segments may be as long as the file.
_JPEG_2000_HEAD: Final = 2**20
# Without "+" after \xff: a long run of it would take time by its square, and no thread could interrupt that.
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
#: Bits of JPEG XL: of a header that says nothing of them, by their code, and assumed where they cannot be told.
_JXL_DEFAULT, _JXL_CODED, _JXL_MOST = 8, (8, 10, 12), 16


def read_header(data: bytes | memoryview) -> FrameHeader | None:
    """Read the header of a compressed picture; returns None for an unknown codec.

    Raises:
        UnreadableScan: the header is cut short or malformed.
        UnsupportedScan: an unsupported JPEG process.
    """
    head = bytes(data[:12])
    try:
        if head.startswith(b"\xff\xd8"):
            return _read_jpeg(data)
        if head.startswith((_CODESTREAM_START, _JP2_SIGNATURE)):
            return _read_jpeg_2000(bytes(data[: 2**16]))
        if head.startswith((b"\xff\x0a", _JXL_SIGNATURE)):
            return _read_jpeg_xl(bytes(data[: 2**16]))
    except (struct.error, IndexError):
        raise UnreadableScan(Reason.DAMAGED, "the header of the compressed picture is cut short") from None
    return None


def _read_jpeg(data: bytes | memoryview) -> FrameHeader:
    """Read the frame header of a JPEG or JPEG-LS file (ISO/IEC 10918-1, B.2.2)."""
    for marker, place in find_segments(data):
        if marker in JPEG_FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, place + 4)
            if not height:
                raise UnsupportedScan(
                    Reason.UNSUPPORTED_FORMAT, "a JPEG whose height follows its pixels (DNL); save the scan as PNG"
                )
            return FrameHeader(JPEG_FRAMES[marker], width, height, components, bits, is_progressive=marker == 0xC2)
        if marker in _OTHER_SOFS:
            raise UnsupportedScan(
                Reason.UNSUPPORTED_FORMAT, "an arithmetic or hierarchical JPEG; save it as baseline or lossless JPEG"
            )
        if marker in {0xD9, 0xDA}:
            break
    raise UnreadableScan(Reason.DAMAGED, "the JPEG data is damaged: it has no frame header")


def find_segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Yield (marker, place of its 0xFF) of the segments of a JPEG, those after entropy-coded data included.

    Bytes between segments are passed over, as decoders do: some writers declare a segment shorter than it is.
    """
    place = 2
    while (found := _MARKER.search(data, place)) is not None:
        place = found.end() - 2
        marker = data[place + 1]
        yield marker, place
        if marker == 0xDA:
            found = _IN_SCAN.search(data, place + 2)
            place = len(data) if found is None else found.end() - 2
            continue
        length = 0 if marker in _BARE_MARKERS or place + 4 > len(data) else struct.unpack_from(">H", data, place + 2)[0]
        place += 2 + length


def _read_jpeg_2000(data: bytes) -> FrameHeader:
    """Read the SIZ and COD segments of a code stream (ISO/IEC 15444-1, A.5.1 and A.6.1)."""
    at = data.find(_CODESTREAM_START)
    if at < 0:
        raise UnreadableScan(Reason.DAMAGED, "the JPEG 2000 file holds no code stream")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    components, depth = struct.unpack_from(">HB", data, at + 40)
    is_rgb = False
    place, end = at + 2, min(len(data), at + _JPEG_2000_HEAD)
    while place + 4 <= end and data[place : place + 2] != _TILE_START:  # segments of the main header
        if data[place : place + 2] == _CODING_STYLE:
            is_rgb = data[place + 8 : place + 9] == b"\1"  # decoders undo the component transform, which is one of RGB
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return FrameHeader(Codec.JPEG_2000, right - left, bottom - top, components, (depth & 0x7F) + 1, is_rgb=is_rgb)


def _read_jpeg_xl(data: bytes) -> FrameHeader:
    """Read the size and the bits of a code stream (ISO/IEC 18181-1, D.2 and D.3)."""
    if data.startswith(_JXL_SIGNATURE):
        boxes = [data.find(b"jxlc") + 4, data.find(b"jxlp") + 8]
        data = data[min(at for at in boxes if at > 8) :] if max(boxes) > 8 else b""
    bits = int.from_bytes(data[2:34], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    if len(data) < 12:
        raise UnreadableScan(Reason.DAMAGED, "the JPEG XL data is cut short")
    is_small = take(1)

    def take_side() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height = take_side()
    ratio = take(3)
    ratios = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
    width = take_side() if ratio == 0 else height * ratios[ratio - 1][0] // ratios[ratio - 1][1]
    bit_depth = _JXL_MOST
    if take(1):
        bit_depth = _JXL_DEFAULT
    elif not take(1) and not take(1):  # neither further fields, which may be long, nor floating point
        code = take(2)
        bit_depth = _JXL_CODED[code] if code < len(_JXL_CODED) else take(6) + 1
    return FrameHeader(Codec.JPEG_XL, width, height, 1, bit_depth)
