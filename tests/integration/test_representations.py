"""One radiograph in every transfer syntax and representation: one score, and one verdict of the input gate.

Files of 8 bits are compared with each other: their pixels are resized as 8 bits, which rounds each prepared pixel
(preprocessing version 2), and a score near 0.5 moves by more than the tolerance for that. A lossy 8-bit JPEG rounds
twice.
"""

import itertools
import zlib
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file

import nightread
from nightread.scan.decode import read_scan
from nightread.scan.preprocessing import InputSpec, prepare
from tests import factories
from tests.unit.nightread.scan.test_dicom_syntaxes import ENCODERS, encode_dicom

#: Largest difference of a score between two representations. Rounding RG1 to 9 bits moves its score by 0.0105, in the
#: steep middle; every other representation stays within 0.007.
SCORE_TOLERANCE = 0.011
SHRINK = 5
TWELVE = {"BitsStored": 12, "HighBit": 11}


def read_gray(name):
    """Return a radiograph of pydicom as shown, (H, W) in [0, 1], at a fifth of its size."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not installed (pydicom-data)")
    scan = read_scan(Path(path).read_bytes(), max_pixels=10**7)
    height, width = scan.pixels.shape
    return prepare(scan, InputSpec(height_px=height // SHRINK, width_px=width // SHRINK, channels=1))[..., 0]


def quantize(gray, bits, *, signed=False):
    """Return gray levels of so many bits, the range of which they fill."""
    levels = np.rint(gray * (2**bits - 1)).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    return levels.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


def make_native(gray):
    """Yield uncompressed DICOM: 8 to 16 bits, both photometric interpretations and signs, with a window or without."""
    for bits, inverted, signed, is_windowed in itertools.product(range(8, 17), *[(False, True)] * 3):
        if bits == 8 and signed:
            continue  # the standard has no signed 8 bits for these, and encoders none
        pixels = quantize(1 - gray if inverted else gray, bits, signed=signed)
        low = -(2 ** (bits - 1)) if signed else 0
        window = {"WindowCenter": str(low + 2 ** (bits - 1)), "WindowWidth": str(2**bits)}
        photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
        name = f"{bits}-{photometric}-{'signed' if signed else 'unsigned'}-{'window' if is_windowed else 'none'}.dcm"
        yield name, factories.encode_dicom(
            pixels if not signed else pixels & np.int16(2**bits - 1) if bits < 16 else pixels,
            BitsStored=bits, HighBit=bits - 1, PhotometricInterpretation=photometric, PixelRepresentation=int(signed),
            **(window if is_windowed else {}),
        )  # fmt: skip


def make_tagged(gray):
    """Yield DICOM whose brightness follows other attributes than a window."""
    twelve = quantize(gray, 12)
    encode = partial(factories.encode_dicom, twelve, **TWELVE)
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        yield f"{syntax.keyword}.dcm", encode(syntax=syntax)
    yield "rescaled.dcm", encode(RescaleSlope="2", RescaleIntercept="-1000", WindowCenter="3095", WindowWidth="8190")
    yield "inverse.dcm", factories.encode_dicom(4095 - twelve, PresentationLUTShape="INVERSE", **TWELVE)
    yield "voi-table.dcm", encode(**factories.make_table(np.arange(4096) * 16, bits=16))
    modality = factories.make_table(np.arange(4096) * 2, bits=16, keyword="ModalityLUTSequence")
    yield "modality-table.dcm", encode(WindowCenter="4096", WindowWidth="8192", **modality)
    yield "high-bit.dcm", factories.encode_dicom(twelve << 4, BitsStored=12, HighBit=15)
    yield "no-preamble.dcm", encode()[132:]
    data = encode()
    at = data.index(b"\x08\x00\x16\x00UI")
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    yield (
        "deflated.dcm",
        data[:at].replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99")
        + deflater.compress(data[at:])
        + deflater.flush(),
    )


def make_compressed(gray):
    """Yield DICOM in every transfer syntax of compressed still pictures that an encoder here can write."""
    lossy = {
        uid.JPEGBaseline8Bit: (8, lambda pixels: factories.encode_jpeg(pixels, quality=100)),
        uid.JPEGExtended12Bit: (
            12, lambda pixels: imagecodecs.jpeg8_encode(pixels, level=97, bitspersample=12, colorspace="GRAYSCALE")
        ),
        uid.HTJ2K: (12, lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True)),
        uid.HTJ2KLosslessRPCL: (12, lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True)),
        uid.JPEG2000MC: (12, lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=90)),
    }  # fmt: skip
    encoders = {syntax: (12, encode) for syntax, (encode, _) in ENCODERS.items()} | lossy
    for (syntax, (bits, encode)), inverted in itertools.product(encoders.items(), (False, True)):
        pixels = quantize(1 - gray if inverted else gray, bits)
        photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
        yield f"{syntax}-{photometric}.dcm", encode_dicom(
            pixels, syntax=syntax, frame=bytes(encode(pixels)), BitsStored=bits, HighBit=bits - 1,
            PhotometricInterpretation=photometric,
        )  # fmt: skip


def make_rasters(gray, folder):
    """Yield PNG, JPEG and TIFF."""
    eight, twelve, sixteen = (quantize(gray, bits) for bits in (8, 12, 16))
    for bits, pixels in ((8, eight), (12, twelve), (16, sixteen)):
        yield f"{bits}.png", factories.encode_image(Image.fromarray(pixels))
    yield "rgb.png", factories.encode_image(np.dstack([eight] * 3))
    yield "quality-100.jpg", factories.encode_jpeg(eight, quality=100)
    yield "progressive.jpg", factories.encode_jpeg(eight, quality=100, progressive=True)
    yield "lossless.jpg", imagecodecs.ljpeg_encode(twelve)
    yield "near.jls", imagecodecs.jpegls_encode(twelve, 2)
    for order, pixels in itertools.product("<>", (eight, twelve, sixteen)):
        yield (
            f"{'little' if order == '<' else 'big'}-endian-{pixels.max()}.tif",
            factories.encode_tiff(pixels, order=order),
        )
    yield "white-is-zero.tif", factories.encode_tiff(65535 - sixteen, photometric=0)
    path = folder / "draft"
    for compression, pixels in itertools.product(("lzw", "zlib", "packbits", "zstd"), (eight, sixteen)):
        tifffile.imwrite(path, pixels, compression=compression, photometric="minisblack")
        yield f"{compression}-{pixels.dtype}.tif", path.read_bytes()
    for name, pixels in (("float32", gray), ("float64", gray * 1000.0), ("uint32", sixteen.astype(np.uint32) << 16)):
        tifffile.imwrite(path, pixels, photometric="minisblack")
        yield f"{name}.tif", path.read_bytes()
    path.unlink()


@pytest.fixture(scope="module", params=["RG1_UNCR.dcm", "drawn chest"])
def night(request, tmp_path_factory):
    """The paths of one radiograph in all representations."""
    gray = factories.draw_chest(3, 400, 380) / np.float32(255) if request.param == "drawn chest" else None
    gray = read_gray(request.param) if gray is None else gray
    folder = tmp_path_factory.mktemp("night")
    makers = make_native(gray), make_tagged(gray), make_compressed(gray), make_rasters(gray, folder)
    paths = []
    for name, data in itertools.chain(*makers):
        assert folder / name not in paths
        (folder / name).write_bytes(data)
        paths.append(folder / name)
    return paths


@pytest.mark.parametrize("gate", [False, True])
def test_every_representation_has_one_score_and_one_verdict(night, gate):
    rows = list(nightread.open_model(device="cpu", threads=2, gate=gate).predict(night))
    assert len(rows) == len(night) > 130
    plain = next(row for row in rows if row.path.name == "16.png")
    assert plain.status == "scored"
    for row in rows:
        assert (row.status, row.gate_verdict) == (plain.status, plain.gate_verdict), row
        assert row.scores["pneumonia"] == pytest.approx(plain.scores["pneumonia"], abs=SCORE_TOLERANCE), row


def test_8_and_16_bits_differ_by_rounding_alone(night):
    spec = nightread.open_model(device="cpu", threads=1).card.input
    eight, sixteen = (
        prepare(read_scan((night[0].parent / name).read_bytes(), max_pixels=10**7), spec)
        for name in ("8.png", "16.png")
    )
    np.testing.assert_allclose(eight, sixteen, atol=1 / 255)
    assert abs((eight - sixteen).mean()) < 1e-4


@pytest.mark.parametrize("number", [1, 3])
def test_the_compressed_files_of_pydicom_have_the_score_of_the_uncompressed_one(number):
    names = [f"RG{number}_{kind}.dcm" for kind in ("UNCR", "UNCI", "J2KR", "J2KI")]
    paths = [get_testdata_file(name, download=False) for name in names]
    if None in paths:
        pytest.skip("RG1 and RG3 are not installed (pydicom-data)")
    assert {pydicom.dcmread(path).file_meta.TransferSyntaxUID.name for path in paths[2:]} == {
        "JPEG 2000 Image Compression (Lossless Only)", "JPEG 2000 Image Compression",
    }  # fmt: skip
    for gate in (False, True):
        rows = list(nightread.open_model(device="cpu", threads=2, gate=gate).predict(paths))
        assert len({(row.status, row.gate_verdict) for row in rows}) == 1
        scores = [row.scores["pneumonia"] for row in rows if row.scores]
        assert scores == pytest.approx(scores[:1] * len(scores), abs=SCORE_TOLERANCE)
