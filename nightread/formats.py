"""What kind of file some bytes are, told by their magic numbers and never by the name."""

from enum import StrEnum

#: Bytes from the start of a file that `sniff` wants to see: a DICOM file says so at byte 128, a tar archive at 257.
SNIFF_BYTES = 264


class Format(StrEnum):
    """The file formats that hold scans."""

    JPEG = "jpeg"
    PNG = "png"
    TIFF = "tiff"
    DICOM = "dicom"


class NoScan(StrEnum):
    """Files that are recognised and hold no scan that is read here."""

    OTHER_IMAGE = "other-image"  # an image all the same: somebody may have meant it as a scan
    ARCHIVE = "archive"
    UNKNOWN = "unknown"


_SCANS: tuple[tuple[int, bytes, Format], ...] = (
    (128, b"DICM", Format.DICOM),  # first: the 128 bytes before it are free, and some writers put a TIFF header there
    (0, b"\xff\xd8\xff", Format.JPEG),
    (0, b"\x89PNG\r\n\x1a\n", Format.PNG),
    (0, b"II*\x00", Format.TIFF),
    (0, b"MM\x00*", Format.TIFF),
    (0, b"II+\x00", Format.TIFF),  # BigTIFF
    (0, b"MM\x00+", Format.TIFF),
)
_OTHERS: tuple[tuple[int, bytes, NoScan], ...] = (
    (0, b"GIF8", NoScan.OTHER_IMAGE),
    (0, b"BM", NoScan.OTHER_IMAGE),
    (0, b"8BPS", NoScan.OTHER_IMAGE),  # Photoshop
    (8, b"WEBP", NoScan.OTHER_IMAGE),
    (4, b"ftypheic", NoScan.OTHER_IMAGE),
    (4, b"ftypavif", NoScan.OTHER_IMAGE),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", NoScan.OTHER_IMAGE),  # JPEG 2000
    (0, b"\xff\x4f\xff\x51", NoScan.OTHER_IMAGE),  # JPEG 2000 code stream
    (0, b"PK\x03\x04", NoScan.ARCHIVE),
    (0, b"\x1f\x8b", NoScan.ARCHIVE),
    (0, b"BZh", NoScan.ARCHIVE),
    (0, b"\xfd7zXZ\x00", NoScan.ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", NoScan.ARCHIVE),
    (0, b"Rar!", NoScan.ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", NoScan.ARCHIVE),  # Zstandard
    (257, b"ustar", NoScan.ARCHIVE),
)


def sniff(head: bytes) -> Format | NoScan:
    """Tell a file's format from its first `SNIFF_BYTES` bytes (fewer where the file is shorter)."""
    for offset, magic, scan_format in _SCANS:
        if head.startswith(magic, offset):
            return scan_format
    for offset, magic, kind in _OTHERS:
        if head.startswith(magic, offset):
            return kind
    return NoScan.UNKNOWN
