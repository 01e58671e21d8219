"""Charts of the report as SVG, without scripts; colors come from the page, so that they fit light and dark."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from markupsafe import Markup, escape

from nightread.model.floor import show_figure

_WIDTH, _NARROW, _HEIGHT = 720.0, 340.0, 200.0
_TOP, _BOTTOM = 22.0, 20.0


def draw_scores(edges: Sequence[float], counts: Sequence[int], thresholds: Mapping[str, float], title: str) -> Markup:
    """Draw a histogram of scores with the thresholds; heights are square roots, so that small counts can be seen."""
    heights = [sqrt(count) for count in counts]
    labels = [f"{count:,}" if count else "" for count in counts]
    hints = [f"{low:g} to {high:g}: {count:,}" for low, high, count in zip(edges, edges[1:], counts, strict=False)]
    lines = sorted(set(thresholds.values()))
    span = edges[-1] - edges[0]
    marks = "".join(
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{_HEIGHT - _BOTTOM:.1f}"/>'
        f'<text class="mark" x="{x + (4 if x < _WIDTH - 60 else -4):.1f}" y="10" '
        f'text-anchor="{"start" if x < _WIDTH - 60 else "end"}">{value:.3g}</text>'
        for value in lines
        if edges[0] < value < edges[-1]
        for x in [(value - edges[0]) / span * _WIDTH]
    )
    return _frame(_bars(heights, max(heights, default=0), labels, hints) + marks + _axis(edges[0], edges[-1]), title)


def draw_throughput(scans: Sequence[int], slot_s: float, title: str) -> Markup:
    """Draw scans per second over the time of a run."""
    rates = [count / slot_s if slot_s else 0.0 for count in scans]
    hints = [f"{rate:,.1f} scans/s" for rate in rates]
    peak = max(rates, default=0.0)
    axis = f'<text x="0" y="10">{peak:,.1f} scans/s</text>'
    return _frame(_bars(rates, peak, [], hints) + axis, title)


def draw_shares(edges: Sequence[float], night: Sequence[float], reference: Sequence[float], title: str) -> Markup:
    """Draw the shares of a night as bars, and those of the reference as a line."""
    peak = max([*night, *reference], default=0.0)
    hints = [f"night {here:.1%}, reference {there:.1%}" for here, there in zip(night, reference, strict=True)]
    step = _NARROW / max(1, len(reference))
    points = " ".join(
        f"{x:.1f},{_find_y(share, peak):.1f}"
        for place, share in enumerate(reference)
        for x in (place * step, (place + 1) * step)
    )
    line = f'<polyline class="reference" points="{points}"/>'
    return _frame(_bars(night, peak, [], hints, _NARROW) + line + _axis(edges[0], edges[-1], _NARROW), title, _NARROW)


def _find_y(value: float, peak: float) -> float:
    return _HEIGHT - _BOTTOM - (value / peak if peak else 0.0) * (_HEIGHT - _TOP - _BOTTOM)


def _bars(
    heights: Sequence[float], peak: float, labels: Sequence[str], hints: Sequence[str], width: float = _WIDTH
) -> str:
    step = width / max(1, len(heights))
    drawn = []
    for place, height in enumerate(heights):
        x, y = place * step, _find_y(height, peak)
        drawn.append(
            f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{max(step - 2, 1):.1f}" height="{_HEIGHT - _BOTTOM - y:.1f}">'
            f"<title>{hints[place]}</title></rect>"
        )
        if labels:
            drawn.append(f'<text x="{x + step / 2:.1f}" y="{y - 3:.1f}" text-anchor="middle">{labels[place]}</text>')
    return "".join(drawn)


def _axis(low: float, high: float, width: float = _WIDTH) -> str:
    y = _HEIGHT - 5
    return (
        f'<line class="axis" x1="0" x2="{width:g}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text x="0" y="{y}">{low:.3g}</text>'
        f'<text x="{width / 2:g}" y="{y}" text-anchor="middle">{(low + high) / 2:.3g}</text>'
        f'<text x="{width:g}" y="{y}" text-anchor="end">{high:.3g}</text>'
    )


def _frame(inner: str, title: str, width: float = _WIDTH) -> Markup:
    # All of `inner` was made here, of numbers.
    return Markup(  # noqa: S704  # the title is escaped
        f'<svg viewBox="0 0 {width:g} {_HEIGHT:g}" role="img"><title>{escape(title)}</title>{inner}</svg>'
    )


#: Colors of a picture that stands alone, light and dark.
_STYLE = """
svg { color-scheme: light dark; --ground: #fff; --line: #c9cdd4; --text: #1b1f26; --soft: #555d6b; --bar: #5b7fae;
  --reference: #8a4b00; --mark: #a3161c; --one: #0072b2; --two: #a34700; --three: #00704f; }
@media (prefers-color-scheme: dark) { svg { --ground: #14171c; --line: #3d4552; --text: #e7e9ed; --soft: #a9b1bd;
  --bar: #6f95c8; --reference: #f0b35c; --mark: #ff9a96; --one: #6fb7ea; --two: #f0a060; --three: #5fcfa8; } }
rect { fill: var(--bar); } rect.ground { fill: var(--ground); }
text { fill: var(--soft); font: 11px system-ui, sans-serif; }
text.title { fill: var(--text); font-size: 14px; font-weight: 600; } line.axis { stroke: var(--line); }
polyline { fill: none; stroke-width: 2; } polyline.reference { stroke: var(--reference); }
text.reference { fill: var(--reference); } text.bar { fill: var(--bar); }
line.mark { stroke: var(--mark); stroke-dasharray: 4 3; } text.mark { fill: var(--mark); }
.one { stroke: var(--one); } .two { stroke: var(--two); } .three { stroke: var(--three); }
text.one, text.two, text.three { stroke: none; } text.one { fill: var(--one); } text.two { fill: var(--two); }
text.three { fill: var(--three); } circle { fill: var(--bar); opacity: .45; }
circle.flipped { fill: var(--mark); opacity: .8; }
"""
_LINES = ("one", "two", "three")


def draw_trend(nights: Sequence[str], distances: Mapping[str, Sequence[float]], critical: float, title: str) -> Markup:
    """Draw a distance from the reference for each night, one line a measurement, its name at its end.

    Args:
        nights: what each night is called.
        distances: of each night by measurement, three measurements at most.
        critical: what chance alone would exceed.
        title: of the picture.
    """
    right, room = _WIDTH - 110, max(1, len(nights) - 1)
    peak = max([critical, *(value for values in distances.values() for value in values)], default=0.0)
    ends = _spread_apart([_find_y(values[-1], peak) for values in distances.values() if values])
    drawn = []
    for style, (name, values), end in zip(_LINES, distances.items(), ends, strict=False):
        points = " ".join(
            f"{place / room * right:.1f},{_find_y(value, peak):.1f}" for place, value in enumerate(values)
        )
        drawn.append(
            f'<polyline class="{style}" points="{points}"/>'
            f'<text class="{style}" x="{right + 6:g}" y="{end + 4:.1f}">{escape(name.replace("_", " "))}</text>'
        )
    limit = _find_y(critical, peak)
    drawn.append(
        f'<line class="mark" x1="0" x2="{right:g}" y1="{limit:.1f}" y2="{limit:.1f}"/>'
        f'<text class="mark" x="0" y="{limit - 4:.1f}">by chance {critical:.2f}</text>'
        f'<line class="axis" x1="0" x2="{right:g}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>'
    )
    step = max(1, len(nights) // 8)
    drawn += [
        f'<text x="{place / room * right:.1f}" y="{_HEIGHT - 5:g}" '
        f'text-anchor="{"start" if place == 0 else "middle"}">{escape(night)}</text>'
        for place, night in enumerate(nights)
        if place % step == 0
    ]
    return _frame("".join(drawn), title)


def _spread_apart(places: Sequence[float], least: float = 13.0) -> list[float]:
    """Return places moved down so that texts do not overlap, in the order given."""
    moved: dict[int, float] = {}
    below = -least
    for index in sorted(range(len(places)), key=lambda index: places[index]):
        below = moved[index] = max(places[index], below + least)
    return [moved[index] for index in range(len(places))]


def draw_drift(
    sentence: str,
    histograms: Sequence[Mapping[str, Any]],
    nights: Sequence[str],
    distances: Mapping[str, Sequence[float]],
    critical: float,
) -> str:
    """Return a whole SVG file: a sentence, three histograms, and the trend over nights if there are several.

    Args:
        sentence: whether the run looks like its reference.
        histograms: as `worker.runs.drift_histogram.Histogram.describe` returns them.
        nights: what each night is called.
        distances: KS of each night by measurement.
        critical: KS that chance alone would exceed.
    """
    parts = []
    for place, drawn in enumerate(histograms):
        x, name = 20 + place * (_NARROW + 20), str(drawn["name"])
        told = name.replace("_", " ") + (": moved" if drawn["moved"] else "")
        parts.append(
            f'<text class="title" x="{x:g}" y="62">{escape(told)}</text><text class="bar" x="{x:g}" y="78">bars: this '
            f'run</text><text class="reference" x="{x + 80:g}" y="78">line: reference</text>'
            + _place(draw_shares(drawn["edges"], drawn["night"], drawn["reference"], name), x, 82, _NARROW)
        )
    height = 300.0
    if len(nights) > 1:
        parts.append(
            f'<text class="title" x="20" y="{height + 16:g}">distance from the reference (KS), night by night</text>'
            + _place(draw_trend(nights, distances, critical, "trend"), 20, height + 22, _WIDTH)
        )
        height += _HEIGHT + 40
    title = f'<text class="title" x="20" y="28">{escape(sentence)}</text>'
    return make_sheet(title + "".join(parts), 3 * _NARROW + 80, height)


def draw_scatter(
    pairs: Sequence[tuple[float, float, bool]], thresholds: Mapping[str, float], names: tuple[str, str]
) -> Markup:
    """Draw the scores of two models against each other, one dot a scan; flipped decisions are red, and on top.

    Args:
        pairs: score before, score after, and whether the decision has changed.
        thresholds: of the second model.
        names: of the two models.
    """
    side = 420.0

    def place(before: float, after: float) -> tuple[float, float]:
        return 30 + before * side, 10 + (1 - after) * side

    dots = []
    for before, after, flipped in sorted(pairs, key=lambda pair: pair[2]):
        x, y = place(before, after)
        dots.append(
            f'<circle{" class=" + chr(34) + "flipped" + chr(34) if flipped else ""} cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        )
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    marks = "".join(
        f'<line class="mark" x1="{x0:g}" x2="{x1:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="mark" x="{x1 + 4:g}" y="{y + 4:.1f}">{value:.3g}</text>'
        for value in sorted(set(thresholds.values()))
        for y in [place(0, value)[1]]
    )
    axes = (
        f'<line class="axis" x1="{x0:g}" x2="{x1:g}" y1="{y0:g}" y2="{y0:g}"/>'
        f'<line class="axis" x1="{x0:g}" x2="{x0:g}" y1="{y0:g}" y2="{y1:g}"/>'
        f'<line class="axis" x1="{x0:g}" x2="{x1:g}" y1="{y0:g}" y2="{y1:g}"/>'
        f'<text x="{x0:g}" y="{y0 + 16:g}">0</text><text x="{x1:g}" y="{y0 + 16:g}" text-anchor="end">1</text>'
        f'<text x="{(x0 + x1) / 2:g}" y="{y0 + 16:g}" text-anchor="middle">{escape(names[0])}</text>'
        f'<text x="12" y="{(y0 + y1) / 2:g}" text-anchor="middle" transform="rotate(-90 12 {(y0 + y1) / 2:g})">'
        f"{escape(names[1])}</text>"
    )
    inner = axes + "".join(dots) + marks
    return Markup(  # noqa: S704  # made here of numbers and escaped names
        f'<svg viewBox="0 0 500 460" role="img"><title>scores of two models</title>{inner}</svg>'
    )


def _place(drawn: Markup, x: float, y: float, width: float) -> str:
    return f'<svg x="{x:g}" y="{y:g}" width="{width:g}" height="{_HEIGHT:g}">{drawn}</svg>'


def make_sheet(inner: str, width: float, height: float) -> str:
    """Return a whole SVG file with colors for light and dark."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"><style>{_STYLE}</style>'
        f'<rect class="ground" width="{width:g}" height="{height:g}"/>{inner}</svg>\n'
    )


def draw_intervals(figures: Mapping[str, Any], title: str) -> Markup:
    """Draw figures between 0 and 1 as dots with their 95 % intervals, one line each, with their values.

    Args:
        figures: by name, each with `value`, `low` and `high`.
        title: of the picture.
    """
    left, width, step = 230.0, 330.0, 20.0
    height = step * len(figures) + 20
    lines = []
    for place, (name, metric) in enumerate(figures.items()):
        y = 12 + place * step
        low, value, high = (left + width * min(max(one, 0.0), 1.0) for one in (metric.low, metric.value, metric.high))
        lines.append(
            f'<text x="0" y="{y + 4:g}">{escape(show_figure(name).replace("_", " "))}</text>'
            f'<line class="axis" x1="{left:g}" x2="{left + width:g}" y1="{y:g}" y2="{y:g}"/>'
            f'<rect x="{low:.1f}" y="{y - 3:g}" width="{max(high - low, 1):.1f}" height="6" rx="3"/>'
            f'<circle class="value" cx="{value:.1f}" cy="{y:g}" r="3.5"/>'
            f'<text x="{left + width + 12:g}" y="{y + 4:g}">{_show(metric)}</text>'
        )
    axis = (
        f'<text x="{left:g}" y="{height - 2:g}">0</text>'
        f'<text x="{left + width:g}" y="{height - 2:g}" text-anchor="end">1</text>'
    )
    inner = "".join([*lines, axis])
    return Markup(  # noqa: S704  # made here of numbers and escaped names
        f'<svg viewBox="0 0 {_WIDTH:g} {height:g}" role="img"><title>{escape(title)}</title>{inner}</svg>'
    )


def _show(metric: Any) -> str:
    return f"{metric.value:.3f} ({metric.low:.3f}-{metric.high:.3f})"
