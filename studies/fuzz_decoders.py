"""Coverage-guided fuzzing of `read_scan` with atheris, which needs Linux and Python up to 3.13.

    uv run --group test --with atheris python -m studies.fuzz_decoders build/fuzz -max_total_time=3600

The first argument is the folder of the corpus; it gets one small file of each kind. Others are those of libFuzzer. A
find is an exception that is no `ScanError`, a decode of more than 20 s, or one that takes more than 2 GB; libFuzzer
writes it to the current folder. Each find becomes a test.
"""

import io
import sys
from pathlib import Path
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["nightread", "pydicom", "tifffile", "PIL"]):
    # Both are imported on use, which would leave them without instruments.
    import nightread.scan.dicom
    import nightread.scan.tiff  # noqa: F401
    from nightread.errors import ScanError
    from nightread.scan.decode import read_scan

import imagecodecs
import tifffile
from pydicom import uid

from studies.fuzzed_night import make_seeds
from tests.factories import encode_dicom, encode_image, make_table, small_chest

_MAX_PIXELS = 1_000_000
_LIMITS = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=65536"]

_CHEST = small_chest(1, 48, 40)
_DEEP = _CHEST.astype(np.uint16) * 16
_COLORS = np.repeat(_CHEST[..., None], 3, axis=2)


def _encode_tiff(pixels: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **{"photometric": "minisblack", **options})
    return buffer.getvalue()


def _make_codec_seeds() -> dict[str, bytes]:
    """Return one small file of each codec and form that `read_scan` reads and `make_seeds` lacks, by name."""
    frames = {
        uid.JPEGBaseline8Bit: imagecodecs.jpeg8_encode(_CHEST, level=90),
        uid.JPEGExtended12Bit: imagecodecs.jpeg8_encode(_DEEP, level=90, bitspersample=12),
        uid.JPEGLosslessSV1: imagecodecs.ljpeg_encode(_DEEP, bitspersample=12),
        uid.JPEGLSLossless: imagecodecs.jpegls_encode(_DEEP, 0),
        uid.JPEG2000Lossless: imagecodecs.jpeg2k_encode(_DEEP, codecformat="j2k", reversible=True),
        uid.HTJ2KLossless: imagecodecs.htj2k_encode(_DEEP, reversible=True),
    }
    described = {
        "window": {"WindowCenter": 2000, "WindowWidth": 3000, "BitsStored": 12, "HighBit": 11},
        "signed": {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11, "PixelPaddingValue": -2000},
        "rescale": {"RescaleSlope": 2, "RescaleIntercept": -100, "PhotometricInterpretation": "MONOCHROME1"},
        "table": make_table(np.arange(4096) * 16, first=-5),
        "modality": make_table(np.arange(4096), keyword="ModalityLUTSequence"),
    }
    compressions = ("jpeg2000", "png", "jpegxl", "zstd", "lzw", "adobe_deflate", "packbits")
    return {
        **{f"dicom-{syntax.keyword}": encode_dicom(_DEEP, syntax=syntax, frame=frame, BitsStored=12, HighBit=11)
           for syntax, frame in frames.items()},
        **{f"frame-{syntax.keyword}": frame for syntax, frame in frames.items() if frame[:3] == b"\xff\xd8\xff"},
        **{f"dicom-{name}": encode_dicom(_DEEP, **fields) for name, fields in described.items()},
        "dicom-implicit": encode_dicom(_DEEP, syntax=uid.ImplicitVRLittleEndian),
        "dicom-big": encode_dicom(_DEEP, syntax=uid.ExplicitVRBigEndian),
        "dicom-colors": encode_dicom(_COLORS),
        "dicom-bare": encode_dicom(_DEEP, preamble=b"\0" * 128)[132:],
        **{f"tiff-{name}": _encode_tiff(_DEEP, compression=name) for name in compressions},
        "tiff-float": _encode_tiff(_DEEP.astype(np.float32)),
        "tiff-tiled": _encode_tiff(_DEEP, tile=(16, 16), byteorder=">"),
        "tiff-packed": _encode_tiff(_DEEP, bitspersample=12, photometric="miniswhite"),
        "tiff-planes": _encode_tiff(np.moveaxis(_COLORS, -1, 0), photometric="rgb", planarconfig="separate"),
        "tiff-jpeg": _encode_tiff(_CHEST, compression="jpeg"),
        "tiff-signed": _encode_tiff(_DEEP.astype(np.int16), bigtiff=True),
        "bmp": encode_image(_CHEST, "BMP"), "webp": encode_image(_CHEST, "WEBP", lossless=True),
        "webp-extended": encode_image(_COLORS, "WEBP", lossless=True, exif=b"Exif\0\0" + b"\0" * 8),
        "mpf": encode_image(_CHEST, "MPO"), "colors": encode_image(_COLORS, "JPEG"),
    }  # fmt: skip


def _write_seeds(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (make_seeds() | _make_codec_seeds()).items():
        (folder / name).write_bytes(data)


def _decode(data: bytes) -> None:
    try:
        read_scan(data, max_pixels=_MAX_PIXELS, with_colors=True)
    except (ScanError, MemoryError):
        return


def main() -> None:
    """Fuzz until a find, or until libFuzzer's own limits."""
    corpus, *options = sys.argv[1:]
    _write_seeds(Path(corpus))
    atheris.Setup([sys.argv[0], corpus, *_LIMITS, *options], _decode)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
