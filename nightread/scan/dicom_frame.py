"""Decoding of the frame of a DICOM instance to stored values (PS3.5 A.4 and 8.2)."""

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image
from pydicom import uid

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.dicom_file import (
    ENCAPSULATED_NATIVE,
    JPEG_XL,
    PROGRESSIVE,
    SHOWN_PHOTOMETRICS,
    SYNTAXES,
    Attributes,
    DicomFile,
    count_stored_bytes,
    describe_tag,
    read_frame,
)
from nightread.scan.dicom_gray import read_table
from nightread.scan.frame_header import Codec, FrameHeader, read_header
from nightread.scan.frames import close_jpeg, decode, sample_colors, to_luma
from nightread.scan.raster import check_jpeg_end, sample_jpeg_colors
from nightread.scan.scan import Colors, Contradiction, Pixels

_PALETTES: Final = tuple(f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue"))
_SEGMENTED: Final = tuple(f"Segmented{name}Data" for name in _PALETTES)
_COMPRESSED: Final = SYNTAXES - {
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
    ENCAPSULATED_NATIVE, uid.RLELossless,
}  # fmt: skip
#: Transfer syntaxes that declare a codec.
_CODEC_SYNTAXES: Final = {
    Codec.JPEG: {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, *PROGRESSIVE},
    Codec.JPEG_LOSSLESS: {uid.JPEGLossless, uid.JPEGLosslessSV1},
    Codec.JPEG_LS: {uid.JPEGLSLossless, uid.JPEGLSNearLossless},
    Codec.JPEG_2000: {
        uid.JPEG2000Lossless, uid.JPEG2000, uid.JPEG2000MCLossless, uid.JPEG2000MC, uid.HTJ2KLossless,
        uid.HTJ2KLosslessRPCL, uid.HTJ2K,
    },
    Codec.JPEG_XL: set(JPEG_XL),
}  # fmt: skip
#: Size of the table of segments before an RLE frame.
_RLE_HEADER: Final = 64
_NATIVE_BITS: Final = frozenset({8, 16, 32})


@dataclass(frozen=True, slots=True)
class StoredPixels:
    """The decoded frame.

    Attributes:
        gray: (H, W); luma for colors.
        bits: bits of each value.
        is_shown: whether the values are final gray levels, as for colors and palettes, to which no transform applies.
        colors: a sample of the colors, if requested and present.
    """

    gray: Pixels
    bits: int
    is_shown: bool = False
    colors: Colors | None = None


def decode_frame(file: DicomFile, *, with_colors: bool) -> StoredPixels:
    """Decode the frame of an instance.

    The frame itself determines its codec and bit depth, even if transfer syntax and attributes differ.

    Raises:
        UnreadableScan: damaged, cut short, or of another size than the attributes declare.
        UnsupportedScan: a color palette, or an unsupported bit depth.
    """
    frame, is_encapsulated = read_frame(file)
    attributes = file.attributes
    header = read_header(frame) if is_encapsulated or file.syntax in _COMPRESSED else None
    if header is not None:
        _check_header(header, file)
        if header.components != 1 and _is_8_bit_jpeg(header):
            return _decode_color_jpeg(bytes(frame), header, attributes, with_colors=with_colors)
        pixels, bits = _decode_compressed(frame, header, attributes)
    elif is_encapsulated and (file.syntax == uid.RLELossless or _is_rle(frame, file)):
        pixels, bits = _decode_rle(bytes(frame), attributes)
    elif file.syntax in _COMPRESSED and (is_encapsulated or not _has_native_size(frame, attributes)):
        raise UnreadableScan(Reason.DAMAGED, "the compressed frame begins like no known compression")
    else:
        pixels, bits = _read_native(frame, file), attributes.whole("BitsAllocated", 1, 64)
    if header is None:
        pixels, bits = _take_stored_bits(pixels, bits, attributes)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3:
        is_ybr = attributes.photometric.startswith("YBRFULL") and not (header is not None and header.is_rgb)
        return _reduce_colors(pixels, bits, is_ybr=is_ybr, with_colors=with_colors)
    if attributes.photometric == "PALETTECOLOR":
        return _apply_palette(pixels, attributes)
    if attributes.whole("PixelRepresentation", 0, 1, 0) and pixels.dtype.kind == "u":
        pixels = _extend_sign(pixels, bits)
    return StoredPixels(pixels, bits)


def _is_rle(frame: memoryview, file: DicomFile) -> bool:
    """Return whether a frame begins like RLE although its transfer syntax is missing or another one."""
    count = file.attributes.whole("SamplesPerPixel", 1, 4, 1) * file.attributes.whole("BitsAllocated", 1, 64) // 8
    if file.syntax == ENCAPSULATED_NATIVE or frame[:8] != struct.pack("<LL", count, _RLE_HEADER):
        return False
    if file.syntax:
        file.attributes.noted.add(Contradiction.TRANSFER_SYNTAX)
    return True


def _has_native_size(frame: memoryview, attributes: Attributes) -> bool:
    size = count_stored_bytes(attributes)
    return len(frame) == size + size % 2


def _check_header(header: FrameHeader, file: DicomFile) -> None:
    """Refuse a frame of another size than declared, and note other contradictions."""
    attributes = file.attributes
    if file.syntax and file.syntax not in _CODEC_SYNTAXES[header.codec]:
        attributes.noted.add(Contradiction.TRANSFER_SYNTAX)
    if _is_8_bit_jpeg(header) and attributes.whole("BitsStored", 1, 64, 8) != 8:
        attributes.noted.add(Contradiction.BITS_STORED)
    rows, columns = attributes.whole("Rows", 1, 65535), attributes.whole("Columns", 1, 65535)
    if (header.height_px, header.width_px) != (rows, columns) or header.components not in {1, 3}:
        raise UnreadableScan(
            Reason.DAMAGED,
            f"(0028,0010) Rows and (0028,0011) Columns are not those of the {header.codec} frame, or it has not one or "
            "three components",
        )


def _is_8_bit_jpeg(header: FrameHeader) -> bool:
    return header.codec is Codec.JPEG and header.bits == 8


def _decode_compressed(frame: memoryview, header: FrameHeader, attributes: Attributes) -> tuple[Pixels, int]:
    """Return the pixels of a frame with a header of its own, (H, W) or (H, W, 3), and their bits."""
    if _is_8_bit_jpeg(header):
        return _decode_gray_jpeg(bytes(frame), header), 8
    return _find_bits(decode(frame, header), header, attributes)


def _find_bits(pixels: Pixels, header: FrameHeader, attributes: Attributes) -> tuple[Pixels, int]:
    """Return a compressed frame and its bits in use: the declared ones, unless it has fewer or needs more.

    Values may need more because an overlay lies above them, which is masked. Values that need more and that end in
    zeros were left where High Bit has them: they are shifted down.
    """
    most = min(header.bits, 8 * pixels.dtype.itemsize)
    declared = attributes.whole("BitsStored", 1, 64, most)
    if declared <= most and int(pixels.max()) < 2**declared:
        return pixels, declared
    if declared < most and attributes.has_embedded_overlay:
        return _take_stored_bits(pixels.view(f"u{pixels.dtype.itemsize}"), most, attributes)
    shift = attributes.whole("HighBit", 0, 63, most) + 1 - declared
    if 0 < shift <= most - declared and not (pixels & (2**shift - 1)).any():
        attributes.noted.add(Contradiction.HIGH_BIT)
        return pixels >> shift, declared
    attributes.noted.add(Contradiction.BITS_STORED)
    return pixels, most


def _read_native(frame: memoryview, file: DicomFile) -> Pixels:
    """Return uncompressed pixels, (H, W) or (H, W, 3), as stored."""
    attributes = file.attributes
    if file.syntax in _COMPRESSED or file.syntax == uid.RLELossless:
        attributes.noted.add(Contradiction.TRANSFER_SYNTAX)
    rows, columns = attributes.whole("Rows", 1, 65535), attributes.whole("Columns", 1, 65535)
    samples, bits = attributes.whole("SamplesPerPixel", 1, 4, 1), attributes.whole("BitsAllocated", 1, 64)
    if bits not in _NATIVE_BITS or samples not in {1, 3}:
        raise UnsupportedScan(
            Reason.UNSUPPORTED_FORMAT,
            f"(0028,0100) Bits Allocated is {bits} and (0028,0002) Samples per Pixel {samples}; supported are 8, 16 "
            "and 32 bits with one or three samples",
        )
    if attributes.photometric.startswith("YBRPARTIAL"):
        raise UnsupportedScan(
            Reason.UNSUPPORTED_FORMAT,
            "(0028,0004) Photometric Interpretation is YBR_PARTIAL_422 or YBR_PARTIAL_420, which are retired; "
            f"supported are {SHOWN_PHOTOMETRICS}",
        )
    is_halved = attributes.photometric == "YBRFULL422"
    size = count_stored_bytes(attributes) * 2 // 3 if is_halved else count_stored_bytes(attributes)
    # For an odd number of bytes the standard requires one more, but some writers store one less.
    if len(frame) < size - size % 2 or not frame:
        raise UnreadableScan(Reason.DAMAGED, "(7FE0,0010) Pixel Data is shorter than the picture")
    content = bytes(frame[:size]) if len(frame) >= size else bytes(frame) + bytes(frame[-1:])
    if not attributes.is_little_endian and bits == 8 and file.data[(file.pixels_at or 0) + 4 :][:2] == b"OW":
        content = np.frombuffer(content[: size // 2 * 2], "<u2").byteswap().tobytes() + content[size // 2 * 2 :]
    pixels = np.frombuffer(content, f"{'<' if attributes.is_little_endian else '>'}u{bits // 8}")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if is_halved:  # two luma values for each pair of chroma values
        quads = pixels.reshape(-1, 4)
        chroma = np.repeat(quads[:, 2:], 2, axis=0)
        return np.column_stack([quads[:, :2].ravel(), chroma]).reshape(rows, columns, 3)
    if samples == 1:
        return pixels.reshape(rows, columns)
    if attributes.whole("PlanarConfiguration", 0, 1, 0):
        return np.moveaxis(pixels.reshape(samples, rows, columns), 0, -1)
    return pixels.reshape(rows, columns, samples)


def _decode_rle(frame: bytes, attributes: Attributes) -> tuple[Pixels, int]:
    """Decode RLE (PS3.5 annex G): one plane for each byte of each sample, high bytes first."""
    import imagecodecs

    bits, samples = attributes.whole("BitsAllocated", 8, 32), attributes.whole("SamplesPerPixel", 1, 3, 1)
    rows, columns = attributes.whole("Rows", 1, 65535), attributes.whole("Columns", 1, 65535)
    count = samples * bits // 8
    offsets = np.frombuffer(frame[:_RLE_HEADER].ljust(_RLE_HEADER, b"\0"), "<u4")
    if offsets[0] != count or len(frame) < _RLE_HEADER:
        raise UnreadableScan(Reason.DAMAGED, "the RLE frame has not one segment for each byte of a pixel")
    ends = [*offsets[2 : count + 1].tolist(), len(frame)]
    planes: list[Pixels] = []
    for start, end in zip(offsets[1 : count + 1].tolist(), ends, strict=True):
        plane = bytearray(rows * columns)
        try:
            decoded = imagecodecs.packbits_decode(frame[start:end], out=plane)
        except (RuntimeError, ValueError):
            raise UnreadableScan(Reason.DAMAGED, "the RLE frame is damaged or cut short") from None
        if len(decoded) != rows * columns:
            raise UnreadableScan(Reason.DAMAGED, "the RLE frame is cut short")
        planes.append(np.frombuffer(decoded, np.uint8))
    size = bits // 8
    pixels = np.zeros((rows * columns, samples), f"u{size}")
    for place, values in enumerate(planes):
        pixels[:, place // size] |= values.astype(pixels.dtype) << (8 * (size - 1 - place % size))
    return pixels.reshape(rows, columns, samples), bits


def _take_stored_bits(pixels: Pixels, allocated: int, attributes: Attributes) -> tuple[Pixels, int]:
    """Return the stored bits, shifted down; the other bits may hold overlays (PS3.5 8.1.1)."""
    bits = attributes.whole("BitsStored", 1, allocated, allocated)
    high = attributes.whole("HighBit", 0, 63, bits - 1)
    shift = high + 1 - bits if bits - 1 <= high < allocated else 0
    if high != bits - 1:
        attributes.noted.add(Contradiction.HIGH_BIT)
    if shift or bits < allocated:
        pixels = (pixels >> shift) & pixels.dtype.type(2**bits - 1)
    return pixels, bits


def _extend_sign(pixels: Pixels, bits: int) -> Pixels:
    """Convert two's complement numbers of `bits` bits to signed integers."""
    spare = 8 * pixels.dtype.itemsize - bits
    signed: Pixels = (pixels << spare).view(f"i{pixels.dtype.itemsize}") >> spare
    return signed


def _reduce_colors(pixels: Pixels, bits: int, *, is_ybr: bool, with_colors: bool) -> StoredPixels:
    """Reduce (H, W, 3) to luma, which is Y for YBR_FULL; YBR_RCT and YBR_ICT are RGB after decoding."""
    gray = pixels[..., 0] if is_ybr else to_luma(pixels)
    colors = None
    if with_colors:  # three equal components are gray in RGB, and no picture in YBR: their label was left behind
        is_gray = bool((pixels[..., 1:] == pixels[..., :1]).all())
        colors = sample_colors(pixels, bits, is_ybr=is_ybr and not is_gray)
    return StoredPixels(gray, bits, is_shown=True, colors=colors)


def _apply_palette(pixels: Pixels, attributes: Attributes) -> StoredPixels:
    """Look values up in a palette whose colors are all gray.

    Raises:
        UnsupportedScan: a color is not gray.
    """
    if segmented := next((name for name in _SEGMENTED if name in attributes.dataset), None):
        raise UnsupportedScan(Reason.UNSUPPORTED_FORMAT, f"{describe_tag(segmented)} is not read")
    is_complete = all(attributes.raw(f"{name}Data") is not None for name in _PALETTES)
    tables = [read_table(attributes, f"{name}Descriptor", f"{name}Data") for name in _PALETTES if is_complete]
    if not is_complete or not all(np.array_equal(tables[0][0], other) for other, _ in tables[1:]):
        raise UnsupportedScan(
            Reason.NOT_A_RADIOGRAPH, "(0028,0004) Photometric Interpretation is PALETTE COLOR; a radiograph is gray"
        )
    table, first = tables[0]
    places = np.clip(pixels.astype(np.int64) - first, 0, len(table) - 1)
    bits = max(8, int(table.max()).bit_length())
    return StoredPixels(table[places].astype(np.uint16), bits, is_shown=True)


def _decode_gray_jpeg(frame: bytes, header: FrameHeader) -> Pixels:
    """Decode an 8-bit JPEG frame of one component with the decoder of JPEG files."""
    frame = close_jpeg(frame, header)
    with Image.open(BytesIO(frame), formats=("JPEG",)) as image:
        check_jpeg_end(image, frame, header)
        return np.asarray(image.convert("L"))


def _decode_color_jpeg(frame: bytes, header: FrameHeader, attributes: Attributes, *, with_colors: bool) -> StoredPixels:
    """Decode an 8-bit JPEG frame of three components with the decoder of JPEG files."""
    frame = close_jpeg(frame, header)
    with Image.open(BytesIO(frame), formats=("JPEG",)) as image:
        is_rgb = _is_unmarked_rgb(image, attributes)
        # The decoder would take unmarked RGB for YBR, so conversion is switched off.
        image.draft("YCbCr" if is_rgb else "L", image.size)
        check_jpeg_end(image, frame, header)
        gray: Any = to_luma(np.asarray(image)) if is_rgb else np.asarray(image.convert("L"))
    colors = sample_jpeg_colors(frame, is_unmarked_rgb=is_rgb) if with_colors else None
    return StoredPixels(gray, 8, is_shown=True, colors=colors)


def _is_unmarked_rgb(image: Image.Image, attributes: Attributes) -> bool:
    """Return whether the frame holds RGB according to the data set only, not to its markers or component names."""
    is_marked = bool(image.info.keys() & {"adobe_transform", "jfif"})
    names = bytes(component[0] for component in getattr(image, "layer", ()))
    is_rgb = attributes.photometric == "RGB"
    return is_rgb and image.mode == "RGB" and not is_marked and names.upper() != b"RGB"
