"""Decoding of TIFF with tifffile and imagecodecs: choice of the page, checks, and gray levels.

Pages of 1 or 8 bits that Pillow supports are decoded in `nightread.scan.raster`.
"""

import logging
from io import BytesIO
from math import prod
from typing import Any, Final

import numpy as np
import tifffile
from PIL import Image

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan import lzw
from nightread.scan.brightness import find_extremes, find_white
from nightread.scan.formats import Format
from nightread.scan.frame_header import read_header
from nightread.scan.frames import sample_colors, to_luma
from nightread.scan.scan import DECODER_ERRORS, LARGEST_GRAY, BrightnessRule, Pixels, Scan, check_size

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it quotes tags

_PHOTOMETRIC: Final = {
    0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab",
}  # fmt: skip
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_NONE, _LZW, _JPEG, _PNG, _JPEG_XR, _WEBP = 1, 5, 7, 34933, 34934, 50001
#: Largest depth that is decoded without error, by compression. JPEG 2000 is inexact beyond 25 bits.
_BITS: Final = {
    1: 64, 2: 1, 3: 1, 4: 1, _LZW: 64, _JPEG: 16, 8: 64, 32773: 64, 32946: 64, 34925: 64, 50000: 64,
    33003: 16, 33004: 16, 33005: 16, 34712: 16, _PNG: 16, 50002: 32, 52546: 32, _WEBP: 8,
}  # fmt: skip
#: Compressions whose strips and tiles have no header with their size.
_BARE: Final = frozenset({1, 2, 3, 4, _LZW, 8, 32773, 32946, 34925, 50000})
_PILLOW_COMPRESSIONS: Final = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
#: Without a predictor in the standard; some writers use one all the same.
_PREDICTORLESS: Final = frozenset({1, 2, 3, 4, 32773})
#: Fill Order of bytes whose bits are stored in reverse order, and what puts them right.
_LOW_BIT_FIRST: Final = 2
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_PNG_SIZE_AT: Final = slice(16, 24)
#: Maximum number of pages to examine; the chain of pages may be endless.
_MOST_PAGES: Final = 16
#: Maximum pixels of a strip or tile, unless the picture is larger.
_LARGEST_CHUNK: Final = 2**20
_COLOR_MAP_BITS: Final = 16
_REMEDY: Final = "magick IN -colorspace Gray -compress None OUT.tif"
_REMEDIES: Final = {_JPEG_XR: "python -c \"import tifffile as t; t.imwrite('OUT.tif', t.imread('IN'))\""}
_TIFF_ERRORS: Final = (*DECODER_ERRORS, RuntimeError, tifffile.TiffFileError)


def read_tiff(data: bytes, max_pixels: int, *, with_colors: bool) -> Scan | None:
    """Decode the page that holds the scan; returns None if Pillow can decode it.

    Raises:
        UnreadableScan: damaged, too large, or with a strip or tile far larger than the picture.
        UnsupportedScan: several full pages, or an unsupported kind of page, which the message names.
    """
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            page = _find_page(file)
            _check_page(page, data, max_pixels)
            if page is file.pages.first and _is_for_pillow(page):
                return None
            if page.compression == _LZW:
                _check_lzw(page, data)
            return _decode(page, with_colors=with_colors)
    except _TIFF_ERRORS:
        raise UnreadableScan(Reason.DAMAGED, "the TIFF data is damaged or cut short") from None


def _find_page(file: tifffile.TiffFile) -> Any:
    """Return the only page of full resolution.

    It may be a subpage of a preview, which is declared as reduced or smaller than its subpage.
    """
    pages: list[Any] = []
    for page in file.pages:
        pages.append(page)
        if len(pages) == _MOST_PAGES or len([one for one in pages if not one.is_reduced]) > 1:
            break
    subpages = list(pages[0].pages)[:_MOST_PAGES] if pages[0].subifds else []
    is_preview = pages[0].is_reduced or any(_is_smaller(pages[0], page) for page in subpages)
    found = [*pages[1:], *subpages] if is_preview else pages
    full = [page for page in found if not (page.is_reduced or page.is_mask)]
    if len(full) > 1 or (not full and len(pages) == _MOST_PAGES):
        raise UnsupportedScan(Reason.MULTI_FRAME, "the file has several frames or pages; a scan has one")
    return full[0] if full else pages[0]


def _is_smaller(page: Any, other: Any) -> bool:
    return bool(page.imagewidth < other.imagewidth and page.imagelength < other.imagelength)


