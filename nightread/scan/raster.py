"""Decoding of JPEG, PNG and TIFF with Pillow: from bytes to gray pixels."""

import ctypes
import logging
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, _imaging
from PIL.ExifTags import Base

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.formats import Format
from nightread.scan.scan import COLORS_SIDE_PX, DECODER_ERRORS, Colors, Pixels, Scan, check_size

_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_WHITE_IS_ZERO = 0
_PNG_BIT_DEPTH_AT = 24

#: A JPEG decoder that runs out of data fills the rest with this gray.
_JPEG_FILL = 128
#: A scan that ends in this many rows of it was cut short.
_JPEG_FILL_ROWS = 16

#: Pillow keeps the upper 8 of 16 bits of colors; if their maximum is lower than this, the lower bits held the picture.
_LEAST_BRIGHTEST = 64


def silence_decoders() -> None:
    """Silence the decoders' messages on damaged files, which may quote the file and so reveal patient data.

    The scan's row has the reason instead. Pillow's warnings and debug lines quote tags; libtiff prints a line per
    damaged strip to stderr from C.
    """
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        library = ctypes.CDLL(_imaging.__file__)  # finds libtiff among the libraries of Pillow's module
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)
    except (OSError, AttributeError):  # Pillow has no libtiff, or links it statically
        return


def read_raster(data: bytes, kind: Format, max_pixels: int, at_least_px: int, *, with_colors: bool) -> Scan:
    """Decode a JPEG, PNG or TIFF; arguments and errors as in `nightread.scan.decode.read_scan`."""
    try:
        # The allow-list excludes Pillow's forty other parsers, some of which run programs.
        with Image.open(BytesIO(data), formats=(kind.name,)) as image:
            width_px, height_px = image.size
            check_size(width_px, height_px, max_pixels)
            if getattr(image, "is_animated", False):  # unlike n_frames, does not read every page
                raise UnsupportedScan(Reason.MULTI_FRAME, "the file has several frames or pages; a scan has one")
            if kind is Format.JPEG and at_least_px and image.getexif().get(Base.Orientation, 1) == 1:
                image.draft("L", _scaled_size(width_px, height_px, at_least_px))
            image.load()
            scale = round(width_px / image.width)
            if kind is Format.JPEG:
                check_jpeg_end(image, height_px)
            colors = _sample_colors(image, data, kind) if with_colors else None
            pixels, black, white = _to_gray(image, bits=_sample_bits(image, data, kind))
    except Image.DecompressionBombError:
        raise UnreadableScan(
            Reason.TOO_LARGE, f"far more pixels than the allowed {max_pixels:,} (NIGHTREAD_MAX_PIXELS)"
        ) from None
    except DECODER_ERRORS:
        raise UnreadableScan(Reason.DAMAGED, f"the {kind.name} data is damaged or cut short") from None
    return Scan(pixels, black, white, kind, width_px, height_px, scale=scale, colors=colors)


def _sample_colors(image: Image.Image, data: bytes, kind: Format) -> Colors | None:
    """Return a sample of the colors of a loaded image; None if its file stores gray."""
    if kind is Format.JPEG:
        return sample_jpeg_colors(data)
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


def _scaled_size(width_px: int, height_px: int, at_least_px: int) -> tuple[int, int]:
    """Return the size whose shorter side is `at_least_px`, with equal aspect ratio; `draft` never goes below it."""
    scale = at_least_px / min(width_px, height_px)
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def check_jpeg_end(image: Image.Image, height_px: int) -> None:
    """Refuse a JPEG whose data ended early: its decoder silently fills the rest with mid-gray.

    Args:
        image: as decoded, before rotation by EXIF, perhaps at a smaller scale.
        height_px: height as stored.

    Raises:
        UnreadableScan: the lowest rows are all mid-gray.
    """
    rows = max(1, _JPEG_FILL_ROWS * image.height // height_px)
    lowest = image.crop((0, image.height - rows, image.width, image.height)).convert("L")
    if lowest.getextrema() == (_JPEG_FILL, _JPEG_FILL):
        raise UnreadableScan(Reason.DAMAGED, "the JPEG data is cut short: the lowest rows of the picture are missing")


def _sample_bits(image: Image.Image, data: bytes, kind: Format) -> int:
    """Return the bits per sample in the file; Pillow reduces those of colors to 8."""
    if kind is Format.PNG:
        return data[_PNG_BIT_DEPTH_AT]
    if kind is Format.TIFF:
        return int(max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,))))  # type: ignore[attr-defined]
    return 8


def _to_gray(image: Image.Image, bits: int) -> tuple[Pixels, float, float]:
    """Return (pixels, black, white) of a loaded image; 16-bit pixels are kept, since `convert("L")` would clip them."""
    white_is_zero = _is_white_zero(image)
    ImageOps.exif_transpose(image, in_place=True)
    mode = image.mode
    if mode in {"L", "1", "LA", "P", "PA", "RGB", "RGBA", "RGBX"}:
        # Alpha is dropped: it does not describe exposure. Colors become luma (ITU-R BT.601).
        gray = np.asarray(image.convert("RGB").convert("L") if mode in {"P", "PA"} else image.convert("L"))
        if bits > 8 and gray.max() < _LEAST_BRIGHTEST:
            raise UnsupportedScan(
                Reason.UNSUPPORTED_FORMAT,
                f"{bits}-bit colors do not use their upper bits; save the scan as gray",
            )
        return gray, 0.0, 255.0
    if mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16, copy=False)
        white = guess_white(pixels)
        return (pixels, white, 0.0) if white_is_zero else (pixels, 0.0, white)
    if mode in {"I", "F"}:  # 32 bits have no conventional white: use the scan's minimum and maximum
        pixels = np.asarray(image)
        black, white = float(pixels.min()), float(pixels.max())
        return (pixels, white, black) if white_is_zero else (pixels, black, white)
    raise UnsupportedScan(
        Reason.UNSUPPORTED_FORMAT, f"the color mode is {mode}; supported are gray, RGB, RGBA and palette"
    )


def guess_white(pixels: Pixels) -> float:
    """Estimate the white of 16-bit pixels: detectors deliver 10, 12 or 14 bits, and few writers scale them up."""
    brightest = int(pixels.max())
    return next(2.0**depth - 1 for depth in (8, 10, 12, 14, 16) if brightest < 2**depth)


def _is_white_zero(image: Image.Image) -> bool:
    """Return whether a TIFF stores white as 0; Pillow inverts such files at 8 bits, but not at 16."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
