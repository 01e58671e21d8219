"""TIFF pages by depth, photometric interpretation and compression: shown right, or refused by the name of the kind."""

import io
import random
import struct
import warnings

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from nightread.errors import ScanError
from nightread.reasons import Reason
from nightread.scan import lzw
from nightread.scan.decode import read_scan
from tests import factories

CHEST = factories.small_chest()
DEEP = CHEST.astype(np.uint16) * 16
COLORS = np.repeat(CHEST[..., None], 3, axis=2)


def encode(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"photometric": "minisblack", "metadata": None, **options})
    return buffer.getvalue()


def shown(data):
    scan = read_scan(data, max_pixels=10**7, with_colors=True)
    return np.clip((scan.pixels.astype(np.float64) - scan.black) / (scan.white - scan.black), 0, 1)


def refuse(data):
    with pytest.raises(ScanError) as caught:
        read_scan(data, max_pixels=10**7)
    return caught.value.reason, str(caught.value)


def find_chunk(data):
    """Return the place and size of the first strip or tile."""
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    return page.dataoffsets[0], page.databytecounts[0]


class TestDepth:
    @pytest.mark.parametrize("bits", [2, 4, 6])
    @pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
    def test_grays_of_fewer_than_8_bits_reach_white(self, bits, photometric):
        levels = np.rint(CHEST / 255 * (2**bits - 1)).astype(np.uint8)
        stored = levels if photometric == "minisblack" else 2**bits - 1 - levels
        data = encode(stored, bitspersample=bits, photometric=photometric)
        np.testing.assert_allclose(shown(data), levels / (2**bits - 1), atol=1e-6)

    def test_one_bit_in_a_sub_directory_reaches_white(self):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(CHEST[::3, ::3], subifds=1, subfiletype=1, photometric="minisblack", metadata=None)
            writer.write(CHEST > 90, subfiletype=0, photometric="minisblack", metadata=None)
        np.testing.assert_array_equal(shown(buffer.getvalue()), CHEST > 90)

    def test_floats_of_16_bits_are_read_without_a_warning(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gray = shown(encode((CHEST / 255).astype(np.float16)))
        low, high = CHEST.min() / 255, CHEST.max() / 255
        np.testing.assert_allclose(gray, (CHEST / 255 - low) / (high - low), atol=2e-3)

    def test_a_palette_of_16_bits_is_shown_through_its_map(self):
        maps = np.stack([np.linspace(65535, 0, 65536).astype(np.uint16)] * 3)
        data = encode(CHEST.astype(np.uint16) * 257, photometric="palette", colormap=maps)
        np.testing.assert_allclose(shown(data), 1 - CHEST / 255, atol=1 / 255)

    def test_complex_numbers_are_refused_by_name(self):
        reason, text = refuse(encode(CHEST.astype(np.complex64)))
        assert (reason, "64 bits" in text) == (Reason.UNSUPPORTED_FORMAT, True)

    def test_jpeg_2000_beyond_16_bits_is_refused_since_its_decoder_is_inexact(self):
        reason, text = refuse(encode(CHEST.astype(np.uint32) << 24, compression="jpeg2000"))
        assert (reason, "JPEG2000" in text) == (Reason.UNSUPPORTED_FORMAT, True)

    @pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
    @pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_alpha_beside_gray_is_dropped(self, photometric, alpha, dtype):
        gray = CHEST.astype(dtype) * (np.iinfo(dtype).max // 255)
        pixels = np.stack([gray, np.full_like(gray, np.iinfo(dtype).max)], axis=-1)
        data = encode(pixels, photometric=photometric, extrasamples=[alpha], planarconfig="contig")
        np.testing.assert_allclose(
            shown(data), CHEST / 255 if photometric == "minisblack" else 1 - CHEST / 255, atol=1e-6
        )

    def test_a_color_map_of_8_bits_is_no_black_picture(self):
        data = encode(CHEST, photometric="palette", colormap=np.repeat(np.arange(256, dtype=np.uint16)[None], 3, 0))
        np.testing.assert_allclose(shown(data), CHEST / 255, atol=1e-6)

    def test_a_predictor_is_refused_where_the_standard_has_none(self):
        data = encode(CHEST, compression="packbits", predictor=True)
        reason, text = refuse(data)
        assert (reason, "PACKBITS (32773), predictor 2" in text) == (Reason.UNSUPPORTED_FORMAT, True)


class TestMissingStrips:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
    def test_a_page_without_its_last_strip_is_damaged(self, dtype, compression):
        data = bytearray(encode(CHEST.astype(dtype) * 16, rowsperstrip=16, compression=compression))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            tag = file.pages.first.tags["StripByteCounts"]
        assert tag.count == 8
        size = {3: 2, 4: 4}[tag.dtype]
        data[tag.valueoffset + 7 * size : tag.valueoffset + 8 * size] = bytes(size)
        assert refuse(bytes(data)) == (Reason.DAMAGED, "a strip or tile of the TIFF is missing")

    def test_a_page_that_lists_fewer_strips_than_it_has_rows_for_is_damaged(self):
        data = bytearray(encode(CHEST, rowsperstrip=16))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            entries = [file.pages.first.tags[name].offset for name in ("StripOffsets", "StripByteCounts")]
        for place in entries:
            struct.pack_into("<L", data, place + 4, 7)
        assert refuse(bytes(data)) == (Reason.DAMAGED, "a strip or tile of the TIFF is missing")


class TestSizesOfStrips:
    @staticmethod
    def change(data, tag, change):
        """Replace each value of a tag of the only page."""
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            found = file.pages.first.tags[tag]
        form = f"<{found.count}{'HL'[found.dtype == 4]}"
        changed, values = bytearray(data), struct.unpack_from(form, data, found.valueoffset)
        struct.pack_into(form, changed, found.valueoffset, *map(change, range(found.count), values))
        return bytes(changed)

    @pytest.mark.parametrize("rows", [120, 16])
    @pytest.mark.parametrize("bits", [8, 12, 16])
    @pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
    def test_a_byte_count_that_is_too_small_is_that_of_the_rows_at_any_depth(self, rows, bits, part):
        pixels = CHEST if bits == 8 else DEEP
        data = encode(pixels, rowsperstrip=rows, bitspersample=bits)
        data = self.change(data, "StripByteCounts", lambda _, size: int(size * part))
        np.testing.assert_allclose(shown(data), pixels / (255 if bits == 8 else 4095), atol=1e-6)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_strips_that_are_shorter_than_their_rows_are_damaged(self, dtype):
        data = encode(CHEST.astype(dtype), rowsperstrip=16)
        place, size = find_chunk(data)
        data = self.change(data, "StripByteCounts", lambda _, whole: whole // 2)
        data = self.change(data, "StripOffsets", lambda number, _: place + number * (size // 2))
        assert refuse(data) == (Reason.DAMAGED, "a strip or tile of the TIFF is shorter than its rows")

    def test_a_strip_that_ends_where_another_part_of_the_page_begins_is_damaged(self):
        data = bytearray(encode(CHEST.astype(np.uint16), extratags=[(700, 1, 9_000, bytes(9_000), True)]))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            tags = file.pages.first.tags
            entries = {name: tags[name].offset + 8 for name in ("StripOffsets", "StripByteCounts", "XMP")}
        size = 2 * CHEST.size - 1_000
        for name, value in (("StripOffsets", len(data)), ("StripByteCounts", size), ("XMP", len(data) + size)):
            struct.pack_into("<L", data, entries[name], value)
        assert refuse(bytes(data) + bytes(size) + bytes(9_000)) == (
            Reason.DAMAGED, "a strip or tile of the TIFF is shorter than its rows"
        )  # fmt: skip


class TestOrders:
    @pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw", "tile": (64, 64)}])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_a_bigtiff_is_read_in_either_order_of_bytes(self, options, order, dtype):
        data = encode(CHEST.astype(dtype), bigtiff=True, byteorder=order, **options)
        np.testing.assert_allclose(shown(data), CHEST / 255, atol=1e-6)

    @pytest.mark.parametrize(("number", "compress"), [(1, bytes), (5, imagecodecs.lzw_encode)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_bytes_whose_bits_are_reversed_are_read(self, number, compress, dtype):
        content = np.frombuffer(compress(CHEST.astype(dtype).tobytes()), np.uint8)
        reverse = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)
        height, width = CHEST.shape
        tags = {
            "256": width,
            "257": height,
            "258": 8 * np.dtype(dtype).itemsize,
            "259": number,
            "266": 2,
            "278": height,
        }
        np.testing.assert_allclose(shown(factories.encode_tiff(reverse[content][None], **tags)), CHEST / 255, atol=1e-6)


class TestPreviews:
    @staticmethod
    def write(*pages):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            for pixels, options in pages:
                writer.write(pixels, photometric="minisblack", metadata=None, **options)
        return buffer.getvalue()

    def test_a_page_that_is_smaller_than_its_subpage_is_a_preview_whatever_it_declares(self):
        data = self.write((CHEST[::3, ::3], {"subifds": 1}), (DEEP, {}))
        np.testing.assert_array_equal(read_scan(data, max_pixels=10**7).pixels, DEEP)

    @pytest.mark.parametrize("count", [1, 6])
    def test_previews_before_the_scan_are_passed_over(self, count):
        data = self.write(*[(CHEST[::3, ::3], {"subfiletype": 1})] * count, (CHEST, {}))
        np.testing.assert_array_equal(read_scan(data, max_pixels=10**7).pixels, CHEST)

    def test_a_scan_behind_more_previews_than_are_looked_at_is_refused_and_none_of_them_scored(self):
        data = self.write(*[(CHEST[::3, ::3], {"subfiletype": 1})] * 20, (CHEST, {}))
        assert refuse(data)[0] is Reason.MULTI_FRAME

    def test_smaller_subpages_of_a_scan_are_passed_over(self):
        data = self.write((CHEST, {"subifds": 2}), (CHEST[::2, ::2], {"subfiletype": 1}), (CHEST[::3, ::3], {}))
        np.testing.assert_array_equal(read_scan(data, max_pixels=10**7).pixels, CHEST)


class TestYcbcr:
    """Luma and chroma are shown as such only where a decoder converts them: in JPEG."""

    @pytest.mark.parametrize("options", [
        {}, {"compression": "zlib"}, {"compression": "zstd"}, {"planarconfig": "separate"}, {"dtype": np.uint16},
    ])  # fmt: skip
    def test_it_is_refused_by_name_in_other_compressions_than_jpeg(self, options):
        stored = np.stack([CHEST, np.full_like(CHEST, 128), np.full_like(CHEST, 128)], axis=2)
        stored = stored.astype(options.pop("dtype", np.uint8))
        stored = np.moveaxis(stored, -1, 0) if "planarconfig" in options else stored
        reason, text = refuse(encode(stored, photometric="ycbcr", subsampling=(1, 1), **options))
        assert (reason, "YCbCr" in text) == (Reason.UNSUPPORTED_FORMAT, True)

    @pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}, {"rowsperstrip": 16}])
    @pytest.mark.parametrize("bits", [8, 12])
    def test_it_is_read_in_jpeg(self, layout, bits):
        colors = COLORS if bits == 8 else COLORS.astype(np.uint16) * 16
        data = encode(colors, photometric="rgb", compression="jpeg", compressionargs={"level": 95}, **layout)
        assert tifffile.TiffFile(io.BytesIO(data)).pages.first.photometric == tifffile.PHOTOMETRIC.YCBCR
        np.testing.assert_allclose(shown(data), CHEST / 255, atol=0.08)
        assert np.abs(shown(data) - CHEST / 255).mean() < 0.01


@pytest.mark.parametrize("form", ["tiff", "png"])
@pytest.mark.parametrize("damage", ["cut", "bits"])
def test_a_damaged_png_never_reaches_the_decoder_that_would_keep_its_memory(form, damage, monkeypatch):
    """Found by fuzzing: imagecodecs frees no picture of a PNG that it cannot decode."""
    deep = np.stack([DEEP, DEEP], axis=2)
    data = bytearray(encode(DEEP, compression="png") if form == "tiff" else imagecodecs.png_encode(deep))
    place, size = find_chunk(bytes(data)) if form == "tiff" else (0, len(data))
    middle = place + size // 2
    data[middle : middle + 9] = b"" if damage == "cut" else b"\xff\xa0\x13\x91\xfe\xd0\0\xfa\xff"
    monkeypatch.setattr(imagecodecs, "png_decode", lambda *_, **__: pytest.fail("decoded"))
    assert refuse(bytes(data))[0] is Reason.DAMAGED


class TestWebp:
    @pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}, {"rowsperstrip": 17}])
    @pytest.mark.parametrize("channels", [3, 4])
    def test_lossless_strips_and_tiles_are_read(self, layout, channels):
        pixels = np.repeat(CHEST[..., None], channels, axis=2)
        pixels[..., 3:] = 255
        options = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        data = encode(
            pixels, photometric="rgb", compression="webp", compressionargs={"lossless": True}, **layout, **options
        )
        np.testing.assert_allclose(shown(data), CHEST / 255, atol=1e-6)

    def test_lossy_ones_are_refused_by_name(self):
        data = encode(COLORS, photometric="rgb", compression="webp", compressionargs={"lossless": False, "level": 80})
        reason, text = refuse(data)
        assert (reason, "lossy WebP" in text) == (Reason.UNSUPPORTED_FORMAT, True)

    @pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
    def test_a_cut_strip_is_damaged(self, left):
        data = bytearray(encode(COLORS, photometric="rgb", compression="webp"))
        place, size = find_chunk(bytes(data))
        del data[place + int(left * size) : place + size]
        assert refuse(bytes(data))[0] is Reason.DAMAGED

    def test_a_strip_of_more_pixels_than_the_page_is_not_decoded(self, monkeypatch):
        data = bytearray(encode(COLORS, photometric="rgb", compression="webp"))
        place, _ = find_chunk(bytes(data))
        data[place + 21 : place + 25] = b"\xff\xff\xff\x0f"
        monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("decoded"))
        assert refuse(bytes(data))[0] is Reason.DAMAGED


