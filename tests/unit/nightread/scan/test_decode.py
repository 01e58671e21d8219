import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from nightread.errors import ScanError, UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan import raster
from nightread.scan.decode import read_scan
from nightread.scan.formats import Format
from nightread.scan.raster import sample_jpeg_colors
from nightread.scan.scan import MIN_SIDE_PX, Scan
from tests import factories

MAX_PIXELS = 40_000_000


def read(data, **limits):
    return read_scan(data, **{"max_pixels": MAX_PIXELS, **limits})


def reason_of(data, **limits):
    with pytest.raises(ScanError) as caught:
        read(data, **limits)
    return caught.value.reason


@pytest.fixture(scope="module")
def chest():
    return factories.small_chest()


@pytest.fixture(scope="module")
def deep(chest):
    """12-bit pixels."""
    return (chest.astype(np.uint16) << 4) + 5


def shown(scan: Scan):
    """Gray levels as shown, 0 black to 1 white."""
    return (scan.pixels.astype(np.float64) - scan.black) / (scan.white - scan.black)


def test_a_scan_tells_format_and_stored_size(chest):
    scan = read(factories.encode_jpeg())

    assert (scan.format, scan.width_px, scan.height_px, scan.acquisition) == (Format.JPEG, 144, 120, None)
    assert scan.pixels.shape == chest.shape


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_8_bit_png_of_any_color_type_reads_as_its_gray(chest, mode):
    scan = read(factories.encode_image(Image.fromarray(chest).convert(mode)))

    assert np.abs(scan.pixels.astype(int) - chest).max() <= 1
    assert (scan.black, scan.white) == (0, 255)


def test_1_bit_png_is_black_and_white(chest):
    assert set(np.unique(read(factories.encode_image(Image.fromarray(chest > 99))).pixels)) == {0, 255}


def test_alpha_and_transparent_palettes_do_not_change_gray(chest):
    rgba = np.dstack([chest] * 3 + [np.arange(chest.size).reshape(chest.shape).astype(np.uint8)])

    assert (read(factories.encode_image(rgba)).pixels == chest).all()
    palette = Image.fromarray(chest).convert("P")
    assert np.abs(read(factories.encode_image(palette, transparency=3)).pixels.astype(int) - chest).max() <= 1


def test_colors_become_luma():
    colors = np.zeros((64, 64, 3), np.uint8)
    colors[:, :32, 1] = 255
    colors[:, 32:, 2] = 255

    assert np.unique(read(factories.encode_image(colors)).pixels).tolist() == [29, 150]


def test_16_bit_png_keeps_its_range(chest):
    scan = read(factories.encode_png16())

    assert scan.pixels.dtype == np.uint16
    assert (scan.pixels == chest.astype(np.uint16) * 257).all()
    assert (scan.black, scan.white) == (0, 65535)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_white_of_16_bit_png_is_that_of_the_bits_in_use(chest, bits):
    pixels = chest.astype(np.uint16) << (bits - 8)
    pixels[0, 0] = 2**bits - 1

    assert read(factories.encode_png16(pixels)).white == 2**bits - 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_of_both_byte_orders(chest, order, dtype):
    pixels = chest.astype(dtype) * (257 if dtype is np.uint16 else 1)

    scan = read(factories.encode_tiff(pixels, order=order))

    assert (scan.pixels == pixels).all()
    assert scan.format is Format.TIFF


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("orientation", [1, 3])
def test_white_is_zero_is_inverted(chest, dtype, orientation):
    pixels = (chest.astype(np.int64) * (257 if dtype is np.uint16 else 1)).astype(dtype)
    upright = chest[::-1, ::-1] if orientation == 3 else chest

    gray = shown(read(factories.encode_tiff(pixels, photometric=0, **{"274": orientation})))

    assert np.corrcoef(gray.ravel(), upright.ravel())[0, 1] < -0.999


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
def test_compressed_tiff(chest, compression):
    image = Image.fromarray(chest > 99) if compression == "group4" else Image.fromarray(chest)

    assert read(factories.encode_image(image, "TIFF", compression=compression)).pixels.shape == chest.shape