def _check_page(page: Any, data: bytes, max_pixels: int) -> None:
    check_size(page.imagewidth, page.imagelength, max_pixels)
    bits = _find_bits(page)
    if not _is_supported(page, bits):
        predictor = "" if page.predictor == 1 else f", predictor {int(page.predictor)}"
        raise UnsupportedScan(
            Reason.UNSUPPORTED_FORMAT,
            f"a TIFF of {page.samplesperpixel} samples of {bits} bits, "
            f"{_PHOTOMETRIC.get(page.photometric, 'another color space')}, compression {_name(page.compression)}"
            f"{predictor}; "
            f"save it as gray of 8 or 16 bits, for instance with `{_REMEDIES.get(page.compression, _REMEDY)}`",
        )
    if page.compression == _NONE:
        _correct_sizes(page, bits, len(data))
    chunk = page.chunks[0] * page.chunks[1] if len(page.chunks) > 1 else page.chunks[0]
    if chunk > max(4 * page.imagewidth * page.imagelength, _LARGEST_CHUNK):
        raise UnreadableScan(Reason.DAMAGED, "a strip or tile of the TIFF is far larger than the picture")
    if len(page.dataoffsets) < prod(page.chunked) or 0 in page.databytecounts:
        raise UnreadableScan(Reason.DAMAGED, "a strip or tile of the TIFF is missing")
    if page.compression not in _BARE:
        for place, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            _check_chunk(data[place : place + size], page, chunk)


def _correct_sizes(page: Any, bits: int, most: int) -> None:
    """Correct the byte counts of an uncompressed page, which some writers get wrong; its decoders differ about them.

    Args:
        page: of whose strips and tiles one with too small a byte count must end before whatever the page has next.
        bits: of a sample.
        most: bytes of the file.

    Raises:
        UnreadableScan: a strip or tile is shorter than its rows.
    """
    width, rows = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    row_bytes = -(-width * samples * bits // 8)
    in_plane = -(-page.imagelength // rows)
    sizes = list(page.databytecounts)
    places = sorted({*page.dataoffsets, page.offset, *(tag.valueoffset for tag in page.tags), most})
    for number, (place, size) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=False)):
        left = rows if page.is_tiled else min(rows, page.imagelength - number % in_plane * rows)
        wanted = left * row_bytes
        if not place or size >= wanted or (not size and any(page.databytecounts)):  # some counts of 0: not written yet
            continue
        if place + wanted > next((later for later in places if later > place), 0):
            raise UnreadableScan(Reason.DAMAGED, "a strip or tile of the TIFF is shorter than its rows")
        sizes[number] = wanted
    page.databytecounts = tuple(sizes)


def _find_bits(page: Any) -> int:
    return page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)


def _is_supported(page: Any, bits: int) -> bool:
    """Return whether pages of this kind are proven to be decoded right."""
    samples, is_jpeg = page.samplesperpixel, page.compression == _JPEG
    has_colors = {
        _WHITE_IS_ZERO: samples in {1, 2},
        _BLACK_IS_ZERO: samples in {1, 2},
        _RGB: samples in {3, 4},
        _PALETTE: samples == 1,
        _YCBCR: samples == 3 and is_jpeg and page.planarconfig == 1,  # its decoder returns RGB
    }.get(page.photometric, False)
    is_real = page.dtype is not None and page.dtype.kind in "uifb"
    if page.predictor != 1 and page.compression in _PREDICTORLESS:  # of which decoders make different pictures
        return False
    return has_colors and is_real and page.imagedepth == 1 and bits <= _BITS.get(page.compression, 0)


def _name(compression: Any) -> str:
    """Return the name and number of a compression; only the number if it is unknown."""
    name = getattr(compression, "name", "")
    return f"{name} ({int(compression)})" if name else str(int(compression))


def _check_chunk(content: bytes, page: Any, pixels: int) -> None:
    """Refuse a compressed strip or tile whose own header declares more pixels than the page."""
    if page.compression == _PNG:
        width, height = (int.from_bytes(content[_PNG_SIZE_AT][at : at + 4], "big") for at in (0, 4))
    elif page.compression == _WEBP:
        width, height = _read_webp(content)
    else:
        header = read_header(content)
        if header is None:
            raise UnreadableScan(Reason.DAMAGED, "a strip or tile of the TIFF has another compression than declared")
        width, height = header.width_px, header.height_px
    if width * height > max(pixels, page.imagewidth * page.imagelength):
        raise UnreadableScan(Reason.DAMAGED, "a strip or tile of the TIFF is larger than declared")
    if page.compression == _PNG:  # imagecodecs keeps the memory of each PNG that it cannot decode: Pillow must first
        with Image.open(BytesIO(content), formats=("PNG",)) as image:
            image.load()


