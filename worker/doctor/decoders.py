"""Check of the decoders: each decodes a small picture."""

from collections.abc import Callable
from typing import Any, Final

import imagecodecs
import numpy as np

from nightread.errors import ScanError
from nightread.scan.frame_header import read_header
from nightread.scan.frames import decode
from worker.doctor.finding import Finding, Level
from worker.doctor.machine import Machine

#: A gray ramp in 16 bits, as digital radiography stores it.
_RAMP: Final = (np.arange(32 * 32, dtype=np.uint16) * 4).reshape(32, 32)

#: Compressions by their DICOM transfer syntaxes; each encodes the ramp without loss.
_ENCODERS: Final[dict[str, Callable[[Any], bytes | bytearray]]] = {
    "JPEG Lossless (1.2.840.10008.1.2.4.57, .70)": imagecodecs.ljpeg_encode,
    "JPEG-LS (.80, .81)": imagecodecs.jpegls_encode,
    "JPEG 2000 (.90 to .93)": lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True),
    "HTJ2K (.201 to .203)": imagecodecs.htj2k_encode,
    "JPEG XL (.110 to .112)": lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True),
}
#: Decoded by Pillow, pydicom or NumPy, which are always installed whole.
_ALWAYS: Final = "JPEG, PNG, TIFF; DICOM uncompressed, deflated, RLE, JPEG"


def check_decoders(machine: Machine) -> Finding:
    """Decode a small picture of each compression of DICOM files."""
    broken = [name for name, encode in _ENCODERS.items() if not _is_decoded(encode)]
    if broken:
        return Finding(f"cannot decode {', '.join(broken)}: install imagecodecs again", Level.FAIL)
    return Finding(f"{_ALWAYS}, {', '.join(_ENCODERS)}")


def _is_decoded(encode: Callable[[Any], bytes | bytearray]) -> bool:
    try:
        data = bytes(encode(_RAMP))
        header = read_header(data)
        return header is not None and bool(np.array_equal(np.squeeze(decode(data, header)), _RAMP))
    except (ScanError, ImportError, RuntimeError, ValueError):
        return False
