"""Charts of the report as SVG, without scripts; colors come from the page, so that they fit light and dark."""

from collections.abc import Mapping, Sequence
from math import sqrt

from markupsafe import Markup, escape

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
