"""Charts hold numbers alone, whatever their title."""

from xml.etree import ElementTree as ET

import pytest

from worker.report.charts import draw_scores, draw_shares, draw_throughput

EDGES = [0.0, 0.5, 1.0]


def find(svg, name):
    return [element for element in ET.fromstring(svg).iter() if element.tag == name]


def test_a_bar_stands_for_each_bin_and_a_line_for_each_threshold():
    drawn = draw_scores(EDGES, [100, 4], {"low": 0.3, "high": 0.6}, "scores")
    low, high = (float(bar.get("height")) for bar in find(drawn, "rect"))
    assert low / high == pytest.approx(5, rel=0.01)  # square roots
    marks = [float(line.get("x1")) for line in find(drawn, "line") if line.get("class") == "mark"]
    assert marks == pytest.approx([0.3 * 720, 0.6 * 720], abs=0.1)


@pytest.mark.parametrize(
    "drawn",
    [
        draw_scores(EDGES, [0, 0], {}, "empty"),
        draw_throughput([], 0.0, "empty"),
        draw_throughput([3], 1.0, "one"),
        draw_shares(EDGES, [0.0, 0.0], [0.0, 0.0], "empty"),
    ],
)
def test_nothing_to_draw_is_a_chart_all_the_same(drawn):
    assert find(drawn, "title")[0].text


def test_a_title_is_text():
    drawn = draw_shares(EDGES, [0.5, 0.5], [0.2, 0.8], "<script>alert(1)</script>")
    assert find(drawn, "script") == []
    assert find(drawn, "title")[0].text == "<script>alert(1)</script>"
