"""Decoders of compressed pictures in JPEG, TIFF and DICOM files, and whether a JPEG is whole."""

import re
import struct
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from nightread.errors import UnreadableScan
from nightread.reasons import Reason
from nightread.scan.frame_header import JPEG_FRAMES, Codec, FrameHeader, find_segments
from nightread.scan.scan import COLORS_SIDE_PX, DECODER_ERRORS, Colors

_LAST_COEFFICIENT: Final = 63
_RESTART_INTERVAL: Final = 0xDD
_BLOCK_PX: Final = 8
_FIRST_RESTART: Final = 0xD0
#: With the fill bytes before it; it begins once in a long run of them.
_RESTART = re.compile(rb"(?<!\xff)\xff++[\xd0-\xd7]")
_END_OF_IMAGE: Final = b"\xff\xd9"
#: The end marker of an intact file is searched in this many bytes at its end, since writers may append trailers.
_TAIL: Final = 2**16
#: Arbitrary data in place of missing data: at the end of a scan, and before each of its restart markers.
_OTHER_BITS, _OTHER_FEW_BITS = b"\xaa" * 64, b"\xaa" * 8
#: Maximum depth of a JPEG that Pillow decodes.
_PILLOW_BITS: Final = 8


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

    The picture is decoded twice, with and without arbitrary data at the end of each scan and of each restart interval:
    if the results differ, data is missing.
    """
    end = _find_end(data)
    scans = (data if end < 0 else data[:end]).rstrip(b"\xff")  # fill bytes, with which some writers pad a frame
    closed = scans + _END_OF_IMAGE
    if _decode_whole(closed, header) != _decode_whole(_lengthen(closed), header):
        raise UnreadableScan(Reason.DAMAGED, f"the {header.codec} data is cut short")
    return closed


def _lengthen(data: bytes) -> bytes:
    """Return a JPEG with arbitrary data before each marker that ends a scan or a restart interval."""
    parts, begun = [], 0
    is_scan = False
    for marker, place in [*find_segments(data), (0xD9, len(data))]:
        part = data[begun:place]
        if is_scan:
            filled = part.rstrip(b"\xff")  # as above
            part = _RESTART.sub(lambda found: _OTHER_FEW_BITS + found[0], filled) + _OTHER_BITS
        parts.append(part)
        begun, is_scan = place, marker == 0xDA
    return b"".join(parts)


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
        UnreadableScan: a coefficient of the first component is incomplete, or a scan refines one that is not there.
    """
    if not header.is_progressive:
        return
    left: dict[int, list[int]] = {}  # bits that each coefficient of a component lacks; -1 if it has none
    first, is_whole = None, True
    for marker, place in find_segments(data):
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
                lacking = left.setdefault(component, [-1] * (_LAST_COEFFICIENT + 1))
                is_whole &= {max(0, lack) for lack in lacking[start : end + 1]} <= {bits >> 4}
                lacking[start : end + 1] = [bits & 0x0F] * len(lacking[start : end + 1])
    if first is None or any(left[first]) or not is_whole:
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
        is_whole = all(found >= wanted for found, wanted in _count_restarts(data, header))
    except (struct.error, IndexError, KeyError, ValueError, ZeroDivisionError):
        return  # a damaged header, which decoders refuse
    if not is_whole:
        raise UnreadableScan(Reason.DAMAGED, "the JPEG data is damaged: part of the picture is missing")


def _count_restarts(data: bytes, header: FrameHeader) -> Iterator[tuple[int, int]]:
    """Yield the restart markers of each scan of a JPEG, as found and as wanted (ISO/IEC 10918-1, A.2 and B.2.4.4)."""
    interval = 0
    block_px = 1 if header.codec is Codec.JPEG_LOSSLESS else _BLOCK_PX
    factors: dict[int, tuple[int, int]] = {}  # of sampling, by component: horizontal and vertical
    scan: tuple[int, int] | None = None  # that the next segment ends: its place, and the markers that it wants
    for marker, place in find_segments(data):
        if scan is not None:
            yield _count_codes(data[scan[0] : place]), scan[1]
            scan = None
        if marker in JPEG_FRAMES:
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
                units *= -(-side_px * own // (block_px * max(pair[axis] for pair in factors.values())))
            scan = place, -(-units // interval) - 1
    if scan is not None:
        yield _count_codes(data[scan[0] :]), scan[1]


def _count_codes(data: bytes) -> int:
    """Return the restart markers in entropy-coded data; NumPy counts them in half the time of a regular expression."""
    codes = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((codes[:-1] == 0xFF) & (codes[1:] & 0xF8 == _FIRST_RESTART)))


def to_luma(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Reduce RGB (H, W, 3 or more) to luma (H, W), float32 (ITU-R BT.601)."""
    luma: npt.NDArray[np.float32] = pixels[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return luma


def sample_colors(pixels: npt.NDArray[Any], bits: int, *, is_ybr: bool = False) -> Colors:
    """Return a sample of the colors of (H, W, 3 or more) integers of `bits` bits, RGB or YBR."""
    rows, columns = (np.linspace(0, size - 1, COLORS_SIDE_PX).astype(np.int64) for size in pixels.shape[:2])
    sample = (pixels[np.ix_(rows, columns)][..., :3] >> max(0, bits - 8)).astype(np.uint8)
    return sample if is_ybr else np.asarray(Image.fromarray(sample).convert("YCbCr"))