def _read_webp(content: bytes) -> tuple[int, int]:
    """Return the width and height of a lossless WebP (RFC 9649, 3.4)."""
    if content[8:16] in {b"WEBPVP8 ", b"WEBPVP8X"}:
        raise UnsupportedScan(
            Reason.UNSUPPORTED_FORMAT, f"a TIFF with lossy WebP; save it uncompressed, for instance with `{_REMEDY}`"
        )
    if content[8:16] != b"WEBPVP8L" or len(content) < 25:
        raise UnreadableScan(Reason.DAMAGED, "a strip or tile of the TIFF has another compression than declared")
    sides = int.from_bytes(content[21:25], "little")
    return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1


def _check_lzw(page: Any, data: bytes) -> None:
    for place, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        content = data[place : place + size]
        if page.fillorder == _LOW_BIT_FIRST:
            content = content.translate(_REVERSED)
        if content[:1] == b"\0" and content[1:2] and content[1] & 1:
            raise UnsupportedScan(
                Reason.UNSUPPORTED_FORMAT, "a TIFF with LZW in the bit order of before 1992; save it uncompressed"
            )
        if not lzw.is_sound(content):
            raise UnreadableScan(Reason.DAMAGED, "the LZW data of the TIFF is damaged")


def _is_for_pillow(page: Any) -> bool:
    bits = {page.bitspersample} if isinstance(page.bitspersample, int) else set(page.bitspersample)
    is_inverted_alpha = page.photometric == _WHITE_IS_ZERO and page.samplesperpixel == 2
    # Some writers put 8 bits into a color map, whose colors have 16.
    is_narrow_palette = page.photometric == _PALETTE and page.colormap.max() < 2**8
    is_big_bigtiff = page.parent.is_bigtiff and page.parent.byteorder == ">"  # which Pillow takes for damage
    return (
        bits <= {1, 8} and page.sampleformat == 1 and page.planarconfig == 1
        and page.compression in _PILLOW_COMPRESSIONS and not (is_inverted_alpha or is_narrow_palette or is_big_bigtiff)
    )  # fmt: skip


def _decode(page: Any, *, with_colors: bool) -> Scan:
    pixels = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    colors = None
    if page.photometric in {_WHITE_IS_ZERO, _BLACK_IS_ZERO}:
        gray = pixels if pixels.ndim == 2 else pixels[..., 0]
    else:
        if page.photometric == _PALETTE:
            pixels = np.moveaxis(page.colormap, 0, -1)[pixels]
        gray = to_luma(pixels)
        if pixels.dtype.kind == "u":
            colors = sample_colors(pixels, 8 * pixels.dtype.itemsize) if with_colors else None
            gray = np.rint(gray).astype(pixels.dtype)
    gray, black, white, rule = _find_range(gray, _COLOR_MAP_BITS if page.photometric == _PALETTE else _find_bits(page))
    if page.photometric == _WHITE_IS_ZERO:
        black, white = white, black
    tag = page.tags.get("Orientation")
    upright = _turn(gray, int(tag.value) if tag is not None else 1)
    height_px, width_px = upright.shape
    return Scan(upright, black, white, Format.TIFF, width_px, height_px, colors=colors, rule=rule)


def _find_range(gray: Pixels, bits: int) -> tuple[Pixels, float, float, BrightnessRule]:
    """Return (pixels, black, white, rule): the bits in use of unsigned integers, else the extremes without outliers."""
    if gray.dtype.kind == "b" or (gray.dtype.kind == "u" and bits < 8):
        return gray.astype(np.uint8), 0.0, float(2**bits - 1), BrightnessRule.FULL_RANGE
    if gray.dtype.kind == "u":
        white, size = find_white(gray), gray.dtype.itemsize
        rule = BrightnessRule.FULL_RANGE if size == 1 else BrightnessRule.BITS_IN_USE
        return (gray if size <= 2 else gray.astype(np.float64)), 0.0, white, rule
    border = None
    if gray.dtype.kind == "f":  # what is no number, or stands for none as -3.4e38 does, is a border and shown black
        gray = gray.astype(np.float32) if gray.dtype.itemsize == 2 else gray
        border = ~(np.abs(gray) <= LARGEST_GRAY)
    extremes = find_extremes(gray, border)
    if extremes is None:
        raise UnreadableScan(Reason.BLANK, "no pixel is a finite number")
    if border is not None:
        gray = np.where(border, extremes[0], gray)
    return gray, *extremes, BrightnessRule.EXTREMES


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Rotate or flip a picture upright (TIFF 6.0, tag 274)."""
    if orientation >= 5:
        pixels = pixels.T
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}.get(orientation, 1)
    flips = {2: (slice(None), slice(None, None, -1)), 3: (slice(None, None, -1),) * 2, 4: (slice(None, None, -1),)}
    return pixels[flips.get(orientation, (slice(None),))]
