"""Decoding: from the bytes of one file to the pixels of one radiograph."""

import math

from nightread.errors import UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.acquisition import RADIOGRAPHS, Accepted
from nightread.scan.formats import SNIFF_BYTES, SUPPORTED, Format, NoScan, name_other, sniff, strip_blanks
from nightread.scan.raster import read_raster, silence_decoders
from nightread.scan.scan import LARGEST_GRAY, Scan

#: Archives that a run with `--archives` reads, as `name_other` names them.
_LISTED_ARCHIVES = frozenset({"zip archive", "tar archive", "gzip file"})

_IMAGECODECS = "python -c \"import imagecodecs as i; i.imwrite('OUT.png', i.imread('IN'))\""
_SIMPLE_ITK = "python -c \"import SimpleITK as s; s.WriteImage(s.ReadImage('IN'), 'OUT.tif')\""
#: What converts a format, as `name_other` names it, that ImageMagick reads not at all or in few installations.
_CONVERTERS = {
    "JPEG XL": _IMAGECODECS, "JPEG XR": _IMAGECODECS,
    "NIfTI": _SIMPLE_ITK, "Analyze": _SIMPLE_ITK, "MetaImage": _SIMPLE_ITK, "NRRD": _SIMPLE_ITK,
    "HDF5": "", "NetCDF": "", "JBIG2": "", "DjVu": "", "BPG": "", "camera raw": "", "NumPy": "", "MATLAB": "",
    "HDF4": "", "Interfile": "", "ECAT": "", "CZI": "", "ND2": "", "EPS": "", "SVG": "", "icon": "",
}  # fmt: skip

silence_decoders()


def read_scan(
    data: bytes,
    *,
    max_pixels: int,
    at_least_px: int = 0,
    with_colors: bool = False,
    accepted: Accepted = RADIOGRAPHS,
) -> Scan:
    """Decode one file to the pixels of one radiograph.

    Args:
        data: content of the file.
        max_pixels: maximum width times height, checked in the header before decoding.
        at_least_px: if not 0, a JPEG may be decoded at 1/2, 1/4 or 1/8 scale as long as both sides keep at least this
            many pixels; the decoder then computes a smaller inverse transform.
        with_colors: also sample the colors, for the input gate; the pixels do not depend on it.
        accepted: which DICOM instances are radiographs.

    Raises:
        UnreadableScan: not an image, damaged, truncated, blank, too large or too small.
        UnsupportedScan: not a single-frame radiograph, or an unsupported format.
    """
    kind = sniff(data[:SNIFF_BYTES])
    if isinstance(kind, NoScan):
        raise _explain_kind(kind, name_other(data[:SNIFF_BYTES]))
    if kind is Format.DICOM:
        from nightread.scan.dicom import read_dicom  # 0.2 s to import, and most folders hold no DICOM

        scan = read_dicom(data, max_pixels=max_pixels, with_colors=with_colors, accepted=accepted)
    else:
        content = strip_blanks(data) if kind is Format.JPEG else data
        scan = read_raster(content, kind, max_pixels, at_least_px, with_colors=with_colors)
    check_content(scan)
    return scan


def check_content(scan: Scan) -> None:
    """Refuse a scan that is blank or whose gray levels are not finite.

    Raises:
        UnreadableScan: blank or damaged.
    """
    low, high = sorted((scan.black, scan.white))
    darkest, brightest = float(scan.pixels.min()), float(scan.pixels.max())
    if not all(math.isfinite(level) and abs(level) < LARGEST_GRAY for level in (low, high, darkest, brightest)):
        raise UnreadableScan(Reason.DAMAGED, "gray levels are not finite, or far beyond any detector's range")
    if max(low, darkest) >= min(high, brightest):
        raise UnreadableScan(Reason.BLANK, "every pixel is shown in the same gray")
    if high - low < 1 / LARGEST_GRAY:
        raise UnreadableScan(Reason.DAMAGED, "black and white are too close to each other")


def _explain_kind(kind: NoScan, name: str) -> UnreadableScan | UnsupportedScan:
    if kind is NoScan.ARCHIVE:
        remedy = "unpack it into the folder" + (" or use --archives" if name in _LISTED_ARCHIVES else "")
        return UnsupportedScan(Reason.UNSUPPORTED_FORMAT, f"a {name}; supported are {SUPPORTED}: {remedy}")
    if kind is NoScan.OTHER_IMAGE:
        command = _CONVERTERS.get(name, "magick IN OUT.png")
        remedy = f"convert it, for instance with `{command}`" if command else "export it in one of these"
        return UnsupportedScan(
            Reason.UNSUPPORTED_FORMAT, f"the image has the format {name}; supported are {SUPPORTED}: {remedy}"
        )
    return UnreadableScan(Reason.NOT_AN_IMAGE, f"the content is none of {SUPPORTED}")