def test_jpeg_xr_is_refused_with_a_command_that_converts_it(tmp_path, monkeypatch):
    """Its decoder shows a cut picture without an error, and some damaged ones end the process."""
    data = encode(DEEP, compression="jpegxr")
    reason, text = refuse(data)
    assert (reason, "JPEGXR" in text) == (Reason.UNSUPPORTED_FORMAT, True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IN").write_bytes(data)
    exec(text.split('python -c "')[1].split('"')[0])
    np.testing.assert_array_equal(shown((tmp_path / "OUT.tif").read_bytes()), DEEP / 4095)


def pack(*codes):
    """Pack LZW codes of 9 bits."""
    bits = "".join(f"{code:09b}" for code in codes)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


class TestLzw:
    """Found by fuzzing: a code beyond the bytes, first after a Clear code, let the decoder follow stale addresses."""

    @pytest.mark.parametrize("size", [1, 2, 300, 5_000, 300_000])
    @pytest.mark.parametrize("levels", [1, 4, 256])
    def test_data_of_an_encoder_is_sound(self, size, levels):
        content = random.Random(size).choices(range(levels), k=size)
        assert lzw.is_sound(imagecodecs.lzw_encode(bytes(content)))
        buffer = io.BytesIO()
        Image.frombytes("L", (size, 1), bytes(content)).save(buffer, "TIFF", compression="tiff_lzw")
        place, length = find_chunk(buffer.getvalue())
        assert lzw.is_sound(buffer.getvalue()[place : place + length])

    @pytest.mark.parametrize("codes", [
        (256, 258), (256, 300, 1, 2), (256, 1, 2, 256, 400, 3), (1, 2, 3), (256, *range(200), 256, 258),
    ])  # fmt: skip
    def test_a_first_code_that_is_no_byte_is_unsound(self, codes):
        assert not lzw.is_sound(pack(*codes))

    @pytest.mark.parametrize("codes", [(256,), (256, 257), (256, 256, 7, 258, 257), (256, 1, 2)])
    def test_ends_and_repeated_clear_codes_are_sound(self, codes):
        assert lzw.is_sound(pack(*codes))

    def test_a_table_that_is_cleared_all_the_time_is_unsound(self):
        assert not lzw.is_sound(pack(*[256, 1] * 100_000))
        assert lzw.is_sound(pack(*[256, *range(200)] * 500))

    def test_an_unsound_strip_is_not_decoded(self, monkeypatch):
        data = bytearray(encode(DEEP, compression="lzw"))
        place, _ = find_chunk(bytes(data))
        data[place : place + 4] = pack(256, 300, 1)[:4]
        monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("decoded"))
        assert refuse(bytes(data)) == (Reason.DAMAGED, "the LZW data of the TIFF is damaged")

    def test_the_bit_order_of_before_1992_is_refused_by_name(self):
        data = bytearray(encode(DEEP, compression="lzw"))
        place, _ = find_chunk(bytes(data))
        data[place : place + 2] = struct.pack("<H", 256)
        assert refuse(bytes(data))[0] is Reason.UNSUPPORTED_FORMAT