def test_float_tiff_spans_its_own_extremes_and_nan_is_a_black_border(chest):
    pixels = chest.astype(np.float32) / 7
    scan = read(factories.encode_tiff(pixels))
    assert (scan.black, scan.white) == (pixels.min(), pixels.max())

    pixels[:, :9] = np.nan  # a border
    bordered = read(factories.encode_tiff(pixels))
    assert (bordered.pixels[:, :9] == bordered.black).all()
    pixels[3, 30] = 3e38  # stands for no value
    bordered = read(factories.encode_tiff(pixels))
    assert bordered.pixels[3, 30] == bordered.black


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("at_least_px", [0, 32])
def test_a_photographed_film_is_turned_upright(chest, orientation, at_least_px):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: chest, 2: chest[:, ::-1], 3: chest[::-1, ::-1], 4: chest[::-1],
        5: chest.T, 6: np.rot90(chest, 1), 7: chest[::-1, ::-1].T, 8: np.rot90(chest, -1),
    }[orientation]  # fmt: skip
    data = factories.encode_jpeg(np.ascontiguousarray(turned), exif=exif)

    scan = read(data, at_least_px=at_least_px)

    upright = chest if scan.scale == 1 else chest.reshape(60, 2, 72, 2).mean((1, 3))
    assert scan.pixels.shape == upright.shape or orientation == 1
    if scan.pixels.shape == upright.shape:
        assert np.abs(scan.pixels.astype(int) - upright).mean() < 4


def test_cmyk_is_refused(chest):
    assert reason_of(factories.encode_jpeg(Image.fromarray(chest).convert("CMYK"))) is Reason.UNSUPPORTED_FORMAT


def test_several_frames_or_pages_are_refused(chest):
    other = Image.fromarray(255 - chest)
    assert reason_of(factories.encode_image(save_all=True, append_images=[other])) is Reason.MULTI_FRAME  # APNG
    assert reason_of(factories.encode_tiff(chest, pages=2)) is Reason.MULTI_FRAME
    assert reason_of(factories.encode_image(kind="TIFF", save_all=True, append_images=[other])) is Reason.MULTI_FRAME
    assert reason_of(factories.encode_image(kind="MPO", save_all=True, append_images=[other])) is Reason.MULTI_FRAME


def test_a_tiff_of_endless_pages_is_refused_after_the_first(chest):
    assert reason_of(factories.encode_tiff(chest[:40, :40], pages=5000)) is Reason.MULTI_FRAME


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "JPEG2000"])
def test_other_image_formats_are_refused_by_name(kind):
    assert reason_of(factories.encode_image(kind=kind)) is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n", Reason.UNSUPPORTED_FORMAT),
        (b"8BPS\0\x01" + b"\0" * 6 + struct.pack(">HIIHH", 1, 99, 99, 8, 1) + b"\0" * 9999, Reason.UNSUPPORTED_FORMAT),
        (b"SIMPLE  =                    T" + b" " * 3000, Reason.UNSUPPORTED_FORMAT),
        (b"DDS |\0\0\0" + b"\0" * 300, Reason.UNSUPPORTED_FORMAT),
        (b"This is no image.\n", Reason.NOT_AN_IMAGE),
        (b"", Reason.NOT_AN_IMAGE),
    ],
    ids=["eps", "psd", "fits", "dds", "text", "empty"],
)
def test_no_other_parser_of_pillow_sees_the_bytes(monkeypatch, data, reason):
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("Pillow was asked"))

    assert reason_of(data) is reason


