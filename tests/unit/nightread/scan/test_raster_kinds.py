"""Rasters of every kind that a hospital sends: shown right, or refused by the name of the kind."""

import contextlib
import io
import itertools
import re
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from nightread.errors import ScanError
from nightread.reasons import Reason
from nightread.scan.decode import read_scan
from nightread.scan.formats import SNIFF_BYTES, Format, sniff
from tests import factories

CHEST = factories.small_chest()
DEEP = CHEST.astype(np.uint16) * 16  # 12 bits


def read(data, **limits):
    return read_scan(data, **{"max_pixels": 10**7, **limits})


def shown(data):
    scan = read(data)
    return np.clip((scan.pixels.astype(np.float64) - scan.black) / (scan.white - scan.black), 0, 1)


def refuse(data):
    with pytest.raises(ScanError) as caught:
        read(data)
    return caught.value.reason, str(caught.value)


def encode_tiff(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"photometric": "minisblack", "metadata": None, **options})
    return buffer.getvalue()


class TestDepth:
    @pytest.mark.parametrize("bits", range(9, 17))
    @pytest.mark.parametrize("encode", [factories.encode_png16, encode_tiff])
    def test_every_depth_in_16_bits_is_as_bright_as_the_others(self, bits, encode):
        pixels = (CHEST.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
        np.testing.assert_allclose(shown(encode(pixels)), CHEST / 255, atol=1 / 255)

    @pytest.mark.parametrize("marker", [4096, 20000, 65535])
    @pytest.mark.parametrize("count", [1, 20])
    @pytest.mark.parametrize("encode", [factories.encode_png16, encode_tiff])
    def test_marker_pixels_do_not_darken_the_scan(self, marker, count, encode):
        marked = DEEP.copy()
        marked[5, 3 : 3 + count] = marker
        assert read(encode(marked)).white == read(encode(DEEP)).white == 4095

    def test_32_bit_integers_of_full_range(self):
        pixels = (CHEST.astype(np.uint64) * (2**32 - 1) // 255).astype(np.uint32)
        np.testing.assert_allclose(shown(encode_tiff(pixels)), CHEST / 255, atol=1 / 255)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_floats_between_their_extremes_with_a_border_of_nan(self, dtype):
        pixels = CHEST.astype(dtype) / 100
        pixels[:, :9] = np.nan
        gray = shown(encode_tiff(pixels))
        assert (gray[:, :9] == 0).all()
        low, high = np.nanmin(pixels), np.nanmax(pixels)
        np.testing.assert_allclose(gray[:, 9:], (pixels[:, 9:] - low) / (high - low), atol=1e-5)

    @pytest.mark.parametrize("stands_for_none", [-np.inf, -3.4028235e38, 1e38])
    def test_a_float_that_stands_for_no_value_is_a_border(self, stands_for_none):
        pixels = CHEST.astype(np.float32) / 100
        pixels[:, :9] = stands_for_none
        without = pixels.copy()
        without[:, :9] = np.nan
        np.testing.assert_array_equal(shown(encode_tiff(pixels)), shown(encode_tiff(without)))

    def test_12_of_16_bits_and_white_is_zero(self):
        np.testing.assert_allclose(shown(encode_tiff(4095 - DEEP, photometric="miniswhite")), DEEP / 4095, atol=1 / 255)

    def test_12_bits_packed_and_white_is_zero(self):
        data = encode_tiff(4095 - DEEP, bitspersample=12, photometric="miniswhite")
        np.testing.assert_allclose(shown(data), DEEP / 4095, atol=1 / 4000)


class TestTiffPages:
    @pytest.mark.parametrize("planarconfig", ["contig", "separate"])
    def test_16_bit_colors_become_luma(self, planarconfig):
        pixels = np.repeat(CHEST.astype(np.uint16)[..., None] * 257, 3, axis=2)
        stored = pixels if planarconfig == "contig" else np.moveaxis(pixels, -1, 0)
        data = encode_tiff(stored, photometric="rgb", planarconfig=planarconfig)
        np.testing.assert_allclose(shown(data), CHEST / 255, atol=1 / 255)

    def test_alpha_beside_16_bit_gray_is_dropped(self):
        pixels = np.stack([DEEP, np.full_like(DEEP, 65535)], axis=2)
        data = encode_tiff(pixels, planarconfig="contig", extrasamples=["unassalpha"])
        np.testing.assert_allclose(shown(data), DEEP / 4095, atol=1 / 4000)

    def test_the_scan_may_lie_in_the_sub_directory_of_its_preview(self):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(CHEST[::3, ::3], subifds=1, subfiletype=1, photometric="minisblack", metadata=None)
            writer.write(CHEST, subfiletype=0, photometric="minisblack", metadata=None)
        assert np.array_equal(read(buffer.getvalue()).pixels, CHEST)

    def test_a_reduced_second_page_is_no_second_frame(self):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(CHEST, photometric="minisblack", metadata=None)
            writer.write(CHEST[::3, ::3], subfiletype=1, photometric="minisblack", metadata=None)
        assert np.array_equal(read(buffer.getvalue()).pixels, CHEST)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_deep_pages_are_turned_upright_as_8_bit_ones_are(self, orientation):
        tags = [(274, 3, 1, orientation, True)]
        deep, plain = (read(encode_tiff(pixels, extratags=tags)).pixels for pixels in (CHEST.astype(np.uint16), CHEST))
        assert np.array_equal(deep, plain)

    @pytest.mark.parametrize("compression", ["jpeg2000", "png", "jpegxl", "zstd", "lzw", "adobe_deflate", "packbits"])
    def test_compressed_deep_pages(self, compression):
        args = {"compressionargs": {"lossless": True}} if compression == "jpegxl" else {}
        np.testing.assert_allclose(
            shown(encode_tiff(DEEP, compression=compression, **args)), DEEP / 4095, atol=1 / 4000
        )

    def test_a_tile_far_larger_than_the_picture_is_not_decoded(self, monkeypatch):
        data = encode_tiff(CHEST[:64, :64], tile=(8192, 8192), compression="zlib")
        monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("decoded"))
        assert refuse(data)[0] is Reason.DAMAGED


class TestJpeg:
    @pytest.mark.parametrize("encode", [
        lambda pixels: imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=12),
        lambda pixels: imagecodecs.jpegls_encode(pixels, 0),
        lambda pixels: imagecodecs.ljpeg_encode(pixels, bitspersample=12),
    ])  # fmt: skip
    def test_deep_jpeg_kinds_are_read(self, encode):
        np.testing.assert_allclose(shown(bytes(encode(DEEP))), DEEP / 4095, atol=1 / 60)

    @pytest.mark.parametrize("at_least_px", [0, 40])
    def test_8_bit_lossless_jpeg_is_read_at_full_size_whatever_is_asked_for(self, at_least_px):
        data = bytes(imagecodecs.ljpeg_encode(CHEST, bitspersample=8))
        assert np.array_equal(read(data, at_least_px=at_least_px).pixels, CHEST)

    @pytest.mark.parametrize("bits", [2, 4, 7])
    def test_lossless_grays_of_fewer_than_8_bits_reach_white(self, bits):
        levels = np.rint(CHEST / 255 * (2**bits - 1)).astype(np.uint8)
        data = bytes(imagecodecs.jpeg8_encode(levels, lossless=True, bitspersample=bits))
        np.testing.assert_allclose(shown(data), levels / (2**bits - 1), atol=1e-6)

    def test_a_height_after_the_pixels_is_refused_by_name(self):
        data = bytearray(factories.encode_jpeg(CHEST))
        place = data.index(b"\xff\xc0")
        height = bytes(data[place + 5 : place + 7])
        data[place + 5 : place + 7] = b"\0\0"
        reason, text = refuse(bytes(data[:-2]) + b"\xff\xdc\0\x04" + height + b"\xff\xd9")
        assert (reason, "DNL" in text) == (Reason.UNSUPPORTED_FORMAT, True)

    @pytest.mark.parametrize("before", [b"\r\n", b"\n\n", b"\0" * 128, b"    "])
    def test_blanks_before_the_first_marker_are_passed_over(self, before):
        data = factories.encode_jpeg()
        assert sniff((before + data)[:SNIFF_BYTES]) is Format.JPEG
        np.testing.assert_array_equal(read(before + data).pixels, read(data).pixels)

    def test_a_whole_jpeg_without_its_end_marker_is_read(self):
        data = factories.encode_jpeg(CHEST)
        assert np.array_equal(read(data[:-2]).pixels, read(data).pixels)

    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("junk", [b"\0\0\x12", b"Adobe\xff\xff\x00", bytes(range(1, 200))])
    def test_bytes_between_segments_are_passed_over(self, progressive, junk):
        plain = factories.encode_jpeg(CHEST, progressive=progressive)
        header = b"\xff\xee\0\x04ab" + junk  # a segment that is declared shorter than it is
        data = plain[:2] + header + plain[2:]
        assert np.array_equal(read(data).pixels, read(plain).pixels)

    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
    def test_a_block_of_ones_as_of_an_erased_disk_does_not_hang(self, progressive, part):
        """Found by hand: the search for markers took time by the square of such a block."""
        data = factories.encode_jpeg(CHEST, progressive=progressive, restart_marker_rows=1)
        place = max(2, int(part * (len(data) - 2)))
        for after in (data[place:], b"\0" + data[place:], b""):
            with contextlib.suppress(ScanError):
                read(data[:place] + b"\xff" * 300_000 + after)

    @pytest.mark.parametrize("marker", [b"\xff\xc2", b"\xff\xda", b"\xff\xd9"])
    def test_markers_within_a_segment_are_none(self, marker):
        plain = factories.encode_jpeg(CHEST, progressive=True)
        content = (marker + b"\0\x0c\x01\x01\0\0\0\0") * 3
        data = plain[:2] + b"\xff\xe2" + (len(content) + 2).to_bytes(2, "big") + content + plain[2:]
        assert np.array_equal(read(data).pixels, read(plain).pixels)

    def test_an_index_of_pictures_that_leads_nowhere_is_passed_over(self):
        buffer = io.BytesIO()
        image = Image.fromarray(CHEST)
        image.save(buffer, "MPO", save_all=True, append_images=[image.resize((72, 60))])
        whole = buffer.getvalue()
        first = whole[: whole.index(b"\xff\xd9\xff\xd8") + 2]
        assert read(first).pixels.shape == CHEST.shape

    def test_a_preview_is_no_second_frame(self):
        small = Image.fromarray(CHEST[::3, ::3])
        data = factories.encode_image(Image.fromarray(CHEST), "MPO", save_all=True, append_images=[small])
        assert read(data).pixels.shape == CHEST.shape

    @pytest.mark.parametrize("percent", [10, 25, 50, 75, 90])
    def test_a_progressive_jpeg_that_was_cut_and_closed_is_damaged(self, percent):
        large = np.kron(CHEST, np.ones((4, 4), np.uint8))
        data = factories.encode_jpeg(large, progressive=True)
        assert read(data).pixels.shape == large.shape
        assert refuse(data[: len(data) * percent // 100] + b"\xff\xd9")[0] is Reason.DAMAGED


def encode_lossless_rows(pixels):
    """Return a lossless JPEG (ISO/IEC 10918-1, H) whose rows are restart intervals; its codes have four bits."""
    height, width = pixels.shape
    frame = struct.pack(">HBHHB3B", 11, 8, height, width, 1, 1, 0x11, 0)
    table = struct.pack(">HB", 28, 0) + bytes((0, 0, 0, 9, *[0] * 12, *range(9)))
    segments = [(0xC3, frame), (0xC4, table), (0xDD, struct.pack(">HH", 4, width)), (0xDA, b"\0\x08\1\1\0\1\0\0")]
    data = b"\xff\xd8" + b"".join(bytes((0xFF, marker)) + content for marker, content in segments)
    for number, row in enumerate(pixels.astype(int)):
        bits = ""
        for change in np.diff(row, prepend=128).tolist():
            size = abs(change).bit_length()
            code = change if change > 0 else change + (1 << size) - 1
            bits += f"{size:04b}" + (f"{code:0{size}b}" if size else "")
        bits += "1" * (-len(bits) % 8)
        coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
        data += (bytes((0xFF, 0xD0 + (number - 1) % 8)) if number else b"") + coded
    return data + b"\xff\xd9"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["lossless", "JPEG-LS", "JPEG-LS RGB"])
def test_a_jpeg_of_any_kind_is_turned_upright(kind, orientation):
    pixels = DEEP if kind != "JPEG-LS RGB" else np.repeat(CHEST[..., None], 3, axis=2)
    data = bytes(imagecodecs.ljpeg_encode(pixels) if kind == "lossless" else imagecodecs.jpegls_encode(pixels))
    exif = Image.Exif()
    exif[274] = orientation
    content = exif.tobytes()
    turned = data[:2] + struct.pack(">HH", 0xFFE1, len(content) + 2) + content + data[2:]
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(factories.encode_jpeg(CHEST, quality=100, exif=exif))))
    scan = read(turned)
    assert (scan.width_px, scan.height_px) == upright.size
    np.testing.assert_allclose(shown(turned), np.asarray(upright) / 255, atol=0.02)


