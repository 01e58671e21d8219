"""One radiograph in every transfer syntax and representation: decoded to the same gray levels."""

import struct
import time

import imagecodecs
import numpy as np
import pytest
from pydicom import uid

from nightread.errors import ScanError
from nightread.reasons import Reason
from nightread.scan.decode import read_scan
from nightread.scan.scan import Contradiction
from tests import factories

ENCAPSULATED_NATIVE = "1.2.840.10008.1.2.1.98"
JPEG_XL = "1.2.840.10008.1.2.4.110"  # which pydicom does not write: see `encode_dicom`


def encode_dicom(pixels, *, syntax, **fields):
    if syntax != JPEG_XL:
        return factories.encode_dicom(pixels, syntax=syntax, **fields)
    return factories.encode_dicom(pixels, syntax=uid.HTJ2KLossless, **fields).replace(
        uid.HTJ2KLossless.encode(), JPEG_XL.encode()
    )


def encode_rle(pixels):
    """Encode (H, W) as PS3.5 annex G has it: a PackBits segment for each byte, the high one first."""
    size = pixels.dtype.itemsize
    planes = [(pixels >> (8 * (size - 1 - place))).astype(np.uint8) for place in range(size)]
    segments = [imagecodecs.packbits_encode(plane.tobytes()) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    header = np.zeros(16, "<u4")
    header[0] = size
    header[1 : size + 1] = 64 + np.cumsum([0, *map(len, segments[:-1])])
    return header.tobytes() + b"".join(segments)


#: By transfer syntax: what encodes a frame, and how many gray levels it may change.
ENCODERS = {
    uid.RLELossless: (encode_rle, 0),
    ENCAPSULATED_NATIVE: (lambda pixels: pixels.tobytes(), 0),
    uid.JPEGLossless: (imagecodecs.ljpeg_encode, 0),
    uid.JPEGLosslessSV1: (imagecodecs.ljpeg_encode, 0),
    uid.JPEGLSLossless: (lambda pixels: imagecodecs.jpegls_encode(pixels, 0), 0),
    uid.JPEGLSNearLossless: (lambda pixels: imagecodecs.jpegls_encode(pixels, 2), 2),
    uid.JPEG2000Lossless: (lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True), 0),
    uid.JPEG2000: (lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="jp2", reversible=True), 0),
    uid.HTJ2KLossless: (lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True), 0),
    JPEG_XL: (lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True), 0),
}


def shown(scan):
    return np.clip((scan.pixels.astype(np.float64) - scan.black) / (scan.white - scan.black), 0, 1)


def read(data):
    return read_scan(data, max_pixels=10**7)


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_compressed_frame_is_the_uncompressed_one(syntax, bits, photometric):
    encode, tolerance = ENCODERS[syntax]
    chest = factories.small_chest().astype(np.uint32) * (2**bits - 1) // 255
    pixels = chest.astype(np.uint8 if bits == 8 else np.uint16)
    fields = {"BitsStored": bits, "HighBit": bits - 1, "PhotometricInterpretation": photometric}

    plain = read(factories.encode_dicom(pixels, **fields))
    scan = read(encode_dicom(pixels, syntax=syntax, frame=bytes(encode(pixels)), **fields))

    np.testing.assert_allclose(scan.pixels.astype(np.int64), pixels.astype(np.int64), atol=tolerance)
    np.testing.assert_allclose(shown(scan), shown(plain), atol=tolerance / 2**bits + 1e-6 + 1 / 2000)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_signed_values_are_extended_from_their_bits(syntax):
    signed = factories.small_chest().astype(np.int16) * 16 - 2048  # 12 bits
    stored = (signed & 0x0FFF).astype(np.uint16)
    fields = {
        "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "WindowCenter": "0", "WindowWidth": "4096",
    }  # fmt: skip
    frame = bytes(ENCODERS[syntax][0](stored))
    # Half of the encoders write 16 bits for the 12: the sign must be found all the same.
    scan = read(factories.encode_dicom(stored, syntax=syntax, frame=frame, **fields))

    np.testing.assert_array_equal(scan.pixels, signed)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_a_frame_whose_values_lie_in_the_high_bits_is_shifted_down(syntax):
    pixels = factories.small_chest().astype(np.uint16) * 16
    frame = bytes(ENCODERS[syntax][0](pixels << 4))
    fields = {"BitsStored": 12, "HighBit": 15, "WindowCenter": "2048", "WindowWidth": "4096"}
    scan = read(factories.encode_dicom(pixels, syntax=syntax, frame=frame, **fields))

    np.testing.assert_array_equal(scan.pixels, pixels)
    assert scan.contradictions == {Contradiction.HIGH_BIT}


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("declared", [None, 16])
def test_a_jpeg_xl_frame_says_itself_how_deep_it_is(bits, declared):
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = (factories.small_chest().astype(np.uint32) * (2**bits - 1) // 255).astype(kind)
    frame = bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, bitspersample=bits))
    scan = read(encode_dicom(pixels, syntax=JPEG_XL, frame=frame, BitsStored=declared, HighBit=None))

    assert (scan.black, scan.white) == (0, 2**bits - 1)


