import pytest
from PIL import Image

from nightread.scan.formats import SNIFF_BYTES, Format, NoScan, sniff
from tests import factories


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (factories.encode_jpeg(), Format.JPEG),
        (factories.encode_image(), Format.PNG),
        (factories.encode_tiff(factories.small_chest()), Format.TIFF),
        (factories.encode_tiff(factories.small_chest(), order=">"), Format.TIFF),
        (b"II+\0\x08\0\0\0", Format.TIFF),
        (factories.encode_dicom(), Format.DICOM),
        (factories.encode_image(kind="GIF"), NoScan.OTHER_IMAGE),
        (factories.encode_image(kind="BMP"), Format.BMP),
        (factories.encode_image(kind="WEBP", lossless=True), Format.WEBP),
        (factories.encode_image(kind="WEBP"), NoScan.OTHER_IMAGE),
        (factories.encode_image(kind="JPEG2000"), NoScan.OTHER_IMAGE),
        (factories.encode_image(kind="JPEG2000", no_jp2=True), NoScan.OTHER_IMAGE),
        (b"8BPS\0\x01" + b"\0" * 20, NoScan.OTHER_IMAGE),
        (b"\0\0\0\x18ftypheic\0\0\0\0", NoScan.OTHER_IMAGE),
        (b"PK\x03\x04abc", NoScan.ARCHIVE),
        (b"PK\x05\x06" + b"\0" * 18, NoScan.ARCHIVE),
        (b"\x1f\x8b\x08", NoScan.ARCHIVE),
        (b"\0" * 257 + b"ustar\0" + b"00", NoScan.ARCHIVE),
        (b"%!PS-Adobe-3.0 EPSF-3.0", NoScan.OTHER_IMAGE),
        (b"%!PS-Adobe-3.0", NoScan.UNKNOWN),  # a document, as a PDF is
        *((factories.encode_image(kind=kind), NoScan.OTHER_IMAGE) for kind in ("ICO", "TGA", "PCX", "EPS")),
        *(
            (factories.encode_image(Image.fromarray(factories.small_chest()).convert(mode), kind), NoScan.OTHER_IMAGE)
            for kind in ("TGA", "PCX")
            for mode in ("1", "P", "RGB")
            if (kind, mode) != ("TGA", "1")
        ),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', NoScan.OTHER_IMAGE),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<!DOCTYPE svg PUBLIC "">\n<svg width="1">', NoScan.OTHER_IMAGE),
        (b'<?xml version="1.0"?>\n<html><svg></svg></html>', NoScan.UNKNOWN),
        (b"%PDF-1.7", NoScan.UNKNOWN),
        (b"", NoScan.UNKNOWN),
        (b"\xff\xd8", NoScan.UNKNOWN),
    ],
)
def test_the_first_bytes_tell_the_kind(data, kind):
    assert sniff(data[:SNIFF_BYTES]) is kind


@pytest.mark.parametrize(
    "text",
    [
        b"BMI of the night's patients",
        b"GIF8 is a format",
        b"Rar!e finding",
        b"8BPS text",
        b"P1 is late",
        b"\r\n\xff\xd8 no marker",
        b"\0\0\1\0\1\0 no directory of icons",
        b"<!-- <svg> -->",
    ],
)
def test_text_that_begins_like_an_image_is_none(text):
    assert sniff(text) is NoScan.UNKNOWN


def test_a_dicom_file_with_a_tiff_header_in_its_preamble_is_dicom():
    preamble = factories.encode_tiff(factories.small_chest())[:128]

    assert sniff(factories.encode_dicom(preamble=preamble)[:SNIFF_BYTES]) is Format.DICOM
