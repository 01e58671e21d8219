"""Chart of a measurement, as SVG: core time of each stage, and speed of each way compared with the limit."""

# Drawn by hand: matplotlib and what it needs would add 55 MB to every installation, or an extra for one picture of
# bars, and would save 50 lines.

from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape

_WIDTH: Final = 860
_LEFT: Final = 150
_BAR_WIDTH: Final = 560
_ROW: Final = 34
_BAR_HEIGHT: Final = 20
#: Color of each stage; distinguishable in print and for color-blind readers (Okabe and Ito).
_COLORS: Final = {
    "read": "#56b4e9", "hash": "#0072b2", "decode": "#e69f00", "prepare": "#f0e442", "infer": "#009e73",
    "commit": "#cc79a7",
}  # fmt: skip
_WAY_COLOR: Final = "#5f6b7a"
_LIMIT_COLOR: Final = "#d55e00"
_TICK_STEPS: Final = (1, 2, 2.5, 5, 10)
_NARROW: Final = 0.06


def draw_chart(measured: Mapping[str, Any]) -> str:
    """Draw a measurement, as `bench.report.describe` returns it, as SVG."""
    times = {
        # One process commits, on any number of cores.
        stage: 1000 * (1 if stage == "commit" else measured["processes"]) / rate
        for stage, rate in measured["stages"].items()
        if rate > 0
    }
    ways = list(_list_ways(measured))
    ways_top = 150
    height = ways_top + 52 + _ROW * len(ways) + 46
    head = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" font-family="system-ui, sans-serif"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {head} font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(20, 30, f"{measured['model']}, {measured['scans']:,} scans, {measured['processes']} cores", size=16),
        _text(20, 62, "Core time of one scan, stage by stage"),
        *_draw_stages(times, top=74),
        _text(20, ways_top + 22, "Scans per second"),
        *_draw_ways(ways, measured["limit"], top=ways_top + 36),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _list_ways(measured: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """Yield (name, scans per second, share of the limit in words), the limit first."""
    embedded = measured["embedded"]
    yield "limit", measured["limit"], ""
    yield "score", embedded["scans_per_second"], f"{embedded['ratio']:.2f} of the limit"
    whole = embedded["whole_process_scans_per_second"]
    yield "score, with start", whole, f"{embedded['whole_process_ratio']:.2f} of the limit"
    for one in measured["workers"]:
        cores = "one core's" if one["workers"] == 1 else f"{one['workers']} cores'"
        name = f"{one['workers']} worker{'s' * (one['workers'] != 1)}"
        yield name, one["scans_per_second"], f"{one['ratio']:.2f} of {cores} limit"


def _draw_stages(times: Mapping[str, float], top: int) -> Iterator[str]:
    total = sum(times.values())
    x = float(_LEFT)
    yield _text(_LEFT - 10, top + 15, f"{total:.2f} ms", anchor="end")
    for place, (stage, spent) in enumerate(times.items()):
        width = _BAR_WIDTH * spent / total
        yield _bar(x, top, width, _COLORS[stage], f"{stage}: {spent:.3f} ms")
        if spent / total >= _NARROW:
            yield _text(x + width / 2, top + 15, f"{spent:.2f}", anchor="middle", size=12)
        legend_x = _LEFT + place * 106
        yield _bar(legend_x, top + 34, 11, _COLORS[stage], stage, height=11)
        yield _text(legend_x + 16, top + 44, f"{stage} {spent:.2f}", size=12)
        x += width


def _draw_ways(ways: list[tuple[str, float, str]], limit: float, top: int) -> Iterator[str]:
    most = max(rate for _, rate, _ in ways) or 1.0
    bottom = top + _ROW * len(ways)
    for tick in _list_ticks(most):
        x = _LEFT + _BAR_WIDTH * tick / most
        yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#dddddd"/>'
        yield _text(x, bottom + 18, f"{tick:g}", anchor="middle", size=12)
    for place, (name, rate, share) in enumerate(ways):
        y = top + place * _ROW + 7
        width = _BAR_WIDTH * rate / most
        yield _text(_LEFT - 10, y + 15, name, anchor="end")
        yield _bar(_LEFT, y, width, _LIMIT_COLOR if place == 0 else _WAY_COLOR, f"{name}: {rate:.1f} scans/s")
        label = f"{rate:,.0f} ({share})" if share else f"{rate:,.0f}"
        if width > _BAR_WIDTH / 2:
            yield _text(_LEFT + width - 8, y + 15, label, anchor="end", color="white")
        else:
            yield _text(_LEFT + width + 8, y + 15, label)
    x = _LEFT + _BAR_WIDTH * limit / most
    yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{_LIMIT_COLOR}" stroke-dasharray="5 4"/>'


def _list_ticks(most: float) -> list[float]:
    """Return about five round numbers from 0 to at most `most`."""
    rough = most / 5
    magnitude = 10.0 ** (len(str(int(rough))) - 1) if rough >= 1 else 1.0
    step = next(step * magnitude for step in _TICK_STEPS if step * magnitude >= rough)
    return [step * number for number in range(int(most / step) + 1)]


def _bar(x: float, y: float, width: float, color: str, title: str, height: int = _BAR_HEIGHT) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{height}" fill="{color}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, color: str = "#222222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{escape(text)}</text>'
    )
