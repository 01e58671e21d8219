"""A model beside the one in use, before it is promoted."""

from rich.console import Console
from rich.text import Text

from cli.output.tables import make_table
from nightread.model.card import Metric
from nightread.model.floor import show_figure
from nightread.text import show_text
from worker.registry.comparison import Comparison


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print figures side by side, the shadow of the last night, and what speaks against the promotion."""
    new, now = comparison.bundle.card, comparison.now
    console.print(f"new  {new.reference}", style="bold")
    if now is not None:
        console.print(f"now  {now.reference}, {'in production' if comparison.is_production else 'which ships'}")
    if comparison.figures:
        console.print()
        _print_figures(comparison, console)
    if now is not None:
        console.print()
        _print_night(comparison, console)
    for fault in comparison.faults:
        console.print(Text(f"against it: {show_text(fault)}", style="red"))


def _print_figures(comparison: Comparison, console: Console) -> None:
    with_now = comparison.now is not None
    table = make_table("part", "figure", *(("now",) if with_now else ()), "new", "", right=("now", "new"))
    part = ""
    for pair in comparison.figures:
        both = pair.now is not None and pair.new is not None
        remark = "other scans" if both and not pair.is_same else ""
        cells = [show_text(pair.part) if pair.part != part else "", show_figure(pair.name)]
        cells += [_show(pair.now)] if with_now else []
        worse = Text("worse", style="red") if pair.is_worse else Text(remark, style="dim")
        table.add_row(*cells, _show(pair.new), worse)
        part = pair.part
    console.print(table)


def _print_night(comparison: Comparison, console: Console) -> None:
    night = comparison.night
    if night is None:
        console.print(
            "No past run was scored with both; `nightread shadow RUN --model "
            f"{comparison.bundle.card.reference}` shows what would change.",
            style="dim",
        )
        return
    console.print(
        f"Last night, run {night.run_id[:8]} ({show_text(night.run)}): {sum(night.flips.values()):,} decisions of "
        f"{night.compared:,} scans would change"
        + (f"; {night.scored - night.compared:,} scans are not compared" if night.compared < night.scored else "")
    )
    table = make_table("label", "now", "new", "scans", right=("scans",))
    for (label, before, after), count in night.flips.items():
        table.add_row(label, before, after, f"{count:,}")
    if night.flips:
        console.print(table)


def _show(metric: Metric | None) -> str:
    return "" if metric is None else f"{metric.value:.3f} ({metric.low:.3f}-{metric.high:.3f})"
