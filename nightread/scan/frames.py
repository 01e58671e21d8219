"""Headers of compressed pictures in JPEG, TIFF and DICOM files, and their decoding with imagecodecs.

Headers are read before decoding: they bound the memory, and identify the codec if the file around a frame declares
another one.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.scan import COLORS_SIDE_PX, DECODER_ERRORS, Colors


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


_SOF_CODECS: Final = {
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
_LAST_COEFFICIENT: Final = 63
_RESTART_INTERVAL: Final = 0xDD
_BLOCK_PX: Final = 8
_FIRST_RESTART: Final = 0xD0
_END_OF_IMAGE: Final = b"\xff\xd9"
#: The end marker of an intact file is searched in this many bytes at its end, since writers may append trailers.
_TAIL: Final = 2**16
#: Arbitrary data in place of missing data.
_OTHER_BITS: Final = b"\xaa" * 64
#: Maximum depth of a JPEG that Pillow decodes.
_PILLOW_BITS: Final = 8
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


def decode(data: bytes | memoryview, header: FrameHeader) -> npt.NDArray[Any]:
    """Decode a frame of any kind but 8-bit JPEG.

    Returns:
        (H, W) or (H, W, components), unsigned or signed integers.

    Raises:
        UnreadableScan: damaged, or different from its header.
    """
    import imagecodecs  # 0.1 s and 20 MB, not needed for a folder of JPEG files

    decoders: dict[Codec, Callable[[bytes], npt.NDArray[Any]]] = {
        Codec.JPEG: partial(_decode_deep_jpeg, header=header),
        Codec.JPEG_LOSSLESS: partial(_decode_deep_jpeg, header=header),
        Codec.JPEG_LS: _decode_jpeg_ls,
        Codec.JPEG_2000: imagecodecs.jpeg2k_decode,
        Codec.JPEG_XL: imagecodecs.jpegxl_decode,
    }
    try:
        pixels = decoders[header.codec](bytes(data))
    except (RuntimeError, ValueError, TypeError):
        raise UnreadableScan(Reason.DAMAGED, f"the {header.codec} data is damaged or cut short") from None
    if pixels.shape[:2] != (header.height_px, header.width_px) or pixels.dtype.kind not in "iu":
        raise UnreadableScan(Reason.DAMAGED, f"the {header.codec} data has another size than its header declares")
    return pixels


def _decode_deep_jpeg(data: bytes, header: FrameHeader) -> npt.NDArray[Any]:
    data = close_jpeg(data, header)
    pixels = _decode_by_libjpeg(data)
    check_last_pixel(pixels[-1, -1], data, header)
    return pixels


def _decode_by_libjpeg(data: bytes) -> npt.NDArray[Any]:
    """Decode a JPEG of any depth, lossless too."""
    import imagecodecs

    pixels: npt.NDArray[Any] = imagecodecs.jpeg8_decode(data)
    return pixels


def _decode_jpeg_ls(data: bytes) -> npt.NDArray[Any]:
    """Decode a JPEG-LS frame, whether its end is marked or not.

    CharLS 2.4 counts to 2**31 where data ends in mid-pixel without a marker: five seconds for a file of any size.
    """
    import imagecodecs

    pixels: npt.NDArray[Any] = imagecodecs.jpegls_decode(data + _END_OF_IMAGE)
    return pixels


def _read_jpeg(data: bytes | memoryview) -> FrameHeader:
    """Read the frame header of a JPEG or JPEG-LS file (ISO/IEC 10918-1, B.2.2)."""
    for marker, place in _find_segments(data):
        if marker in _SOF_CODECS:
            bits, height, width, components = struct.unpack_from(">BHHB", data, place + 4)
            if not height:
                raise UnsupportedScan(
                    Reason.UNSUPPORTED_FORMAT, "a JPEG whose height follows its pixels (DNL); save the scan as PNG"
                )
            return FrameHeader(_SOF_CODECS[marker], width, height, components, bits, is_progressive=marker == 0xC2)
        if marker in _OTHER_SOFS:
            raise UnsupportedScan(
                Reason.UNSUPPORTED_FORMAT, "an arithmetic or hierarchical JPEG; save it as baseline or lossless JPEG"
            )
        if marker in {0xD9, 0xDA}:
            break
    raise UnreadableScan(Reason.DAMAGED, "the JPEG data is damaged: it has no frame header")


def _find_segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
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


def close_jpeg(data: bytes, header: FrameHeader) -> bytes:
    """Return a JPEG with its end marker, which some writers omit; refuse one whose data is known to have ended early.

    The scans of a progressive JPEG, and a JPEG without the marker, are looked through at once. Of others the last pixel
    tells whether that is needed, see `check_last_pixel`.

    Raises:
        UnreadableScan: part of the picture is missing.
    """
    _check_progressive(data, header)
    _check_restarts(data, header)
    if header.is_progressive or _find_end(data) < 0:
        return _check_whole(data, header)
    return data


def check_last_pixel(last: npt.NDArray[Any], data: bytes, header: FrameHeader) -> None:
    """Refuse a JPEG whose data ended early: decoders silently fill the rest with mid-gray, to the last pixel.

    Args:
        last: the last pixel as decoded, at any scale; one value or several.
        data: the JPEG.
        header: its header.

    Raises:
        UnreadableScan: part of the picture is missing.
    """
    if (last == 2 ** (header.bits - 1)).all():
        _check_whole(data, header)


def _find_end(data: bytes) -> int:
    """Return the place of the end marker; -1 if it is missing."""
    return data.rfind(_END_OF_IMAGE, -_TAIL) if len(data) > _TAIL else data.rfind(_END_OF_IMAGE)


def _check_whole(data: bytes, header: FrameHeader) -> bytes:
    """Return a JPEG with its end marker; refuse one whose data ended early.

    The picture is decoded twice, with and without arbitrary data before the end marker: if the results differ, data is
    missing.
    """
    end = _find_end(data)
    scans = (data if end < 0 else data[:end]).rstrip(b"\xff")  # fill bytes, with which some writers pad a frame
    closed = scans + _END_OF_IMAGE
    if _decode_whole(closed, header) != _decode_whole(scans + _OTHER_BITS + _END_OF_IMAGE, header):
        raise UnreadableScan(Reason.DAMAGED, f"the {header.codec} data is cut short")
    return closed


def _decode_whole(data: bytes, header: FrameHeader) -> bytes:
    try:
        if header.codec is Codec.JPEG_LOSSLESS or header.bits > _PILLOW_BITS:
            return _decode_by_libjpeg(data).tobytes()
        with Image.open(BytesIO(data), formats=("JPEG",)) as image:
            return image.tobytes()
    except (*DECODER_ERRORS, RuntimeError):
        raise UnreadableScan(Reason.DAMAGED, "the JPEG data is damaged or cut short") from None


def _check_progressive(data: bytes, header: FrameHeader) -> None:
    """Refuse a progressive JPEG with missing scans, which decoders silently show blurred.

    Args:
        data: content of the JPEG.
        header: its header.

    Raises:
        UnreadableScan: a coefficient of the first component is incomplete.
    """
    if not header.is_progressive:
        return
    left: dict[int, set[int]] = {}  # incomplete coefficients by component
    first = None
    for marker, place in _find_segments(data):
        if marker == 0xD9:
            break
        if marker == 0xDA and place + 5 <= len(data):
            count = data[place + 4]
            end_of_ids = place + 5 + 2 * count
            if end_of_ids + 3 > len(data):
                break
            ids = data[place + 5 : end_of_ids : 2]
            start, end, bits = data[end_of_ids : end_of_ids + 3]
            first = ids[0] if first is None and ids else first
            for component in ids:
                missing = left.setdefault(component, set(range(_LAST_COEFFICIENT + 1)))
                if not bits & 0x0F:
                    missing -= set(range(start, end + 1))
    if first is None or left[first]:
        raise UnreadableScan(
            Reason.DAMAGED, "the JPEG data is cut short: some scans of the progressive picture are missing"
        )


def _check_restarts(data: bytes, header: FrameHeader) -> None:
    """Refuse a JPEG that lacks restart markers: decoders silently fill the gap, and show all that follows it.

    Args:
        data: content of the JPEG.
        header: its header.

    Raises:
        UnreadableScan: a scan has fewer markers than its restart interval demands.
    """
    try:
        is_whole = header.codec is not Codec.JPEG or all(
            found >= wanted for found, wanted in _count_restarts(data, header)
        )
    except (struct.error, IndexError, KeyError, ValueError, ZeroDivisionError):
        return  # a damaged header, which decoders refuse
    if not is_whole:
        raise UnreadableScan(Reason.DAMAGED, "the JPEG data is damaged: part of the picture is missing")


def _count_restarts(data: bytes, header: FrameHeader) -> Iterator[tuple[int, int]]:
    """Yield the restart markers of each scan of a JPEG, as found and as wanted (ISO/IEC 10918-1, A.2 and B.2.4.4)."""
    interval = 0
    factors: dict[int, tuple[int, int]] = {}  # of sampling, by component: horizontal and vertical
    scan: tuple[int, int] | None = None  # that the next segment ends: its place, and the markers that it wants
    for marker, place in _find_segments(data):
        if scan is not None:
            yield _count_codes(data[scan[0] : place]), scan[1]
            scan = None
        if marker in _SOF_CODECS:
            components = range(place + 10, place + 10 + 3 * header.components, 3)
            factors = {data[at]: divmod(data[at + 1], 16) for at in components}
        elif marker == _RESTART_INTERVAL:
            (interval,) = struct.unpack_from(">H", data, place + 4)
        elif marker == 0xD9 or (marker == 0xDA and not interval):
            return
        elif marker == 0xDA:
            count, component = data[place + 4 : place + 6]
            units = 1
            for axis, side_px in enumerate((header.width_px, header.height_px)):
                own = factors[component][axis] if count == 1 else 1  # several components share a unit
                units *= -(-side_px * own // (_BLOCK_PX * max(pair[axis] for pair in factors.values())))
            scan = place, -(-units // interval) - 1
    if scan is not None:
        yield _count_codes(data[scan[0] :]), scan[1]


def _count_codes(data: bytes) -> int:
    """Return the restart markers in entropy-coded data; NumPy counts them in half the time of a regular expression."""
    codes = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((codes[:-1] == 0xFF) & (codes[1:] & 0xF8 == _FIRST_RESTART)))


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


def to_luma(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Reduce RGB (H, W, 3 or more) to luma (H, W), float32 (ITU-R BT.601)."""
    luma: npt.NDArray[np.float32] = pixels[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return luma


def sample_colors(pixels: npt.NDArray[Any], bits: int, *, is_ybr: bool = False) -> Colors:
    """Return a sample of the colors of (H, W, 3 or more) integers of `bits` bits, RGB or YBR."""
    rows, columns = (np.linspace(0, size - 1, COLORS_SIDE_PX).astype(np.int64) for size in pixels.shape[:2])
    sample = (pixels[np.ix_(rows, columns)][..., :3] >> max(0, bits - 8)).astype(np.uint8)
    return sample if is_ybr else np.asarray(Image.fromarray(sample).convert("YCbCr"))