@pytest.mark.parametrize("magic", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*"])
def test_a_magic_number_alone_is_damage_and_opens_no_other_parser(magic):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n"

    assert reason_of(magic + eps) is Reason.DAMAGED


def test_truncated_images_are_not_tolerated_by_pillow():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def cuttable():
    chest = factories.small_chest()
    deep = chest.astype(np.uint16) * 257
    return {
        "jpeg": factories.encode_jpeg(chest),
        "jpeg-rgb": factories.encode_jpeg(Image.fromarray(chest).convert("RGB")),
        "jpeg-progressive": factories.encode_jpeg(chest, progressive=True),
        "jpeg-restarts": factories.encode_jpeg(chest, restart_marker_rows=1),
        "png": factories.encode_image(chest),
        "png-16": factories.encode_png16(chest),
        "png-palette": factories.encode_image(Image.fromarray(chest).convert("P")),
        "tiff": factories.encode_tiff(chest),
        "tiff-16-big": factories.encode_tiff(deep, order=">"),
        "tiff-lzw": factories.encode_image(chest, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": factories.encode_image(chest, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": factories.encode_image(chest, "TIFF", compression="jpeg"),
    }


@pytest.mark.parametrize("at_least_px", [0, 40])
@pytest.mark.parametrize("name", list(cuttable()))
def test_a_file_cut_anywhere_is_damaged_or_reads_exactly_as_the_whole(name, at_least_px):
    data = cuttable()[name]
    whole = read(data, at_least_px=at_least_px).pixels
    cuts = [len(data) * percent // 100 for percent in range(5, 100, 5)] + [len(data) - n for n in range(1, 64)]

    for cut in cuts:
        try:
            scan = read(data[:cut], at_least_px=at_least_px)
        except ScanError as error:
            assert error.reason is Reason.DAMAGED  # noqa: PT017
        else:
            assert np.array_equal(scan.pixels, whole), f"cut to {cut} of {len(data)} bytes"


@pytest.mark.parametrize("name", ["jpeg", "jpeg-rgb", "jpeg-restarts"])
@pytest.mark.parametrize("at_least_px", [0, 40])
@pytest.mark.parametrize("percent", range(20, 85, 5))
def test_a_jpeg_that_was_cut_and_closed_again_is_damaged(name, percent, at_least_px):
    data = cuttable()[name]

    assert reason_of(data[: len(data) * percent // 100] + b"\xff\xd9", at_least_px=at_least_px) is Reason.DAMAGED


def test_a_jpeg_with_a_mid_gray_border_that_is_not_the_whole_bottom_is_read(chest):
    bordered = np.pad(chest, 24, constant_values=126)

    assert read(factories.encode_jpeg(bordered)).pixels.shape == bordered.shape


def test_a_flipped_bit_in_png_pixels_never_passes(chest):
    data = factories.encode_png16(chest)
    start = data.index(b"IDAT") + 4

    for position in range(start, len(data) - 16, (len(data) - start) // 97):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        try:
            scan = read(bytes(flipped))
        except ScanError as error:
            assert error.reason is Reason.DAMAGED  # noqa: PT017
        else:
            assert (scan.pixels == chest.astype(np.uint16) * 257).all()


@pytest.mark.parametrize("name", list(cuttable()))
def test_random_damage_raises_nothing_but_a_scan_error(name):
    data = cuttable()[name]
    random = np.random.default_rng(len(name))

    for _ in range(120):
        damaged = bytearray(data)
        for position in random.integers(0, min(len(data), random.choice([200, len(data)])), random.integers(1, 9)):
            damaged[position] = random.integers(256)
        try:
            scan = read(bytes(damaged), max_pixels=1_000_000)
        except ScanError:
            continue
        assert scan.black != scan.white


def test_a_png_of_40000_by_40000_pixels_is_refused_from_its_header():
    tracemalloc.start()
    try:
        assert reason_of(factories.encode_huge_png(40_000, 40_000)) is Reason.TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


_PEAK = """
import resource, sys
from nightread.errors import ScanError
from nightread.scan.decode import read_scan
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_scan(data, max_pixels=40_000_000)
except ScanError as error:
    print(error.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def run_python(code, stdin=b"", *options):
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        input=stdin,
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )


@pytest.mark.parametrize("side_px", [13_000])
def test_a_compressed_bomb_is_refused_from_its_header_in_little_memory(side_px):
    row = zlib.compressobj(9)
    idat = b"".join(row.compress(b"\0" * (side_px + 1)) for _ in range(side_px)) + row.flush()

    reason, grown_kib = run_python(_PEAK, factories.encode_huge_png(side_px, side_px, idat=idat)).stdout.split()

    assert reason == b"too-large"
    assert int(grown_kib) < 20_000


def test_the_operator_sets_the_largest_size(chest):
    assert reason_of(factories.encode_jpeg(), max_pixels=144 * 120 - 1) is Reason.TOO_LARGE
    assert read(factories.encode_jpeg(), max_pixels=144 * 120).pixels.shape == chest.shape


def test_a_pixel_or_an_icon_is_no_radiograph():
    assert reason_of(factories.encode_image(np.zeros((1, 1), np.uint8))) is Reason.TOO_SMALL
    icon = factories.draw_chest(0, MIN_SIDE_PX, MIN_SIDE_PX)
    assert reason_of(factories.encode_image(icon[1:])) is Reason.TOO_SMALL
    assert read(factories.encode_image(icon)).pixels.shape == (MIN_SIDE_PX, MIN_SIDE_PX)


@pytest.mark.parametrize("level", [0, 99, 255])
def test_a_scan_of_one_gray_is_blank(level):
    assert reason_of(factories.encode_image(np.full((64, 64), level, np.uint8))) is Reason.BLANK


@pytest.mark.parametrize("size", [(848, 1268), (1021, 777), (301, 2000), (2000, 301)])
@pytest.mark.parametrize("at_least_px", [75, 150, 448])
def test_scaled_decoding_never_falls_below_what_was_asked_for(size, at_least_px):
    scan = read(factories.encode_jpeg(factories.draw_chest(0, *size)), at_least_px=at_least_px)

    assert min(scan.pixels.shape) >= min(at_least_px, *size)
    assert scan.scale in {1, 2, 4, 8}
    assert scan.pixels.shape == tuple(-(-side // scan.scale) for side in size)
    assert (scan.height_px, scan.width_px) == size


@pytest.mark.parametrize("kind", ["L", "RGB"])
def test_scaled_decoding_of_color_jpeg_gives_the_same_gray(kind):
    data = factories.encode_jpeg(Image.fromarray(factories.draw_chest(0, 400, 480)).convert(kind))
    full, half = read(data), read(data, at_least_px=200)

    assert half.scale == 2
    assert np.abs(full.pixels.reshape(200, 2, 240, 2).mean((1, 3)) - half.pixels).max() < 3


def test_messages_hold_nothing_of_the_file():
    secret = b"CANARY^PATIENT"
    for data in (
        secret * 99,
        b"\x89PNG\r\n\x1a\n" + secret * 99,
        b"\xff\xd8\xff\xe0" + secret * 99,
        b"II*\0" + secret * 99,
    ):
        with pytest.raises((UnreadableScan, UnsupportedScan)) as caught:
            read(data)
        assert "CANARY" not in str(caught.value)


_NOISY = """
import logging, sys
import nightread.scan.dicom
from nightread.errors import ScanError
from nightread.scan.decode import read_scan
logging.basicConfig(level=logging.DEBUG)
data = sys.stdin.buffer.read()
for cut in range(len(data) // 2, len(data), max(1, len(data) // 60)):
    try:
        read_scan(data[:cut], max_pixels=40_000_000)
    except ScanError:
        pass
"""


@pytest.mark.parametrize(
    "data",
    [
        factories.encode_image(kind="TIFF", compression="jpeg", tiffinfo={270: "CANARY^PATIENT"}),
        factories.encode_image(kind="TIFF", compression="tiff_lzw", tiffinfo={270: "CANARY^PATIENT"}),
        factories.encode_image(pnginfo=None),
        factories.encode_dicom(WindowCenter="1.25", WindowWidth="2.25")
        .replace(b"1.2.826.0.1.3680043.8.498.2", b"CANARY^PATIENT^^^^^^^^^^^^^")
        .replace(b"1.25", b"CA^T"),
    ],
    ids=["tiff-jpeg", "tiff-lzw", "png", "dicom"],
)
def test_decoders_write_nothing_of_damaged_files_to_stderr_or_the_log(data):
    assert run_python(_NOISY, data, "-Wdefault").stderr == b""


@pytest.mark.skipif("NIGHTREAD_TEST_DATA" not in os.environ, reason="NIGHTREAD_TEST_DATA is not set")
def test_real_scans_are_read():
    paths = sorted((Path(os.environ["NIGHTREAD_TEST_DATA"]) / "nightly").glob("*/*"))[::12]

    assert paths
    for path in paths:
        scan = read(path.read_bytes(), at_least_px=150)
        assert min(scan.pixels.shape) >= 150


class TestColors:
    """A sample of the colors, taken beside the gray pixels."""

    @staticmethod
    def read_both(data, **options):
        plain, colored = read(data, **options), read(data, with_colors=True, **options)
        np.testing.assert_array_equal(plain.pixels, colored.pixels)
        assert plain.colors is None
        return colored.colors

    @pytest.mark.parametrize("encode", [factories.encode_image, factories.encode_jpeg])
    def test_a_file_that_stores_gray_has_none(self, chest, encode):
        assert self.read_both(encode(chest)) is None
        assert self.read_both(encode(chest), at_least_px=64) is None

    @pytest.mark.parametrize("encode", [factories.encode_image, factories.encode_jpeg])
    def test_gray_that_is_stored_as_rgb_has_no_chroma(self, encode):
        colors = self.read_both(
            encode(Image.fromarray(factories.draw_chest(1, 480, 560)).convert("RGB")), at_least_px=64
        )
        assert colors.shape == (64, 64, 3)
        assert (colors[:, :, 1:] == 128).all()
        assert colors[:, :, 0].std() > 20

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
    def test_red_is_found_in_every_color_mode(self, mode):
        image = Image.new("RGB", (200, 100), (200, 20, 20))
        image.paste((230, 20, 20), (0, 0, 100, 100))
        colors = self.read_both(factories.encode_image(image.convert(mode)))
        assert colors[:, :, 2].mean() > 180  # a palette mixes its colors from points

    def test_red_is_found_in_a_jpeg_that_is_decoded_at_a_smaller_scale(self):
        red = np.full((800, 900, 3), (200, 20, 20), np.uint8)
        red[:400] = 90
        colors = self.read_both(factories.encode_jpeg(red), at_least_px=100)
        assert (colors[40:, :, 2] > 180).all()
        assert (np.abs(colors[:24, :, 1:].astype(int) - 128) <= 2).all()

    @pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}])
    @pytest.mark.parametrize("at_least_px", [60, 110, 220, 800])
    def test_a_jpeg_with_luma_and_chroma_is_decoded_once(self, options, at_least_px, monkeypatch):
        data = factories.encode_jpeg(_draw_colored(), **options)
        wanted = sample_jpeg_colors(data)
        monkeypatch.setattr(raster, "sample_jpeg_colors", None)
        colors = self.read_both(data, at_least_px=at_least_px)
        assert np.abs(colors.astype(int) - wanted).mean() < 1.5

    @pytest.mark.parametrize("options", [{"keep_rgb": True}, {"exif": b"Exif\0\0"}])
    def test_a_jpeg_in_rgb_or_without_a_marker_of_its_colors_is_read_as_well(self, options):
        data = factories.encode_jpeg(_draw_colored(), **options)
        data = data if options.get("keep_rgb") else data[:2] + data[data.index(b"\xff\xe1") :]
        colors = self.read_both(data, at_least_px=100)
        np.testing.assert_array_equal(colors, sample_jpeg_colors(data))


def _draw_colored():
    """Return (800, 900, 3): a chest, of which one quarter is red and one is blue."""
    pixels = np.repeat(factories.draw_chest(3, 800, 900)[:, :, np.newaxis], 3, axis=2)
    pixels[:400, :450, 1:] //= 2
    pixels[400:, 450:, :2] //= 2
    return pixels
