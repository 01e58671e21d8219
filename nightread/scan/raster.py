"""JPEG, PNG and TIFF: from bytes to gray pixels, by Pillow."""

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


#: A JPEG decoder that runs out of data fills what is left with this gray; that many rows of it are no radiograph.
_JPEG_FILL = 128


_JPEG_FILL_ROWS = 16


#: Of 16-bit colors Pillow keeps the upper 8 bits. Below this brightest value those were the wrong bits to keep.
_LEAST_BRIGHTEST = 64


def silence_decoders() -> None:
    """Keep what decoders say of damaged files off stderr and out of the log: it may quote the file, and so a patient.

    A file's own row and reason say what is wrong with it. Pillow's warnings and debug lines quote tags; libtiff prints
    from C, past Python, a line for each damaged strip.
    """
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        library = ctypes.CDLL(_imaging.__file__)  # finds libtiff among what Pillow's own module is linked to
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)
    except (OSError, AttributeError):  # a Pillow without libtiff, or linked in another way
        return


def read_raster(data: bytes, kind: Format, max_pixels: int, at_least_px: int, *, with_colors: bool) -> Scan:
    """Decode a JPEG, PNG or TIFF; arguments and errors as of `nightread.scan.decode.read_scan`."""
    try:
        # The allow-list keeps Pillow's forty other parsers, some of which run programs, away from the bytes.
        with Image.open(BytesIO(data), formats=(kind.name,)) as image:
            width_px, height_px = image.size
            check_size(width_px, height_px, max_pixels)
            if getattr(image, "is_animated", False):  # unlike n_frames, this does not walk through every page
                raise UnsupportedScan(Reason.MULTI_FRAME, "more than one frame or page; a scan has one")
            if kind is Format.JPEG and at_least_px and image.getexif().get(Base.Orientation, 1) == 1:
                image.draft("L", _scaled_size(width_px, height_px, at_least_px))
            image.load()
            scale = round(width_px / image.width)
            if kind is Format.JPEG:
                check_jpeg_end(image, height_px)
            colors = _sample_colors(image, data, kind) if with_colors else None
            pixels, black, white = _to_gray(image, bits=_sample_bits(image, data, kind))
    except Image.DecompressionBombError:
        raise UnreadableScan(Reason.TOO_LARGE, f"far more than {max_pixels:,} pixels (NIGHTREAD_MAX_PIXELS)") from None
    except DECODER_ERRORS:
        raise UnreadableScan(Reason.DAMAGED, f"the {kind.name} data is damaged or cut short") from None
    return Scan(pixels, black, white, kind, width_px, height_px, scale=scale, colors=colors)


def _sample_colors(image: Image.Image, data: bytes, kind: Format) -> Colors | None:
    """Return a sample of the colors of a loaded image; None where its file stores gray."""
    if kind is Format.JPEG:
        return sample_jpeg_colors(data)
    if image.mode not in {"P", "PA", "RGB", "RGBA", "RGBX"}:
        return None
    return _to_colors(image)


def sample_jpeg_colors(data: bytes, *, is_unmarked_rgb: bool = False) -> Colors | None:
    """Return a sample of the colors of a JPEG that has been decoded before; None where it has one component.

    The gray decode above never looks at the chroma. An eighth of the size needs no more of it than the mean of each
    block, which is enough to tell a photograph, and leaves the pixels of the gray decode what they are.

    Args:
        data: the whole JPEG.
        is_unmarked_rgb: its components are RGB, and nothing in it says so.
    """
    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        if image.mode != "RGB":
            return None
        image.draft("YCbCr" if is_unmarked_rgb else "RGB", (1, 1))  # an eighth, whatever the size
        # What the decoder was made to leave as it is are not the colors that it takes them for.
        return _to_colors(Image.frombytes("RGB", image.size, image.tobytes()) if is_unmarked_rgb else image)


def _to_colors(image: Image.Image) -> Colors:
    side_px = (COLORS_SIDE_PX, COLORS_SIDE_PX)
    # Sampled, not averaged: the mean of two opposite colors is gray.
    return np.asarray(image.resize(side_px, Image.Resampling.NEAREST).convert("RGB").convert("YCbCr"))


def _scaled_size(width_px: int, height_px: int, at_least_px: int) -> tuple[int, int]:
    """Return the smallest size of the same shape whose shorter side is `at_least_px`; `draft` never goes below it."""
    scale = at_least_px / min(width_px, height_px)
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def check_jpeg_end(image: Image.Image, height_px: int) -> None:
    """Refuse a JPEG whose coded data ended early: its decoder fills the rest with mid-gray and reports nothing.

    Args:
        image: as decoded, not yet turned upright, perhaps at a smaller scale.
        height_px: height as stored.

    Raises:
        UnreadableScan: the lowest rows are all that gray.
    """
    rows = max(1, _JPEG_FILL_ROWS * image.height // height_px)
    lowest = image.crop((0, image.height - rows, image.width, image.height)).convert("L")
    if lowest.getextrema() == (_JPEG_FILL, _JPEG_FILL):
        raise UnreadableScan(
            Reason.DAMAGED, "the JPEG data is cut short: the lowest rows of the picture were never stored"
        )


def _sample_bits(image: Image.Image, data: bytes, kind: Format) -> int:
    """Return how many bits the file has for one sample, before Pillow reduces those of colors to 8."""
    if kind is Format.PNG:
        return data[_PNG_BIT_DEPTH_AT]
    if kind is Format.TIFF:
        return int(max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,))))  # type: ignore[attr-defined]
    return 8


def _to_gray(image: Image.Image, bits: int) -> tuple[Pixels, float, float]:
    """Return (pixels, black, white) of a loaded image; 16-bit data keeps its range, which `convert("L")` would clip."""
    white_is_zero = _is_white_zero(image)
    ImageOps.exif_transpose(image, in_place=True)
    mode = image.mode
    if mode in {"L", "1", "LA", "P", "PA", "RGB", "RGBA", "RGBX"}:
        # Alpha says nothing about exposure: it is dropped. Colors become luma (ITU-R BT.601).
        gray = np.asarray(image.convert("RGB").convert("L") if mode in {"P", "PA"} else image.convert("L"))
        if bits > 8 and gray.max() < _LEAST_BRIGHTEST:
            raise UnsupportedScan(
                Reason.UNSUPPORTED_FORMAT,
                f"{bits}-bit colors that leave their upper bits unused; save the scan as gray",
            )
        return gray, 0.0, 255.0
    if mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16, copy=False)
        white = float(2 ** _bit_depth(int(pixels.max())) - 1)
        return (pixels, white, 0.0) if white_is_zero else (pixels, 0.0, white)
    if mode in {"I", "F"}:  # 32 bits have no common white: the scan's own extremes are taken
        pixels = np.asarray(image)
        black, white = float(pixels.min()), float(pixels.max())
        return (pixels, white, black) if white_is_zero else (pixels, black, white)
    raise UnsupportedScan(Reason.UNSUPPORTED_FORMAT, f"color mode {mode}; gray, RGB, RGBA and palette images are read")


def _bit_depth(brightest: int) -> int:
    """Guess how many of 16 bits are in use: detectors deliver 10, 12 or 14, and writers seldom scale them up."""
    return next(depth for depth in (8, 10, 12, 14, 16) if brightest < 2**depth)


def _is_white_zero(image: Image.Image) -> bool:
    """Whether a TIFF stores white as 0. Pillow inverts such files itself at 8 bits, but not at 16."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
