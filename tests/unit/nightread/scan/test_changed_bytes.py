"""Any byte of a small file may be wrong: a scan comes out, or an error that names the file's fault."""

import contextlib
import struct

import imagecodecs
import numpy as np
import pytest

from nightread.errors import ScanError
from nightread.reasons import Reason
from nightread.scan.decode import read_scan
from tests.factories import encode_dicom, encode_image, encode_jpeg, encode_png16, small_chest

CHEST = small_chest(1, 48, 40)
FILES = {
    "jpeg": encode_jpeg(CHEST), "progressive": encode_image(CHEST, "JPEG", progressive=True),
    "png16": encode_png16(CHEST), "tiff": encode_image(CHEST, "TIFF"), "dicom": encode_dicom(CHEST),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_no_changed_byte_is_an_unforeseen_error(name):
    data = FILES[name]
    step = max(1, len(data) // 250)
    for place in range(0, len(data), step):
        for value in (0, 0x7F, 0xFF):
            with contextlib.suppress(ScanError):
                read_scan(data[:place] + bytes([value]) + data[place + 1 :], max_pixels=10**6, with_colors=True)


@pytest.mark.parametrize("name", FILES)
def test_no_cut_is_an_unforeseen_error(name):
    data = FILES[name]
    for length in range(0, len(data), max(1, len(data) // 250)):
        for end in (b"", b"\xff\xd9", b"\xff\xda\x00\x0c\xff"):
            with contextlib.suppress(ScanError):
                read_scan(data[:length] + end, max_pixels=10**6, with_colors=True)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("predictor", [1, 4, 7])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_cut_lossless_jpeg_is_damaged_and_never_scored(bits, predictor, end):
    chest = small_chest(3)
    gray = (chest.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint8 if bits == 8 else np.uint16)
    data = imagecodecs.jpeg8_encode(gray, lossless=True, predictor=predictor, bitspersample=bits)
    assert read_scan(data, max_pixels=10**6).pixels.shape == chest.shape
    for share in (0.9, 0.6, 0.3):
        with pytest.raises(ScanError) as refused:
            read_scan(data[: int(len(data) * share)] + end, max_pixels=10**6)
        assert refused.value.reason is Reason.DAMAGED


def test_a_lossless_jpeg_without_tables_crashes_no_decoder():
    """Found by fuzzing: liblj92, which decoded it, read memory that was not its own."""
    frame = struct.pack(">BBHBHHBBBB", 0xFF, 0xC3, 11, 8, 48, 40, 1, 0, 0, 0)
    for data in (
        b"\xff\xd8" + frame + bytes(100),
        FILES["jpeg"].replace(b"\xff\xc0", b"\xff\xc3"),
        b"\xff\xd8" + frame,
    ):
        with pytest.raises(ScanError):
            read_scan(data, max_pixels=10**6)
