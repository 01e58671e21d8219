"""Each rule of the input gate detects its target, and radiographs pass in every file format."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from nightread.model.card import Gate, Metric
from nightread.model.gate import (
    PASSED,
    VARIANTS,
    check_pixels,
    choose_variants,
    judge_distance,
    judge_scans,
    make_variant,
    restore_finding,
)
from nightread.reasons import Reason
from nightread.scan.decode import read_scan
from nightread.scan.preprocessing import InputSpec
from tests.factories import draw_chest, encode_dicom, encode_image, encode_jpeg, encode_png16

GATE = Gate(
    max_distance=2.0, doubtful_distance=1.2, max_aspect_ratio=4.0, false_rejection=Metric(value=0.0, low=0.0, high=0.01)
)
SPEC = InputSpec(height_px=32, width_px=32, channels=1)


def check(data, **gate):
    scan = read_scan(data, max_pixels=10_000_000, at_least_px=128, with_colors=True)
    return check_pixels(scan, GATE.model_copy(update=gate))


def find_reason(data, **gate):
    finding = check(data, **gate)
    return None if finding is None else finding.reason


def color_chest(**bands):
    """A drawn chest as RGB, each band multiplied by a factor."""
    chest = draw_chest(1, 480, 560).astype(np.float32)
    factors = [bands.get(band, 1.0) for band in ("red", "green", "blue")]
    return np.stack([chest * factor for factor in factors], axis=2).clip(0, 255).astype(np.uint8)


def draw_photograph():
    """Sky, meadow and a red house."""
    image = Image.new("RGB", (640, 480), (110, 160, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 300, 640, 480), fill=(70, 140, 50))
    draw.rectangle((200, 180, 420, 360), fill=(170, 50, 40))
    noise = np.random.default_rng(0).normal(0, 8, (480, 640, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def draw_page(paper=255, ink=0, size=(850, 1100)):
    image = Image.new("L", size, paper)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    for line in range(35):
        draw.text((60, 60 + 28 * line), "the quick brown fox jumps over the lazy dog " * 2, fill=ink, font=font)
    return image


class TestChestsPass:
    @pytest.mark.parametrize("encode", [encode_image, encode_jpeg, encode_png16, encode_dicom])
    def test_in_every_format(self, encode):
        for seed in range(5):
            assert check(encode(draw_chest(seed, 480, 560))) is None

    def test_saved_as_rgb_which_has_no_color(self):
        assert check(encode_image(color_chest())) is None
        assert check(encode_jpeg(color_chest())) is None

    def test_with_the_tint_of_a_film(self):
        assert check(encode_image(color_chest(red=0.85, blue=1.1))) is None

    def test_with_a_red_arrow_drawn_into_it(self):
        image = Image.fromarray(color_chest())
        ImageDraw.Draw(image).line([(100, 100), (200, 200)], fill=(255, 0, 0), width=12)
        assert check(encode_image(image)) is None

    def test_collimated_so_that_most_of_it_is_black(self):
        pixels = np.zeros((900, 1000), np.uint8)
        pixels[200:680, 200:760] = draw_chest(2, 480, 560)
        assert check(encode_image(pixels)) is None

    def test_in_a_gray_frame(self):
        pixels = np.full((640, 720), 90, np.uint8)
        pixels[80:560, 80:640] = draw_chest(2, 480, 560)
        assert check(encode_image(pixels)) is None

    def test_inverted_which_only_its_embedding_can_tell(self):
        assert check(encode_image(255 - draw_chest(1, 480, 560))) is None

    def test_of_the_real_data(self, real_data):
        files = sorted(real_data.glob("nightly/ward-2/*")) + sorted(real_data.glob("covid-chestxray/images/*"))[:100]
        assert len(files) > 150
        assert [file.name for file in files if check(file.read_bytes()) is not None] == []


class TestColors:
    @pytest.mark.parametrize("encode", [encode_image, encode_jpeg])
    def test_a_color_photograph_is_found(self, encode):
        assert find_reason(encode(draw_photograph())) is Reason.COLOR_PHOTOGRAPH

    def test_a_color_photograph_in_a_dicom_file_is_found(self):
        colors = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
        assert find_reason(encode_dicom(draw_photograph(), **colors)) is Reason.COLOR_PHOTOGRAPH

    def test_a_picture_of_one_strong_color_is_found(self):
        assert find_reason(encode_image(color_chest(red=1.0, green=0.3, blue=0.3))) is Reason.COLOR_PHOTOGRAPH

    def test_a_photograph_without_its_colors_is_left_to_the_embedding(self):
        assert find_reason(encode_image(Image.fromarray(draw_photograph()).convert("L"))) is None


class TestDocuments:
    @pytest.mark.parametrize("encode", [encode_image, encode_jpeg])
    def test_a_page_of_text_is_found(self, encode):
        assert find_reason(encode(draw_page())) is Reason.DOCUMENT

    def test_a_page_in_dark_colors_is_found(self):
        assert find_reason(encode_image(draw_page(paper=30, ink=220))) is Reason.DOCUMENT

    def test_a_page_of_16_bits_is_found(self):
        assert find_reason(encode_png16(np.asarray(draw_page()))) is Reason.DOCUMENT

    def test_a_screenshot_of_flat_panels_is_found(self):
        image = Image.new("RGB", (1024, 768), "#f0f0f0")
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 1024, 48), fill="#0078d4")
        for place in range(12):
            draw.rectangle((30 + 80 * place, 300, 80 + 80 * place, 700), fill="#c0c0c0", outline="#404040")
        assert find_reason(encode_image(image)) is Reason.DOCUMENT


class TestShape:
    def test_a_strip_is_found_whichever_way_it_lies(self):
        strip = draw_chest(1, 100, 700)
        for pixels in (strip, strip.T):
            finding = check(encode_image(np.ascontiguousarray(pixels)))
            assert finding is not None
            assert finding.reason is Reason.ASPECT_RATIO
            assert "7.0 times" in finding.text

    def test_the_card_says_how_long_a_side_may_be(self):
        strip = encode_image(draw_chest(1, 100, 700))
        assert find_reason(strip, max_aspect_ratio=8.0) is None


class TestDistance:
    @staticmethod
    def judge(distance, measure=None):
        """Judge a scan with this distance; without `measure`, no variant may be measured."""
        tensors = [np.zeros((32, 32, 1), np.float32)]
        (finding,) = judge_scans(
            tensors,
            [distance],
            None,
            spec=SPEC,
            gate=GATE,
            measure=measure and (lambda scans: list(map(measure, scans))),
        )
        return finding

    def test_a_scan_that_is_not_doubtful_passes_unlooked_at(self):
        assert self.judge(1.2) is None

    def test_a_doubtful_scan_passes_where_no_variant_is_nearer(self):
        assert self.judge(1.9, lambda scan: 2.5) is None
        assert self.judge(1.9, lambda scan: 1.8) is None

    def test_a_far_scan_is_no_chest_xray(self):
        finding = self.judge(2.01, lambda scan: 2.5)
        assert finding.reason is Reason.NOT_A_CHEST_XRAY
        assert "2.01" in finding.text
        assert "2.00" in finding.text

    @pytest.mark.parametrize("distance", [float("nan"), float("inf")])
    def test_a_distance_that_is_no_number_is_far(self, distance):
        assert self.judge(distance, lambda scan: distance).reason is Reason.NOT_A_CHEST_XRAY

    def test_a_doubtful_scan_that_is_nearer_inverted_is_told_so(self):
        finding = self.judge(1.5, lambda scan: 1.0 if scan.max() == 1 else 2.5)  # the scan itself is black
        assert finding.reason is Reason.INVERTED
        assert "1.00" in finding.text

    def test_a_doubtful_scan_that_is_nearer_turned_is_told_how(self):
        finding = judge_distance(
            1.8, {"inverted": 1.7, "turned by 90 degrees": 1.0, "turned by 180 degrees": 1.4}, GATE
        )
        assert finding.reason is Reason.ROTATED
        assert "turned by 90 degrees" in finding.text

    def test_a_variant_that_is_far_itself_explains_nothing(self):
        assert judge_distance(9.0, {"inverted": 2.1}, GATE).reason is Reason.NOT_A_CHEST_XRAY
        assert judge_distance(9.0, {"inverted": float("nan")}, GATE).reason is Reason.NOT_A_CHEST_XRAY

    def test_variants_are_the_inverted_and_the_turned_scan(self):
        tensor = np.random.default_rng(0).random((32, 32, 1), np.float32)
        variants = {name: make_variant(tensor, name, SPEC) for name in VARIANTS}
        np.testing.assert_allclose(variants["inverted"], 1 - tensor, atol=1e-6)
        image = Image.fromarray(tensor[:, :, 0])
        for degrees, turn in ((90, Image.Transpose.ROTATE_270), (180, Image.Transpose.ROTATE_180),
                              (270, Image.Transpose.ROTATE_90)):  # fmt: skip
            turned = np.asarray(image.transpose(turn))
            np.testing.assert_array_equal(variants[f"turned by {degrees} degrees"][:, :, 0], turned)

    def test_inverting_keeps_to_the_value_range(self):
        spec = InputSpec(height_px=32, width_px=32, channels=1, value_range=(-1.0, 0.5))
        inverted = make_variant(np.full((32, 32, 1), -1.0, np.float32), "inverted", spec)
        assert (inverted == 0.5).all()

    def test_variants_of_an_input_that_is_no_square_have_its_shape(self):
        spec = InputSpec(height_px=24, width_px=40, channels=3)
        tensor = np.zeros((24, 40, 3), np.float32)
        assert {make_variant(tensor, name, spec).shape for name in VARIANTS} == {(24, 40, 3)}

    def test_the_variants_of_several_scans_are_measured_together_and_told_apart(self):
        tensors = [np.full((32, 32, 1), gray, np.float32) for gray in (0.0, 0.5, 0.9)]
        batches = []

        def measure(scans):
            batches.append(len(scans))
            return [1.0 if scan.mean() > 0.99 else 2.5 for scan in scans]

        findings = judge_scans(tensors, [1.8, 1.0, 1.8], None, spec=SPEC, gate=GATE, measure=measure)
        assert [finding and finding.reason for finding in findings] == [Reason.INVERTED, None, None]
        assert batches == [8]


class TestPlacement:
    @pytest.mark.parametrize(
        ("logits", "names"),
        [
            ([5.0, -3, -3, -3, -3], []),
            ([0.0, 4, -3, -3, -3], list(VARIANTS)),
            ([0.0, -3, -0.5, -3, -3], list(VARIANTS)),
            ([float("nan")] * 5, list(VARIANTS)),
        ],
    )
    def test_a_doubtful_scan_that_looks_upright_is_not_measured_again(self, logits, names):
        assert choose_variants(1.8, GATE, logits) == names

    def test_a_scan_that_is_not_doubtful_is_not_measured_again(self):
        assert choose_variants(1.0, GATE, [0.0, 9, 9, 9, 9]) == []

    def test_without_a_placement_every_variant_is_measured(self):
        assert choose_variants(1.8, GATE) == list(VARIANTS)


def test_every_reason_of_the_gate_is_a_rejection_and_names_the_way_around_it():
    findings = [
        check(encode_image(draw_photograph())), check(encode_image(draw_page())),
        check(encode_image(draw_chest(1, 100, 700))), judge_distance(4.0, {}, GATE),
        judge_distance(4.0, {"inverted": 1.0}, GATE), judge_distance(4.0, {"turned by 90 degrees": 1.0}, GATE),
    ]  # fmt: skip
    assert len({finding.reason for finding in findings}) == 6
    for finding in findings:
        assert finding.reason.is_rejection
        assert "--no-gate" in finding.text
        assert len(finding.text) < 300


def test_a_stored_verdict_is_recalled_with_its_reason():
    assert restore_finding(PASSED) is None
    finding = restore_finding("document")
    assert finding is not None
    assert finding.reason is Reason.DOCUMENT
    assert "--no-gate" in finding.text
