"""Drift of a run for people: a sentence, histograms, the trend over nights, and the numbers."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from cli.output.console import show_time
from cli.output.tables import make_table
from nightread.text import show_text
from worker.runs.drift import MeasuredDrift, describe_drift, find_farthest
from worker.runs.drift_histogram import Histogram, make_histograms

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS: Final = " .:-=+*#@"
#: Characters for each bin.
_BIN: Final = 2


def print_drift(measured: MeasuredDrift, first: MeasuredDrift | None, console: Console) -> None:
    """Print whether a run looks like its reference, and the measurements that differ most.

    Args:
        measured: the run against its reference.
        first: the run against the first night of its kind; None if that was not asked.
        console: where to print.
    """
    console.print(f"{describe_drift(measured)}", style="bold")
    if first is not None and first.against is not None:
        console.print(
            f"The first night like it, run {first.against.id[:8]} of {show_time(first.against.created_at)[:10]}: "
            f"{describe_drift(first)}"
        )
    shown = first or measured
    console.print(_describe_scans(shown), style="dim")
    blocks = _ASCII_BLOCKS if console.options.ascii_only else _BLOCKS
    for histogram in make_histograms(shown):
        console.print()
        _print_histogram(histogram, console, blocks)
    if (found := shown.drift.rejections) is not None:
        console.print(
            f"\nThe input gate rejects {found.rejected:,} of {found.judged:,} scans "
            f"({found.rejected / found.judged:.1%}), reference {found.reference_share:.1%}"
            + (": more than chance explains" if found.is_alarm else "")
        )


def _describe_scans(measured: MeasuredDrift) -> str:
    run, other, night = measured.run, measured.against, measured.night
    unmeasured = night.scans - night.measured
    return (
        f"run {run.id[:8]} ({show_text(run.name)}): {night.measured:,} scans measured"
        + (f", {unmeasured:,} not (unreadable, or scored before measurements were stored)" if unmeasured else "")
        + f"; {run.model}, reference: {measured.reference.scans:,} scans of "
        + ("its hold-out" if other is None else f"run {other.id[:8]} ({show_text(other.name)})")
    )


def _print_histogram(histogram: Histogram, console: Console, blocks: str) -> None:
    title = Text(histogram.name.replace("_", " "))
    distance = f"KS {histogram.ks:.2f}, by chance up to {histogram.critical_ks:.2f}"
    title.append(
        f"  moved: {distance}" if histogram.is_moved else f"  {distance}", "red" if histogram.is_moved else "dim"
    )
    console.print(title)
    peak = max([*histogram.run, *histogram.reference])
    for name, shares in (("this run", histogram.run), ("reference", histogram.reference)):
        console.print(f"  {name:<9}  {''.join(_draw(share, peak, blocks) for share in shares)}")
    low, high = (f"{edge:.3g}" for edge in (histogram.edges[0], histogram.edges[-1]))
    console.print(f"  {'':<9}  {low}{high:>{_BIN * len(histogram.run) - len(low)}}", style="dim")


def _draw(share: float, peak: float, blocks: str) -> str:
    """Return a bar; a share above 0 is always seen."""
    height = round(share / peak * (len(blocks) - 1)) if peak else 0
    return blocks[max(height, 1) if share else 0] * _BIN


def print_trend(nights: Sequence[MeasuredDrift], console: Console) -> None:
    """Print one line for each night: its farthest measurement, and whether it looks like the reference."""
    table = make_table(
        "night", "run", "scans", "farthest", "KS", "by chance", "answer", right=("scans", "KS", "by chance"),
        spare=("by chance", "run"),
    )  # fmt: skip
    for night in nights:
        farthest = find_farthest(night)
        answer = {True: "looks alike", False: "moved", None: "too few scans"}[night.drift.looks_alike]
        table.add_row(
            show_time(night.run.created_at)[:10], night.run.id[:8], f"{night.night.measured:,}",
            farthest.name.replace("_", " ") if farthest else "", f"{farthest.ks:.2f}" if farthest else "",
            f"{farthest.critical_ks:.2f}" if farthest else "",
            Text(answer, style="red" if night.drift.looks_alike is False else ""),
        )  # fmt: skip
    console.print(table)


def print_numbers(measured: MeasuredDrift, console: Console) -> None:
    """Print each measurement with its statistics and their critical values."""
    numbers = ("scans", "median", "reference", "PSI", "critical", "KS", "critical ")
    table = make_table(
        "measurement", *numbers, "", right=numbers, spare=("reference", "median", "critical ", "critical", "scans")
    )
    for shift in measured.drift.shifts:
        table.add_row(
            shift.name.replace("_", " "), f"{shift.scans:,}", f"{shift.median:.3g}", f"{shift.reference_median:.3g}",
            f"{shift.psi:.3f}", f"{shift.critical_psi:.3f}", f"{shift.ks:.3f}", f"{shift.critical_ks:.3f}",
            "moved" if shift.is_alarm else "",
        )  # fmt: skip
    console.print(table)