@pytest.mark.parametrize("samples", [1, 3])
def test_an_rle_frame_is_found_without_its_transfer_syntax(samples):
    gray = factories.small_chest() if samples == 3 else factories.small_chest().astype(np.uint16) * 16
    frame = encode_rle(gray)
    if samples == 3:
        plane = imagecodecs.packbits_encode(gray.tobytes())
        plane += b"\0" * (len(plane) % 2)
        frame = struct.pack("<16L", 3, *(64 + place * len(plane) for place in range(3)), *[0] * 12) + plane * 3
    pixels = gray if samples == 1 else np.repeat(gray[..., None], 3, axis=2)
    wrong = factories.encode_dicom(pixels, syntax=uid.JPEG2000Lossless, frame=frame)
    missing = wrong[wrong.index(b"\x08\x00\x16\x00") :]

    assert read(wrong).contradictions == {Contradiction.TRANSFER_SYNTAX}
    assert read(missing).contradictions == frozenset()
    for data in (wrong, missing):
        np.testing.assert_allclose(read(data).pixels, gray, atol=1e-3)


@pytest.mark.parametrize("syntax", ENCODERS)
def test_a_frame_that_is_cut_is_damage(syntax):
    pixels = factories.small_chest().astype(np.uint16) * 16
    frame = bytes(ENCODERS[syntax][0](pixels))

    with pytest.raises(ScanError) as caught:
        read(encode_dicom(pixels, syntax=syntax, frame=frame[: len(frame) // 2]))

    assert caught.value.reason is Reason.DAMAGED


def test_a_jpeg_ls_frame_that_is_cut_anywhere_takes_no_seconds():
    pixels = factories.small_chest().astype(np.uint16) * 16
    frame = bytes(ENCODERS[uid.JPEGLSLossless][0](pixels))
    begun = time.process_time()

    for left in range(len(frame) // 4, len(frame), len(frame) // 16):
        with pytest.raises(ScanError, match="damaged or cut short"):
            read(encode_dicom(pixels, syntax=uid.JPEGLSLossless, frame=frame[:left]))

    assert time.process_time() - begun < 4.0  # the decoder counted for five at each cut


def test_a_jpeg_ls_frame_whose_end_is_not_marked_is_read_whole():
    pixels = factories.small_chest().astype(np.uint16) * 16
    frame = bytes(ENCODERS[uid.JPEGLSLossless][0](pixels))

    scan = read(encode_dicom(pixels, syntax=uid.JPEGLSLossless, frame=frame.removesuffix(b"\xff\xd9")))

    np.testing.assert_array_equal(scan.pixels, pixels)


@pytest.mark.parametrize("syntax", ENCODERS)
def test_a_frame_of_another_size_than_declared_is_damage_before_it_is_decoded(syntax, monkeypatch):
    pixels = factories.small_chest().astype(np.uint16) * 16
    frame = bytes(ENCODERS[syntax][0](pixels))
    for codec in ("jpeg8", "ljpeg", "jpegls", "jpeg2k", "jpegxl"):
        monkeypatch.setattr(imagecodecs, f"{codec}_decode", lambda *_, **__: pytest.fail("decoded"))

    with pytest.raises(ScanError) as caught:
        read(encode_dicom(pixels, syntax=syntax, frame=frame, Rows=pixels.shape[0] + 7))

    assert caught.value.reason is Reason.DAMAGED


def test_a_deflated_data_set_is_read_and_a_bomb_is_not_inflated():
    import zlib

    data = factories.encode_dicom()
    at = data.index(b"\x08\x00\x16\x00UI")  # where the data set begins
    head = data[:at].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"[:20])

    def deflate(content):
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflater.compress(content) + deflater.flush()

    meta = factories.encode_dicom(syntax=uid.ExplicitVRLittleEndian)
    assert read(meta).pixels.shape == factories.small_chest().shape
    deflated = head.replace(b"UI\x14\x001.2.840.10008.1.2.1.", b"UI\x16\x001.2.840.10008.1.2.1.99") + deflate(data[at:])
    assert np.array_equal(read(deflated).pixels, read(data).pixels)
    bomb = deflated[: len(head) + 2] + deflate(data[at:] + bytes(2**28))
    with pytest.raises(ScanError, match="larger than the picture"):
        read(bomb)
