"""Any byte of a small file may be wrong: a scan comes out, or an error that names the file's fault."""

import contextlib

import pytest

from nightread.errors import ScanError
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
