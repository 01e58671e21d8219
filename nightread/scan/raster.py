"""Decoding of JPEG, PNG, TIFF, BMP and WebP with Pillow: from bytes to gray pixels."""

import contextlib
import ctypes
import logging
import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, _imaging
from PIL.ExifTags import Base

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.brightness import find_white
from nightread.scan.formats import Format
from nightread.scan.frame_header import Codec, FrameHeader, find_segments, read_header
from nightread.scan.frames import check_last_pixel, close_jpeg, decode, sample_colors, to_luma
from nightread.scan.scan import (
    COLORS_SIDE_PX,
    DECODER_ERRORS,
    BrightnessRule,
    Colors,
    Pixels,
    Scan,
    check_size,
    find_scale,
)

_PNG_CHUNKS_AT = 8
_PNG_DEPTH_AND_COLOR = slice(24, 26)
#: Samples of a pixel by color type; one of those left out.
_PNG_SAMPLES = {2: 3, 4: 2, 6: 4}
#: Depth and color type of PNGs of which Pillow keeps the upper 8 bits: RGB, gray with alpha, and RGB with alpha.
_DEEP_PNGS = {b"\x10\x02", b"\x10\x04", b"\x10\x06"}
#: Of BMP: header (40 is the first of Windows), bits of a pixel with compressions: none, or none with masks of colors.
#: In the others, which are run-length codings, a missing part is no error.
_BMP_HEADER, _BMP_MASKED = 40, 3
_BMP_KINDS = {(1, 0), (8, 0), (16, 0), (24, 0), (32, 0), (16, _BMP_MASKED), (32, _BMP_MASKED)}
#: Masks of red, green, blue and alpha that Pillow reads.
_BMP_MASKS = {
    (0xF800, 0x07E0, 0x1F, 0), (0x7C00, 0x03E0, 0x1F, 0), (0xFF0000, 0xFF00, 0xFF, 0),
    (0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF000000, 0xFF0000, 0xFF00, 0), (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    (0xFF000000, 0xFF00, 0xFF, 0), (0xFF000000, 0xFF00, 0xFF, 0xFF0000), (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
}  # fmt: skip
_BMP_HEADER_OF_ALPHA = 56

_APPLICATION_1, _START_OF_SCAN = 0xE1, 0xDA
_EXIF = b"Exif\0\0"
_FEWEST_LINE_ENDS = 16
#: By EXIF orientation (EXIF 2.32, tag 274).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def silence_decoders() -> None:
    """Silence the decoders' messages on damaged files, which may quote the file and so reveal patient data.

    The scan's row has the reason instead. Pillow's warnings and debug lines quote tags; libtiff prints a line per
    damaged strip to stderr from C.
    """
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    for name in ("PIL", "imagecodecs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        library = ctypes.CDLL(_imaging.__file__)  # finds libtiff among the libraries of Pillow's module
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)
    except (OSError, AttributeError):  # Pillow has no libtiff, or links it statically
        return


def read_raster(data: bytes, kind: Format, max_pixels: int, at_least_px: int, *, with_colors: bool) -> Scan:
    """Decode a file of any format but DICOM; arguments and errors as in `nightread.scan.decode.read_scan`."""
    header = read_header(data) if kind is Format.JPEG else None
    if header is not None:
        check_size(header.width_px, header.height_px, max_pixels)
        _check_transfer(data)
        if header.codec is not Codec.JPEG or header.bits != 8:
            return _read_deep_jpeg(data, header, with_colors=with_colors)
        data = close_jpeg(data, header)
    if kind is Format.TIFF:
        from nightread.scan.tiff import read_tiff  # 0.1 s to import, and most folders hold no TIFF

        page = read_tiff(data, max_pixels, with_colors=with_colors)
        if page is not None:
            return page
    if kind in {Format.BMP, Format.WEBP}:
        (_check_bmp if kind is Format.BMP else _check_lossless)(data)
    try:
        # The allow-list excludes Pillow's forty other parsers, some of which run programs.
        with Image.open(BytesIO(data), formats=(kind.name,)) as image:
            width_px, height_px = image.size
            check_size(width_px, height_px, max_pixels)
            is_checked = kind is Format.TIFF or (kind is Format.JPEG and _has_preview(image))
            if not is_checked and getattr(image, "is_animated", False):
                raise UnsupportedScan(Reason.MULTI_FRAME, "the file has several frames; a scan has one")
            if kind is Format.JPEG and at_least_px and _find_turn(image) is None:
                wanted = find_scale(width_px, height_px, at_least_px)
                mode = "YCbCr" if with_colors and _is_ycbcr(image) else "L"
                image.draft(mode, (width_px // wanted, height_px // wanted))
            image.load()
            if kind is Format.PNG and data[_PNG_DEPTH_AND_COLOR] in _DEEP_PNGS:
                return _read_deep_png(data, _find_turn(image), with_colors=with_colors)
            scale = round(width_px / image.width)
            # A JPEG may have been decoded to luma and chroma; Pillow has that mode of other files, too.
            luma = image.getchannel(0) if header is not None and image.mode == "YCbCr" else image
            if header is not None:
                check_jpeg_end(luma, data, header)
            if kind is Format.PNG:
                _check_png_rows(image, data)
            colors = _sample_colors(image, data, header, scale) if with_colors else None
            pixels, black, white = _to_gray(luma)
    except Image.DecompressionBombError:
        raise UnreadableScan(
            Reason.TOO_LARGE, f"far more pixels than the allowed {max_pixels:,} (NIGHTREAD_MAX_PIXELS)"
        ) from None
    except DECODER_ERRORS:
        raise UnreadableScan(Reason.DAMAGED, f"the {kind.name} data is damaged or cut short") from None
    rule = BrightnessRule.FULL_RANGE if pixels.dtype == np.uint8 else BrightnessRule.BITS_IN_USE
    # Turned by 90 degrees, it has other sides than stored.
    height_px, width_px = pixels.shape if scale == 1 else (height_px, width_px)
    return Scan(pixels, black, white, kind, width_px, height_px, scale=scale, colors=colors, rule=rule)


def _check_transfer(data: bytes) -> None:
    """Refuse a JPEG that was transferred as text: decoders show some picture of its bytes.

    Raises:
        UnreadableScan: each line feed of its pixels follows a carriage return; of a sound file one of 256 does.
    """
    start = next((place for marker, place in find_segments(data) if marker == _START_OF_SCAN), len(data))
    line_ends = data.count(b"\n", start)
    if line_ends >= _FEWEST_LINE_ENDS and data.count(b"\r\n", start) == line_ends:
        raise UnreadableScan(
            Reason.DAMAGED, "the JPEG was transferred as text, which adds bytes; send it as binary data"
        )


def _read_deep_png(data: bytes, turn: Image.Transpose | None, *, with_colors: bool) -> Scan:
    """Decode a PNG of 16 bits with colors or alpha, which is dropped.

    Pillow must have decoded it before: imagecodecs keeps the memory of each PNG that it cannot decode.
    """
    import imagecodecs  # 0.1 s and 20 MB, and such files are rare

    try:
        pixels = imagecodecs.png_decode(data)
    except (RuntimeError, ValueError):
        raise UnreadableScan(Reason.DAMAGED, "the PNG data is damaged or cut short") from None
    is_color = pixels.shape[2] > 2
    gray = np.rint(to_luma(pixels)).astype(np.uint16) if is_color else pixels[..., 0]
    colors = sample_colors(pixels, 16) if is_color and with_colors else None
    upright = _turn(gray, turn)
    height_px, width_px = upright.shape
    rule = BrightnessRule.BITS_IN_USE
    return Scan(upright, 0.0, find_white(gray), Format.PNG, width_px, height_px, colors=colors, rule=rule)


def _turn(pixels: Pixels, turn: Image.Transpose | None) -> Pixels:
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def _check_bmp(data: bytes) -> None:
    """Refuse a BMP of a kind that is not known to be read right.

    Raises:
        UnsupportedScan: its bits, compression or header are of another kind.
    """
    header, bits, compression = struct.unpack_from("<L10xHL", data.ljust(34, b"\0"), 14)
    *masks, alpha = struct.unpack_from("<LLLL", data.ljust(70, b"\0"), 54)
    masks.append(alpha if header >= _BMP_HEADER_OF_ALPHA else 0)
    is_read = compression != _BMP_MASKED or tuple(masks) in _BMP_MASKS
    if header < _BMP_HEADER or (bits, compression) not in _BMP_KINDS or not is_read:
        kind = "of OS/2" if header < _BMP_HEADER else f"of {bits} bits in compression {compression}"
        kind += "" if is_read else " with rare masks of colors"
        raise UnsupportedScan(Reason.UNSUPPORTED_FORMAT, f"a BMP {kind}; save the scan as PNG")


def _check_lossless(data: bytes) -> None:
    """Refuse a WebP in extended form whose picture is compressed with loss: no decoder tells how much is missing.

    Raises:
        UnsupportedScan: one of its chunks is `VP8 `.
    """
    place = 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sL", data, place)
        if name == b"VP8 ":
            raise UnsupportedScan(Reason.UNSUPPORTED_FORMAT, "a lossy WebP; save the scan as PNG")
        place += 8 + size + size % 2


def _has_preview(image: Image.Image) -> bool:
    """Return whether the other pictures of a multi-picture JPEG are smaller, like previews; leaves it at the first."""
    size_px = image.size
    others = []
    with contextlib.suppress(*DECODER_ERRORS):  # an index that leads nowhere: decoders show the first picture
        for frame in range(1, getattr(image, "n_frames", 1)):
            image.seek(frame)
            others.append(image.size)
    image.seek(0)
    return all(width < size_px[0] and height < size_px[1] for width, height in others)


def _read_deep_jpeg(data: bytes, header: FrameHeader, *, with_colors: bool) -> Scan:
    """Decode JPEG Lossless, JPEG-LS and 12-bit JPEG."""
    pixels = decode(data, header)
    colors, rule = None, BrightnessRule.FULL_RANGE
    if pixels.ndim == 2:
        white = find_white(pixels) if header.bits >= 8 else float(2**header.bits - 1)
        rule = BrightnessRule.FULL_RANGE if pixels.dtype == np.uint8 else BrightnessRule.BITS_IN_USE
    else:
        colors = sample_colors(pixels, header.bits) if with_colors else None
        pixels, white = to_luma(pixels), float(2**header.bits - 1)
    upright = _turn(pixels, _find_turn_of_jpeg(data))
    height_px, width_px = upright.shape
    return Scan(upright, 0.0, white, Format.JPEG, width_px, height_px, colors=colors, rule=rule)


def _is_ycbcr(image: Image.Image) -> bool:
    """Return whether a JPEG is known to store luma and chroma, so that one decode yields gray and colors.

    The decoder cannot make them of RGB, which the Adobe marker declares, or the names of components without a marker.
    """
    transform = image.info.get("adobe_transform")
    return transform == 1 or (transform is None and "jfif_density" in image.info)


def _sample_colors(image: Image.Image, data: bytes, header: FrameHeader | None, scale: int) -> Colors | None:
    """Return a sample of the colors of an image that was loaded at 1/scale; None if its file stores gray.

    Args:
        image: of any format.
        data: its file.
        header: of a JPEG.
        scale: at which it was loaded.
    """
    if header is not None:
        if header.components == 1:
            return None
        # The means of blocks, as the second decode would have them.
        return _to_colors(image.reduce(8 // scale)) if image.mode == "YCbCr" else sample_jpeg_colors(data)
    if image.mode not in {"P", "PA", "RGB", "RGBA", "RGBX"}:
        return None
    return _to_colors(image)


def sample_jpeg_colors(data: bytes, *, is_unmarked_rgb: bool = False) -> Colors | None:
    """Return a sample of the colors of a JPEG that was decoded before; None if it has one component.

    Decoding to gray skips the chroma. This second decode at 1/8 scale reads only the mean of each block, enough to
    recognise a photograph, and does not affect the gray pixels.

    Args:
        data: content of the JPEG.
        is_unmarked_rgb: its components are RGB although no marker declares it.
    """
    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        if image.mode != "RGB":
            return None
        image.draft("YCbCr" if is_unmarked_rgb else "RGB", (1, 1))  # 1/8 scale, the smallest, for any size
        # The decoder was kept from converting, so its "YCbCr" bytes are in fact RGB.
        return _to_colors(Image.frombytes("RGB", image.size, image.tobytes()) if is_unmarked_rgb else image)


def _to_colors(image: Image.Image) -> Colors:
    side_px = (COLORS_SIDE_PX, COLORS_SIDE_PX)
    # Nearest neighbour, not averaging: the mean of two opposite colors is gray.
    return np.asarray(image.resize(side_px, Image.Resampling.NEAREST).convert("RGB").convert("YCbCr"))


def check_jpeg_end(image: Image.Image, data: bytes, header: FrameHeader) -> None:
    """Refuse a JPEG whose data ended early, see `check_last_pixel`.

    Args:
        image: as decoded, before rotation by EXIF, perhaps at a smaller scale.
        data: the JPEG.
        header: its header.

    Raises:
        UnreadableScan: part of the picture is missing.
    """
    check_last_pixel(np.asarray(image.getpixel((image.width - 1, image.height - 1))), data, header)


def _check_png_rows(image: Image.Image, data: bytes) -> None:
    """Refuse a PNG whose pixel data is complete but has too few rows: its decoder shows the missing ones black.

    Interlaced PNGs need no check, their decoder does it.

    Raises:
        UnreadableScan: the last row is missing.
    """
    last_row = np.asarray(image.crop((0, image.height - 1, *image.size)))
    if last_row.any() or image.info.get("interlace"):
        return
    depth, color_type = data[_PNG_DEPTH_AND_COLOR]
    missing = image.height * (1 + -(-image.width * depth * _PNG_SAMPLES.get(color_type, 1) // 8))
    inflater, place = zlib.decompressobj(), _PNG_CHUNKS_AT
    while missing > 0 and place + 8 <= len(data):
        size, name = struct.unpack_from(">L4s", data, place)
        if name == b"IDAT":
            missing -= len(inflater.decompress(data[place + 8 : place + 8 + size], missing))
        place += 12 + size
    if missing > 0:
        raise UnreadableScan(Reason.DAMAGED, "the PNG data is cut short: the lowest rows of the picture are missing")


def _find_turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns an image upright by its EXIF orientation; None if nothing does, or if that cannot be read."""
    with contextlib.suppress(*DECODER_ERRORS):
        return _TURNS.get(image.getexif().get(Base.Orientation, 1))
    return None


def _find_turn_of_jpeg(data: bytes) -> Image.Transpose | None:
    """Return what `_find_turn` does, of a JPEG that Pillow does not open."""
    for marker, place in find_segments(data):
        content = data[place + 4 : place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")]
        if marker == _APPLICATION_1 and content.startswith(_EXIF):
            exif = Image.Exif()
            with contextlib.suppress(*DECODER_ERRORS):
                exif.load(content)
                return _TURNS.get(exif.get(Base.Orientation, 1))
        if marker == _START_OF_SCAN:
            break
    return None


def _to_gray(image: Image.Image) -> tuple[Pixels, float, float]:
    """Return (pixels, black, white) of a loaded image; 16-bit pixels are kept, since `convert("L")` would clip them."""
    turn = _find_turn(image)
    image = image if turn is None else image.transpose(turn)
    image = image.convert("LA") if image.mode == "La" else image  # gray that was multiplied with its alpha
    mode = image.mode
    if mode in {"L", "1", "LA", "P", "PA", "RGB", "RGBA", "RGBX"}:
        # Alpha is dropped: it does not describe exposure. Colors become luma (ITU-R BT.601).
        image = image.convert("RGB") if mode in {"P", "PA"} else image
        gray = np.asarray(image if mode == "L" else image.convert("L"))  # `convert` would copy gray pixels once more
        return gray, 0.0, 255.0
    if mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16, copy=False)
        return pixels, 0.0, find_white(pixels)
    raise UnsupportedScan(
        Reason.UNSUPPORTED_FORMAT,
        f"the color mode is {mode}; supported are gray, RGB, RGBA and palette: convert it, for instance with "
        "`magick IN -colorspace Gray OUT.png`",
    )