class TestRestartMarkers:
    LARGE = np.kron(CHEST, np.ones((4, 4), np.uint8))

    @pytest.mark.parametrize("options", [
        {"restart_marker_rows": 1}, {"restart_marker_blocks": 7}, {"restart_marker_rows": 1, "progressive": True},
        {"restart_marker_blocks": 3, "subsampling": 2}, {"restart_marker_rows": 2, "subsampling": 1},
        {"restart_marker_blocks": 10_000},
    ])  # fmt: skip
    def test_a_whole_jpeg_with_them_is_read(self, options):
        pixels = np.repeat(self.LARGE[:-3, :-5, None], 3, axis=2) if "subsampling" in options else self.LARGE
        data = factories.encode_jpeg(pixels, **options)
        assert read(data).pixels.shape == pixels.shape[:2]
        assert read(data + data).pixels.shape == pixels.shape[:2]

    @pytest.mark.parametrize("options", [{}, {"progressive": True}])
    @pytest.mark.parametrize("fill", [b"", b"\0", b"\xaa"])
    def test_a_gap_between_them_is_damage(self, options, fill):
        data = factories.encode_jpeg(self.LARGE, restart_marker_rows=1, **options)
        first, last = (data.index(bytes((0xFF, 0xD0 + number)), len(data) // 3) for number in (2, 4))
        first, last = sorted((first, last))
        assert refuse(data[:first] + fill * (last - first) + data[last:])[0] is Reason.DAMAGED

    def test_a_gap_of_whole_scans_or_within_one_is_damage(self, progressive_scans):
        data, scans = progressive_scans
        for first, second in itertools.pairwise(scans[:4]):
            middle = (first + second) // 2
            assert refuse(data[:middle] + data[middle + 200 :])[0] is Reason.DAMAGED  # within a scan
            assert refuse(data[:middle] + data[second + 200 :])[0] is Reason.DAMAGED  # with the header of the next

    @pytest.fixture(params=[{}, {"restart_marker_rows": 1}])
    def progressive_scans(self, request):
        data = factories.encode_jpeg(self.LARGE, progressive=True, **request.param)
        assert read(data).pixels.shape == self.LARGE.shape
        return data, [found.start() for found in re.finditer(b"\xff\xda", data)]

    def test_a_gap_in_a_lossless_jpeg_is_damage(self):
        data = encode_lossless_rows(CHEST)
        np.testing.assert_array_equal(read(data).pixels, CHEST)
        first, last = data.index(b"\xff\xd3", len(data) // 3), data.index(b"\xff\xd3", len(data) // 2)
        assert refuse(data[:first] + data[last:])[0] is Reason.DAMAGED

    def test_wrong_numbers_do_no_harm(self):
        data = factories.encode_jpeg(self.LARGE, restart_marker_rows=1)
        place = data.index(b"\xff\xd3")
        assert read(data[:place] + b"\xff\xd6" + data[place + 2 :]).pixels.shape == self.LARGE.shape


@pytest.mark.parametrize("name", ["JPEG XL", "JPEG XR"])
def test_the_command_that_a_refusal_names_converts_the_format(name, tmp_path, monkeypatch):
    encode = imagecodecs.jpegxl_encode if name == "JPEG XL" else imagecodecs.jpegxr_encode
    data = bytes(encode(CHEST, lossless=True) if name == "JPEG XL" else encode(CHEST, level=1.0))
    text = refuse(data)[1]
    assert name in text
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IN").write_bytes(data)
    exec(text.split('python -c "')[1].split('"')[0])
    np.testing.assert_array_equal(read((tmp_path / "OUT.png").read_bytes()).pixels, CHEST)


@pytest.mark.parametrize("head", [b"NRRD0004\n", b"\x89HDF\r\n\x1a\n", b"\x97JB2\r\n\x1a\n", b"NDims = 3\n"])
def test_no_refusal_names_a_program_that_cannot_read_the_format(head):
    assert "magick" not in refuse(head)[1]


@pytest.mark.parametrize(("head", "name"), [
    (b"\xff\x0a" + b"\0" * 400, "JPEG XL"), (b"II\xbc\x01" + b"\0" * 400, "JPEG XR"), (b"P5\n2 2\n255\n", "PGM or PPM"),
    (b"\x5c\x01\0\0" + b"\0" * 340 + b"n+1\0", "NIfTI"),
    (b"ObjectType = Image\n", "MetaImage"), (b"NDims = 3\nDimSize = 4 4 4\n", "MetaImage"), (b"NRRD0004\n", "NRRD"),
    (b"P1\n2 2\n1 0 0 1\n", "PBM"), (b"Pf\n2 2\n-1.0\n", "PFM"), (b"P5\t2 2 255\n", "PGM"), (b"CDF\x01\0\0", "NetCDF"),
    (b"\x5c\x01\0\0" + b"\0" * 34 + b"r\0" + b"\0" * 308, "Analyze"), (b"SIMPLE  =                    T", "FITS"),
    (b"\0\0\0\x18ftyphevc\0\0\0\0", "HEIF"), (b"\0\0\0\x18ftypavis\0\0\0\0", "AVIF"),
    (b"\x1f\x9d\x90", "compress file"), (b"\x04\x22\x4d\x18", "LZ4 file"), (b"PK\x07\x08", "split zip archive"),
    (b"\x5d\0\0\x80\0" + b"\xff" * 8, "LZMA file"), (b"MSCF\0\0\0\0", "cabinet archive"),
    (b"gimp xcf v011", "XCF"), (b"SDPX\0\0", "DPX"), (b"\x8aMNG\r\n\x1a\n", "MNG"), (b"#?RADIANCE\n", "Radiance"),
    (b"\0\0\0\x18ftypcrx \0\0\0\1", "camera raw"), (b"IIU\0\x18\0", "camera raw"), (b"\x93NUMPY\1\0", "NumPy"),
    (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "MATLAB"), (b"!INTERFILE :=\n", "Interfile"), (b"MATRIX72v\0", "ECAT"),
    (b"\x0e\x03\x13\x01\0", "HDF4"), (b"ZISRAWFILE\0", "CZI"), (b"\xda\xce\xbe\x0a\0", "ND2"), (b"BPG\xfb\0", "BPG"),
    (b"LZIP\x01\x0c", "lzip file"), (b"\x2a\x8c-lh5-\0", "LHA archive"), (b"\0" * 7 + b"**ACE**", "ACE archive"),
    (b"xar!\0\x1c\0\1", "xar archive"), (b"!<arch>\ndebian", "ar archive"),
    (b"PK\x03\x04", "zip archive"), (b"\x1f\x8b\x08", "gzip file"), (b"\0" * 257 + b"ustar", "tar archive"),
])  # fmt: skip
def test_other_formats_and_archives_are_refused_by_name(head, name):
    reason, text = refuse(head)
    assert reason is Reason.UNSUPPORTED_FORMAT
    assert name in text


class TestCutJpeg:
    """Decoders fill what is missing of a JPEG that was closed, or show it blurred."""

    @pytest.mark.parametrize("percent", [90, 95, 99])
    @pytest.mark.parametrize("at_least_px", [0, 40])
    def test_one_that_lacks_less_than_its_last_16_rows_is_damaged(self, percent, at_least_px):
        data = factories.encode_jpeg(CHEST)
        assert read(data, at_least_px=at_least_px)
        with pytest.raises(ScanError) as caught:
            read(data[: len(data) * percent // 100] + b"\xff\xd9", at_least_px=at_least_px)
        assert caught.value.reason is Reason.DAMAGED

    @pytest.mark.parametrize("percent", [50, 90, 99])
    @pytest.mark.parametrize("bits", [8, 12, 16])
    def test_a_lossless_one_is_damaged(self, bits, percent):
        data = imagecodecs.ljpeg_encode(
            (CHEST.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint8 if bits == 8 else np.uint16)
        )
        assert read(data)
        assert refuse(data[: len(data) * percent // 100] + b"\xff\xd9")[0] is Reason.DAMAGED

    @pytest.mark.parametrize("percent", [30, 50, 70, 90, 99])
    def test_a_progressive_one_of_12_bits_is_damaged(self, percent):
        data = bytearray(factories.encode_jpeg(np.kron(CHEST, np.ones((4, 4), np.uint8)), progressive=True))
        data[data.index(b"\xff\xc2") + 4] = 12  # its coefficients are as valid for 12 bits as for 8
        assert read(bytes(data))
        assert refuse(bytes(data[: len(data) * percent // 100]) + b"\xff\xd9")[0] is Reason.DAMAGED

    @pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 97, "progressive": True}])
    def test_one_that_was_transferred_as_text_is_damaged(self, options):
        data = factories.encode_jpeg(np.kron(CHEST, np.ones((3, 3), np.uint8)), **options)
        reason, text = refuse(data.replace(b"\n", b"\r\n"))
        assert reason is Reason.DAMAGED
        assert "as text" in text

    @pytest.mark.parametrize("progressive", [False, True])
    def test_fill_bytes_before_the_end_marker_are_no_missing_data(self, progressive):
        data = factories.encode_jpeg(CHEST, progressive=progressive)
        padded = data[:-2] + b"\xff\xff\xff\xd9"  # DCMTK pads a frame to an even length so
        np.testing.assert_array_equal(read(padded).pixels, read(data).pixels)

    def test_one_whose_last_rows_are_mid_gray_is_read(self):
        bordered = np.pad(CHEST, 24, constant_values=128)
        assert read(factories.encode_jpeg(bordered)).pixels.shape == bordered.shape


class TestPng:
    @pytest.mark.parametrize("bits", [12, 16])
    @pytest.mark.parametrize("channels", [2, 3, 4])
    @pytest.mark.parametrize("orientation", [None, 6])
    def test_16_bits_with_colors_or_alpha_are_as_bright_as_gray_ones(self, bits, channels, orientation):
        gray = (CHEST.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
        pixels = np.repeat(gray[..., None], channels, axis=2)
        if channels in {2, 4}:
            pixels[..., -1] = 65535
        data = imagecodecs.png_encode(pixels)
        if orientation:
            exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHLHxx", 274, 3, 1, orientation) + bytes(4)
            data = data[:33] + factories.encode_png_chunk(b"eXIf", exif) + data[33:]
        expected = np.rot90(CHEST, -1) if orientation else CHEST
        np.testing.assert_allclose(shown(data), expected / 255, atol=1 / 1000)
        assert (read(data, with_colors=True).colors is None) == (channels == 2)

    def test_a_cut_one_of_16_bits_with_alpha_is_damaged(self):
        data = imagecodecs.png_encode(np.stack([DEEP, DEEP], axis=2))
        assert refuse(data[: len(data) // 2])[0] is Reason.DAMAGED

    @pytest.mark.parametrize("count", [1, 2])
    def test_an_animation_of_one_frame_is_a_still_picture(self, count):
        image = Image.fromarray(CHEST)
        more = [Image.fromarray(255 - CHEST)] * (count - 1)
        data = factories.encode_image(image, "PNG", save_all=True, append_images=more)
        if count == 1:  # which Pillow writes as a plain PNG
            control = struct.pack(">LLLLLHHBB", 0, image.width, image.height, 0, 0, 1, 10, 0, 0)
            chunks = ((b"acTL", struct.pack(">LL", 1, 0)), (b"fcTL", control))
            data = data[:33] + b"".join(factories.encode_png_chunk(*chunk) for chunk in chunks) + data[33:]
            assert np.array_equal(read(data).pixels, CHEST)
        else:
            assert refuse(data)[0] is Reason.MULTI_FRAME

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("rows", [1, 60])
    def test_one_whose_pixel_data_is_complete_but_has_too_few_rows_is_damaged(self, dtype, rows):
        pixels = CHEST.astype(dtype)
        data = factories.encode_image(pixels)
        start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
        kept = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels[:-rows])
        short = data[:start] + factories.encode_png_chunk(b"IDAT", zlib.compress(kept)) + data[end:]
        reason, text = refuse(short)
        assert (reason, "lowest rows" in text) == (Reason.DAMAGED, True)

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
    def test_one_whose_last_rows_are_black_is_read(self, mode):
        bordered = np.pad(CHEST, 24)
        image = (
            Image.fromarray(bordered.astype(np.uint16)) if mode == "I;16" else Image.fromarray(bordered).convert(mode)
        )
        if "A" in mode:
            image.putalpha(Image.fromarray(bordered))
        assert read(factories.encode_image(image)).pixels.shape == bordered.shape


class TestExif:
    """EXIF data that cannot be read says nothing of the pixels: the scan is read as it lies."""

    @pytest.mark.parametrize("options", [
        {"kind": "JPEG", "quality": 100}, {"kind": "PNG"}, {"kind": "WEBP", "lossless": True},
    ], ids=["jpeg", "png", "webp"])  # fmt: skip
    @pytest.mark.parametrize("exif", [
        b"", b"garbage!", b"II*\0\xff\xff\xff\x7f", b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\0\0\0\0\0\0\0\0",
    ])  # fmt: skip
    def test_what_cannot_be_read_turns_nothing(self, options, exif):
        data = factories.encode_image(exif=b"Exif\0\0" + exif, **options)
        plain = factories.encode_image(**options)
        np.testing.assert_array_equal(read(data).pixels, read(plain).pixels)
        np.testing.assert_array_equal(read(data, at_least_px=40).pixels, read(plain, at_least_px=40).pixels)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_an_orientation_turns_the_scan_upright_whatever_the_other_tags_hold(self, orientation):
        exif = Image.Exif()
        exif[274] = orientation
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(factories.encode_image(exif=exif))))
        odd = struct.pack("<HHLL", 0x9286, 99, 2**31, 2**31)  # a comment of unknown type, far beyond the file
        tags = struct.pack("<HHLHxx", 274, 3, 1, orientation) + odd
        data = factories.encode_image(exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0" + tags + bytes(4))
        np.testing.assert_array_equal(read(data).pixels, np.asarray(upright))


class TestBmpAndWebp:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
    @pytest.mark.parametrize("options", [{"kind": "BMP"}, {"kind": "WEBP", "lossless": True}], ids=["bmp", "webp"])
    def test_lossless_pictures_are_shown_as_png_shows_them(self, mode, options):
        image = Image.fromarray(CHEST).convert(mode)
        scan = read(factories.encode_image(image, **options))
        np.testing.assert_array_equal(scan.pixels, read(factories.encode_image(image)).pixels)
        assert (scan.format, scan.white) == (Format(options["kind"].lower()), 255.0)

    def test_a_black_and_white_bitmap_is_read(self):
        image = Image.fromarray(CHEST).convert("1")
        np.testing.assert_array_equal(shown(factories.encode_image(image, "BMP")), np.asarray(image))

    def test_a_lossless_webp_with_metadata_is_read(self):
        data = factories.encode_image(kind="WEBP", lossless=True, exif=Image.Exif().tobytes() + b"\0" * 8)
        assert data[12:16] == b"VP8X"
        np.testing.assert_array_equal(read(data).pixels, CHEST)

    @pytest.mark.parametrize("options", [{}, {"exif": b"Exif\0\0" + b"\0" * 8}], ids=["plain", "extended"])
    def test_a_lossy_webp_is_refused_by_name(self, options):
        reason, text = refuse(factories.encode_image(kind="WEBP", quality=90, **options))
        assert reason is Reason.UNSUPPORTED_FORMAT
        assert "lossy WebP" in text

    def test_a_moving_webp_is_no_scan(self):
        more = [Image.fromarray(255 - CHEST)]
        reason, _ = refuse(factories.encode_image(kind="WEBP", lossless=True, save_all=True, append_images=more))
        assert reason is Reason.MULTI_FRAME

    def test_a_bitmap_of_16_bits_is_read(self):
        fifth = CHEST.astype(np.uint16) >> 3
        rows = (fifth << 10 | fifth << 5 | fifth)[::-1].astype("<u2").tobytes()
        width, height = CHEST.shape[1], CHEST.shape[0]
        header = struct.pack("<2sL4xLLllHHL24x", b"BM", 54 + len(rows), 54, 40, width, height, 1, 16, 0)
        np.testing.assert_allclose(shown(header[:54] + rows), CHEST / 255, atol=1 / 31)

    @pytest.mark.parametrize(("bits", "masks", "is_read"), [
        (16, (0xF800, 0x07E0, 0x1F), True), (16, (0x7C00, 0x03E0, 0x1F), True), (16, (0xF00, 0xF0, 0xF), False),
        (32, (0xFF0000, 0xFF00, 0xFF), True), (32, (0xFF000000, 0xFF00, 0xFF), True),
        (32, (0xFF000000, 0xFF0000, 0xFF00), True), (32, (0x3FF00000, 0xFFC00, 0x3FF), False),
    ])  # fmt: skip
    def test_bitmaps_with_masks_are_read_or_refused_by_name(self, bits, masks, is_read):
        height, width = CHEST.shape
        pixels = np.zeros(CHEST.shape, np.uint32)
        for mask in masks:
            low = mask & -mask
            pixels |= np.rint(CHEST / 255 * (mask // low)).astype(np.uint32) * low
        rows = pixels[::-1].astype(f"<u{bits // 8}").tobytes()
        header = struct.pack(
            "<2sL4xLLLLHHLLLLLL", b"BM", 66 + len(rows), 66, 40, width, height, 1, bits, 3, 0, 0, 0, 0, 0
        )
        data = header + struct.pack("<LLL", *masks) + rows
        if is_read:
            np.testing.assert_allclose(shown(data), CHEST / 255, atol=1 / 31)
        else:
            reason, text = refuse(data)
            assert (reason, "rare masks" in text) == (Reason.UNSUPPORTED_FORMAT, True)

    @pytest.mark.parametrize(
        ("place", "value", "named"),
        [(30, 1, "8 bits in compression 1"), (28, 4, "4 bits in compression 0"), (14, 12, "OS/2")],
    )
    def test_other_kinds_of_bitmaps_are_refused_by_name(self, place, value, named):
        data = bytearray(factories.encode_image(Image.fromarray(CHEST), "BMP"))
        data[place] = value
        assert refuse(bytes(data)) == (Reason.UNSUPPORTED_FORMAT, f"a BMP of {named}; save the scan as PNG")

    @pytest.mark.parametrize("options", [{"kind": "BMP"}, {"kind": "WEBP", "lossless": True}], ids=["bmp", "webp"])
    @pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
    def test_a_cut_file_is_damaged(self, options, left):
        data = factories.encode_image(**options)
        assert refuse(data[: int(left * len(data))])[0] is Reason.DAMAGED

    @pytest.mark.parametrize("options", [{"kind": "BMP"}, {"kind": "WEBP", "lossless": True}], ids=["bmp", "webp"])
    def test_too_many_pixels_are_refused_before_they_are_decoded(self, options):
        with pytest.raises(ScanError) as caught:
            read(factories.encode_image(**options), max_pixels=100)
        assert caught.value.reason is Reason.TOO_LARGE
