"""File formats, recognised by magic numbers and never by file name."""

import re
import struct
from enum import StrEnum
from typing import Final

#: Number of bytes that `sniff` needs: the magic number of DICOM is at byte 128, that of NIfTI at 344.
SNIFF_BYTES = 352


class Format(StrEnum):
    """Supported file formats of scans."""

    JPEG = "jpeg"
    PNG = "png"
    TIFF = "tiff"
    BMP = "bmp"
    WEBP = "webp"
    DICOM = "dicom"


#: What `Format` names, for messages.
SUPPORTED: Final = "JPEG, PNG, TIFF, BMP, lossless WebP and DICOM"


class NoScan(StrEnum):
    """Kinds of files that hold no supported scan."""

    OTHER_IMAGE = "other-image"  # an unsupported image format, perhaps meant as a scan
    ARCHIVE = "archive"
    UNKNOWN = "unknown"


_Magics = tuple[tuple[int, bytes], ...]

_SCANS: tuple[tuple[int, bytes, Format], ...] = (
    (128, b"DICM", Format.DICOM),  # first: the preamble before it is free, and some writers put a TIFF header there
    (0, b"\xff\xd8\xff", Format.JPEG),
    (0, b"\x89PNG\r\n\x1a\n", Format.PNG),
    (0, b"II*\x00", Format.TIFF),
    (0, b"MM\x00*", Format.TIFF),
    (0, b"II+\x00", Format.TIFF),  # BigTIFF
    (0, b"MM\x00+", Format.TIFF),
)
_BMP: Final = ((0, b"BM"), (6, b"\0\0\0\0"), (15, b"\0\0\0"))
_RIFF_WEBP: Final = ((0, b"RIFF"), (8, b"WEBP"))
#: As `_OTHERS`. A WebP in extended form may hold either compression: its chunks tell (`raster.read_raster`).
_LONGER_SCANS: tuple[tuple[_Magics, Format], ...] = (
    (_BMP, Format.BMP),
    ((*_RIFF_WEBP, (12, b"VP8L")), Format.WEBP),
    ((*_RIFF_WEBP, (12, b"VP8X")), Format.WEBP),
)
#: Some writers leave line ends or zeros before a JPEG.
_BLANKS = b"\r\n\t \0"
_JPEG = b"\xff\xd8\xff"
_DICM = b"DICM"
#: What may stand before the first element of an SVG: a byte order mark, a declaration, comments, a document type.
_SVG = re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*+(<!DOCTYPE svg\b[^>]*>\s*)?<svg\b", re.DOTALL)
_IMAGE, _ARCHIVE = NoScan.OTHER_IMAGE, NoScan.ARCHIVE
#: All magics of a row must match: two letters alone would take a text that begins with "BM" for a bitmap.
_OTHERS: tuple[tuple[_Magics, NoScan, str], ...] = (
    (((0, b"GIF87a"),), _IMAGE, "GIF"),
    (((0, b"GIF89a"),), _IMAGE, "GIF"),
    (((0, b"8BPS\0"),), _IMAGE, "Photoshop"),
    (_RIFF_WEBP, _IMAGE, "lossy WebP"),
    *((((4, b"ftyp" + brand),), _IMAGE, "HEIF")
      for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")),
    *((((4, b"ftyp" + brand),), _IMAGE, "AVIF") for brand in (b"avif", b"avis")),
    (((0, b"\0\0\0\x0cjP  \r\n\x87\n"),), _IMAGE, "JPEG 2000"),
    (((0, b"\xff\x4f\xff\x51"),), _IMAGE, "JPEG 2000"),
    (((0, b"\0\0\0\x0cJXL \r\n\x87\n"),), _IMAGE, "JPEG XL"),
    (((0, b"\xff\x0a"),), _IMAGE, "JPEG XL"),
    (((0, b"II\xbc"),), _IMAGE, "JPEG XR"),
    *((((0, b"P%d" % kind + blank),), _IMAGE, "PGM or PPM")
      for kind in (2, 3, 5, 6) for blank in (b"\n", b" ", b"\r", b"\t")),
    *((((0, begin),), _IMAGE, "PBM, PAM or PFM") for begin in (b"P1\n", b"P4\n", b"P7\n", b"Pf\n", b"PF\n")),
    *((((0, size), (344, magic)), _IMAGE, "NIfTI") for size in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
      for magic in (b"n+1\0", b"ni1\0")),
    (((0, b"\x1c\x02\0\0"), (4, b"n+2\0")), _IMAGE, "NIfTI"),
    *((((0, size), (38, b"r")), _IMAGE, "Analyze") for size in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")),
    *((((0, key + equals),), _IMAGE, "MetaImage") for key in (b"ObjectType", b"NDims") for equals in (b" =", b"=")),
    (((0, b"NRRD000"),), _IMAGE, "NRRD"),
    (((0, b"\x76\x2f\x31\x01"),), _IMAGE, "OpenEXR"),
    (((0, b"\x89HDF\r\n\x1a\n"),), _IMAGE, "HDF5"),
    *((((0, b"CDF" + version),), _IMAGE, "NetCDF") for version in (b"\x01", b"\x02", b"\x05")),  # MINC is of it
    (((0, b"SIMPLE  ="),), _IMAGE, "FITS"),
    (((0, b"DDS |\0\0\0"),), _IMAGE, "DDS"),
    (((0, b"qoif"),), _IMAGE, "QOI"),
    *((((0, b"\x01\xda" + storage + depth),), _IMAGE, "SGI") for storage in (b"\0", b"\1") for depth in (b"\1", b"\2")),
    *((((0, b"\x0a" + version + b"\1" + bits),), _IMAGE, "PCX")
      for version in (b"\0", b"\2", b"\3", b"\4", b"\5") for bits in (b"\1", b"\2", b"\4", b"\x08")),
    (((0, b"\xb1\x68\xde\x3a"),), _IMAGE, "PCX"),  # several pages
    # Targa has no magic number: no color map, or one of 256 colors, and the bits of a pixel.
    *((((1, b"\0" + kind + b"\0" * 5), (16, bits)), _IMAGE, "Targa")
      for kind in (b"\2", b"\3", b"\x0a", b"\x0b") for bits in (b"\x08", b"\x10", b"\x18", b"\x20")),
    *((((1, b"\1" + kind), (7, colors), (16, b"\x08")), _IMAGE, "Targa")
      for kind in (b"\1", b"\x09") for colors in (b"\x10", b"\x18", b"\x20")),
    # The directory of an icon ends where its first picture begins.
    *((((0, b"\0\0\1\0" + bytes((count, 0))), (18, bytes((6 + 16 * count, 0, 0, 0)))), _IMAGE, "icon")
      for count in range(1, 16)),
    (((0, b"icns\0"),), _IMAGE, "icon"),
    (((0, b"%!PS-Adobe-"), (14, b" EPSF-")), _IMAGE, "EPS"),
    (((0, b"\xc5\xd0\xd3\xc6"),), _IMAGE, "EPS"),
    (((0, b"\x59\xa6\x6a\x95"),), _IMAGE, "Sun raster"),
    (((0, b"\x80\x2a\x5f\xd7"),), _IMAGE, "Cineon"),
    (((0, b"id=ImageMagick"),), _IMAGE, "MIFF"),
    (((0, b"LBLSIZE="),), _IMAGE, "VICAR"),
    (((0, b"/* XPM */"),), _IMAGE, "XPM"),
    (((0, b"\x97JB2\r\n\x1a\n"),), _IMAGE, "JBIG2"),
    (((0, b"AT&TFORM"),), _IMAGE, "DjVu"),
    (((0, b"gimp xcf"),), _IMAGE, "XCF"),
    *((((0, magic),), _IMAGE, "DPX") for magic in (b"SDPX", b"XPDS")),
    *((((0, magic + b"\r\n\x1a\n"),), _IMAGE, "MNG or JNG") for magic in (b"\x8aMNG", b"\x8bJNG")),
    (((0, b"#?RADIANCE"),), _IMAGE, "Radiance"),
    (((0, b"BPG\xfb"),), _IMAGE, "BPG"),
    *((((0, magic),), _IMAGE, "camera raw") for magic in (b"FUJIFILMCCD-RAW", b"FOVb", b"IIU\0", b"IIRO", b"IIRS")),
    (((4, b"ftypcrx "),), _IMAGE, "camera raw"),
    (((0, b"\x93NUMPY"),), _IMAGE, "NumPy"),
    (((0, b"MATLAB 5.0 MAT-file"),), _IMAGE, "MATLAB"),
    (((0, b"\x0e\x03\x13\x01"),), _IMAGE, "HDF4"),
    (((0, b"!INTERFILE"),), _IMAGE, "Interfile"),
    (((0, b"MATRIX7"),), _IMAGE, "ECAT"),
    (((0, b"ZISRAWFILE"),), _IMAGE, "CZI"),
    (((0, b"\xda\xce\xbe\x0a"),), _IMAGE, "ND2"),
    (((0, b"PK\x03\x04"),), _ARCHIVE, "zip archive"),
    (((0, b"PK\x05\x06"),), _ARCHIVE, "zip archive"),  # an empty one
    (((0, b"PK\x07\x08"),), _ARCHIVE, "split zip archive"),
    (((0, b"\x1f\x8b"),), _ARCHIVE, "gzip file"),
    (((0, b"\x1f\x9d"),), _ARCHIVE, "compress file"),
    (((0, b"BZh"),), _ARCHIVE, "bzip2 file"),
    (((0, b"\xfd7zXZ\0"),), _ARCHIVE, "xz file"),
    (((0, b"7z\xbc\xaf\x27\x1c"),), _ARCHIVE, "7z archive"),
    (((0, b"Rar!\x1a\x07"),), _ARCHIVE, "RAR archive"),
    (((0, b"\x28\xb5\x2f\xfd"),), _ARCHIVE, "Zstandard file"),
    (((0, b"\x04\x22\x4d\x18"),), _ARCHIVE, "LZ4 file"),
    (((0, b"\x5d\0\0"), (5, b"\xff" * 8)), _ARCHIVE, "LZMA file"),
    (((0, b"MSCF\0\0\0\0"),), _ARCHIVE, "cabinet archive"),
    (((0, b"LZIP\x01"),), _ARCHIVE, "lzip file"),
    (((2, b"-lh"), (6, b"-")), _ARCHIVE, "LHA archive"),
    (((7, b"**ACE**"),), _ARCHIVE, "ACE archive"),
    (((0, b"xar!\0\x1c"),), _ARCHIVE, "xar archive"),
    (((0, b"!<arch>\n"),), _ARCHIVE, "ar archive"),
    (((257, b"ustar"),), _ARCHIVE, "tar archive"),
)  # fmt: skip


def _begins_data_set(head: bytes) -> bool:
    """Return whether a DICOM data set without preamble, perhaps without meta group, begins here (PS3.5 7.1).

    Its first two elements must be of group 2 or 8, in ascending order, and the length of the first must lead to the
    second.
    """
    for order in ("<", ">"):
        place, before = 0, (0, -1)
        for _ in range(2):
            if len(head) < place + 8:
                return False
            group, number = struct.unpack_from(f"{order}HH", head, place)
            vr = head[place + 4 : place + 6]
            if vr.isalpha() and vr.isupper():
                (length,) = struct.unpack_from(f"{order}H", head, place + 6)
            else:
                (length,) = struct.unpack_from(f"{order}L", head, place + 4)
            if group not in {0x0002, 0x0008} or (group, number) <= before or length > SNIFF_BYTES:
                break
            place, before = place + 8 + length, (group, number)
        else:
            return True
    return False


def sniff(head: bytes) -> Format | NoScan:
    """Return a file's format, given its first `SNIFF_BYTES` bytes (fewer if the file is shorter)."""
    for offset, magic, scan_format in _SCANS:
        if head.startswith(magic, offset):
            return scan_format
    for magics, scan_format in _LONGER_SCANS:
        if _matches(head, magics):
            return scan_format
    if _begins_data_set(head.removeprefix(_DICM)):  # a writer may leave out the preamble alone
        return Format.DICOM
    if head.lstrip(_BLANKS).startswith(_JPEG):
        return Format.JPEG
    return _find_other(head)[0]


def strip_blanks(data: bytes) -> bytes:
    """Return a JPEG from its first marker on."""
    return data.lstrip(_BLANKS)


def name_other(head: bytes) -> str:
    """Return the name of a recognised but unsupported format, else ""; takes the bytes that `sniff` takes."""
    return _find_other(head)[1]


def _find_other(head: bytes) -> tuple[NoScan, str]:
    if _SVG.match(head):
        return _IMAGE, "SVG"
    for magics, kind, name in _OTHERS:
        if _matches(head, magics):
            return kind, name
    return NoScan.UNKNOWN, ""


def _matches(head: bytes, magics: _Magics) -> bool:
    return all(head.startswith(magic, offset) for offset, magic in magics)
