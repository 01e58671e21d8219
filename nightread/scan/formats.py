"""File formats, recognised by magic numbers and never by file name."""

from enum import StrEnum

#: Number of bytes that `sniff` needs: the magic number of DICOM is at byte 128, that of tar at 257.
SNIFF_BYTES = 264


class Format(StrEnum):
    """Supported file formats of scans."""

    JPEG = "jpeg"
    PNG = "png"
    TIFF = "tiff"
    DICOM = "dicom"


class NoScan(StrEnum):
    """Kinds of files that hold no supported scan."""

    OTHER_IMAGE = "other-image"  # an unsupported image format, perhaps meant as a scan
    ARCHIVE = "archive"
    UNKNOWN = "unknown"


_SCANS: tuple[tuple[int, bytes, Format], ...] = (
    (128, b"DICM", Format.DICOM),  # first: the preamble before it is free, and some writers put a TIFF header there
    (0, b"\xff\xd8\xff", Format.JPEG),
    (0, b"\x89PNG\r\n\x1a\n", Format.PNG),
    (0, b"II*\x00", Format.TIFF),
    (0, b"MM\x00*", Format.TIFF),
    (0, b"II+\x00", Format.TIFF),  # BigTIFF
    (0, b"MM\x00+", Format.TIFF),
)
# All magics of an entry must match: two letters alone would take a text that begins with "BM" for a bitmap.
_OTHERS: tuple[tuple[tuple[tuple[int, bytes], ...], NoScan], ...] = (
    (((0, b"GIF87a"),), NoScan.OTHER_IMAGE),
    (((0, b"GIF89a"),), NoScan.OTHER_IMAGE),
    (((0, b"BM"), (6, b"\0\0\0\0"), (15, b"\0\0\0")), NoScan.OTHER_IMAGE),
    (((0, b"8BPS\0"),), NoScan.OTHER_IMAGE),  # Photoshop
    (((0, b"RIFF"), (8, b"WEBP")), NoScan.OTHER_IMAGE),
    *((((4, b"ftyp" + brand),), NoScan.OTHER_IMAGE) for brand in (b"heic", b"heix", b"mif1", b"msf1", b"avif")),
    (((0, b"\0\0\0\x0cjP  \r\n\x87\n"),), NoScan.OTHER_IMAGE),  # JPEG 2000
    (((0, b"\xff\x4f\xff\x51"),), NoScan.OTHER_IMAGE),  # JPEG 2000 code stream
    (((0, b"\0\0\0\x0cJXL \r\n\x87\n"),), NoScan.OTHER_IMAGE),  # JPEG XL
    (((0, b"PK\x03\x04"),), NoScan.ARCHIVE),
    (((0, b"PK\x05\x06"),), NoScan.ARCHIVE),  # an empty one
    (((0, b"\x1f\x8b"),), NoScan.ARCHIVE),
    (((0, b"BZh"),), NoScan.ARCHIVE),
    (((0, b"\xfd7zXZ\0"),), NoScan.ARCHIVE),
    (((0, b"7z\xbc\xaf\x27\x1c"),), NoScan.ARCHIVE),
    (((0, b"Rar!\x1a\x07"),), NoScan.ARCHIVE),
    (((0, b"\x28\xb5\x2f\xfd"),), NoScan.ARCHIVE),  # Zstandard
    (((257, b"ustar"),), NoScan.ARCHIVE),
)


def sniff(head: bytes) -> Format | NoScan:
    """Return a file's format, given its first `SNIFF_BYTES` bytes (fewer if the file is shorter)."""
    for offset, magic, scan_format in _SCANS:
        if head.startswith(magic, offset):
            return scan_format
    for magics, kind in _OTHERS:
        if all(head.startswith(magic, offset) for offset, magic in magics):
            return kind
    return NoScan.UNKNOWN
