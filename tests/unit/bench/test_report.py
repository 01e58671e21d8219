"""The parts of `bench` that need no measurement: its scans, its figures and its picture."""

import hashlib
import re
from io import StringIO
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from bench.chart import draw_chart
from bench.report import Rounds, describe
from bench.scans import BenchScans, write_bench_scans
from bench.stages import StageRates
from bench.ways import Scored
from cli.commands.bench import make_bench_table
from nightread.errors import NightreadError
from nightread.scan.decode import read_scan
from tests.factories import encode_dicom, encode_jpeg, encode_png16, small_chest

MOST_BYTES = 10**7
RATES = {
    "read": 1000.0,
    "hash": 1000.0,
    "decode": 300.0,
    "prepare": 600.0,
    "infer": 200.0,
    "commit": 50.0,
    "loop": 95.0,
}


class TestScans:
    @pytest.fixture
    def night(self, tmp_path):
        folder = tmp_path / "night"
        folder.mkdir()
        (folder / "a.jpg").write_bytes(encode_jpeg(small_chest(1)))
        (folder / "b.png").write_bytes(encode_png16(small_chest(2)))
        (folder / "c.dcm").write_bytes(encode_dicom(small_chest(3)))
        (folder / "notes.txt").write_text("no scan")
        return folder

    def test_each_is_another_content_and_the_same_picture(self, night, tmp_path):
        scans = write_bench_scans(night, tmp_path / "scans", 8, MOST_BYTES)
        contents = [path.read_bytes() for path in scans.paths]
        assert (len(contents), scans.different, scans.is_drawn) == (8, 3, False)
        assert len({hashlib.sha256(data).digest() for data in contents}) == 8
        assert sum(map(len, contents)) == scans.total_bytes
        pictures = [read_scan(data, max_pixels=10**6).pixels.tobytes() for data in contents]
        assert len(set(pictures)) == 3

    def test_no_more_are_taken_than_asked_for(self, night, tmp_path):
        assert len(write_bench_scans(night, tmp_path / "scans", 2, MOST_BYTES).paths) == 2

    def test_dicom_is_not_repeated(self, night, tmp_path):
        (night / "a.jpg").unlink()
        (night / "b.png").unlink()
        assert len(write_bench_scans(night, tmp_path / "scans", 8, MOST_BYTES).paths) == 1

    def test_a_folder_without_scans_is_refused(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(NightreadError, match="no scans in"):
            write_bench_scans(tmp_path / "empty", tmp_path / "scans", 8, MOST_BYTES)

    def test_without_a_folder_they_are_drawn_at_full_resolution(self, tmp_path):
        scans = write_bench_scans(None, tmp_path / "scans", 2, MOST_BYTES)
        assert scans.is_drawn
        sizes = {(scan.width_px, scan.height_px) for scan in map(read_it, scans.paths)}
        assert sizes == {(1268, 848)}


def read_it(path):
    return read_scan(path.read_bytes(), max_pixels=10**7)


@pytest.fixture
def measured(tmp_path):
    rounds = Rounds(
        stages=[StageRates(RATES, 2, 8)] * 3,
        embedded=[Scored(90, 0, seconds, seconds + 0.5) for seconds in (0.9, 1.0, 9.0)],
        reused=[Scored(90, 90, 0.25, 0.5)] * 3,
        workers={1: [40.0, 45.0, 50.0], 2: [81.0]},
        loads=[0.1, 0.2, 0.3],
    )
    scans = BenchScans(tmp_path, [tmp_path / str(number) for number in range(90)], 30, 9_000, is_drawn=False)
    return describe(rounds, scans, model="m@1", provider="P", servers="some", not_measured=[])


class TestFigures:
    def test_are_medians_and_shares_of_the_limit_of_the_same_rounds(self, measured):
        assert measured["limit"] == 100.0
        assert measured["loop"] == {"scans_per_second": 95.0, "ratio": 0.95}
        assert measured["embedded"] == {
            "scans_per_second": 90.0, "ratio": 0.9, "whole_process_scans_per_second": 60.0,
            "whole_process_ratio": 0.6, "start_and_end_s": 0.5,
        }  # fmt: skip
        assert measured["reuse"] == {"scans_per_second": 360.0, "ratio": 0.72, "reused": 90}

    def test_of_workers_are_held_against_the_limit_of_their_cores(self, measured):
        assert measured["workers"] == [
            {"workers": 1, "scans_per_second": 45.0, "ratio": 0.9, "times_one": 1.0},
            {"workers": 2, "scans_per_second": 81.0, "ratio": 0.81, "times_one": 1.8},
        ]

    def test_are_told_to_people_line_by_line(self, measured):
        console = Console(width=200, file=StringIO())
        console.print(make_bench_table(measured))
        rows = [re.split(r" {2,}", line.strip()) for line in console.file.getvalue().splitlines()]
        names = [row[0] for row in rows]
        told = ["read", "hash", "decode", "prepare", "infer", "commit", "limit", "loop", "score", "score, with start",
                "score again", "1 worker", "2 workers"]  # fmt: skip
        assert [name for name in names if name in told] == told
        assert [row[2] for row in rows if row[0] in told[-2:]] == ["0.90", "0.81"]


class TestPicture:
    def test_is_svg_whose_bars_are_as_long_as_their_figures(self, measured):
        root = ET.fromstring(draw_chart(measured))
        bars = {
            bar[0].text.partition(":")[0]: float(bar.get("width"))
            for bar in root.iter("{http://www.w3.org/2000/svg}rect")
            if len(bar) and ":" in bar[0].text
        }
        assert bars["score"] / bars["limit"] == pytest.approx(0.9, abs=0.01)
        assert bars["decode"] / bars["prepare"] == pytest.approx(2.0, abs=0.01)
        assert bars["commit"] / bars["decode"] == pytest.approx((1000 / 50) / (2 * 1000 / 300), abs=0.01)

    def test_says_names_as_they_are(self, measured):
        assert "a&lt;b" in draw_chart({**measured, "model": "a<b"})

    def test_is_drawn_without_workers_too(self, measured):
        assert "worker" not in draw_chart({**measured, "workers": []})
