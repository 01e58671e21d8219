"""A bundle's card for people: purpose and limits first, technical facts last."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.output.tables import FittedTable, make_table
from nightread.model.card import Card, Gate, Metric, SamePixels
from nightread.text import show_text

#: Widest line of prose, in characters; a wider terminal or a file does not change it.
_WIDTH: Final = 110

#: Titles of figures; a figure that is not listed keeps its name.
_FIGURES: Final = {
    "auc": "AUC",
    "ece": "calibration error (ECE)",
    "majority_baseline_accuracy": "accuracy of the majority label",
}
#: Operating point of the figures.
_BALANCED: Final = "balanced"
#: With more parts of the split, each has rows instead of a column.
_MOST_PARTS: Final = 2


def print_card(card: Card, console: Console) -> None:
    """Print a card, wrapped to the width of the console and to 110 characters at most."""
    width = min(console.width, _WIDTH)
    for part in _describe(card):
        console.print(part, width=width, soft_wrap=False)  # without a terminal the console would not wrap


def _describe(card: Card) -> Iterator[RenderableType]:
    yield Text(card.reference, style="bold")
    yield _text(card.description)
    yield from _section("Intended use", _text(card.intended_use))
    if card.population:
        yield from _section("Training population", _text(card.population))
    yield from _section("Limits", _bullets(card.limitations))
    if card.not_tested:
        yield from _section("Not tested", _bullets(card.not_tested))
    yield from _section("Meaning of a score", _text(_describe_score(card)))
    yield from _section("Decisions", _bullets(_describe_decisions(card)))
    for label, points in card.operating_points.items():
        yield from _section(
            f"Operating points of {show_text(label)}", _tabulate_points(card, label),
            "" if not points else "Rates with 95 % intervals: on the calibration part, which chose the "
            "threshold, and on the hold-out, which did not.",
        )  # fmt: skip
    whole, subgroups = _split_metrics(card.metrics)
    is_balanced = any(_BALANCED in points for points in card.operating_points.values())
    yield from _section(
        "Figures, with 95 % intervals", _tabulate_metrics(whole),
        f"Decisions at the threshold `{_BALANCED}` alone: no scan is uncertain." if is_balanced else "",
    )  # fmt: skip
    if subgroups:
        yield from _section("By subgroup", _tabulate_metrics(subgroups))
    if card.gate is not None:
        yield from _section("Input gate", _text(_describe_gate(card.gate)))
    if card.same_pixels:
        yield from _section(
            "Same scan, other file format", _tabulate_same_pixels(card.same_pixels),
            "Differences of score and changed decisions between two files of one scan.",
        )  # fmt: skip
    yield from _section("Origin", _tabulate_origin(card))


def _section(title: str, content: RenderableType, note: str = "") -> Iterator[RenderableType]:
    yield Text()
    yield Text(title, style="bold")
    if note:
        yield Padding(_text(note, style="dim"), (0, 0, 0, 2))
    yield Padding(content, (0, 0, 0, 2))


def _text(content: str, style: str = "") -> Text:
    """Return text without markup and control characters: no card may color the screen or move the cursor."""
    return Text(show_text(content), style=style)


def _bullets(lines: Iterable[str]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for line in lines:
        table.add_row("-", _text(line))
    return table


def _describe_score(card: Card) -> str:
    if card.scaling is None:
        return card.calibration
    scaling = card.scaling
    return (
        f"{card.calibration} Scaled on {scaling.scans:,} scans of {scaling.patients:,} patients (Platt: slope "
        f"{scaling.slope:.3g}, intercept {scaling.intercept:.3g}); the expected calibration error on the hold-out is "
        f"{_show(scaling.ece_after)}; it was {_show(scaling.ece_before)} before."
    )


def _describe_decisions(card: Card) -> Iterator[str]:
    if not card.thresholds:
        yield f"highest score of {', '.join(card.labels)}"
    for label, threshold in card.thresholds.items():
        yield f"{label}: score {threshold.high:.4g} and above"
        if threshold.low < threshold.high:
            yield f"uncertain: score {threshold.low:.4g} to {threshold.high:.4g}, the abstain band; needs a reader"
        yield f"{card.negative_decision}: score below {threshold.low:.4g}"


def _tabulate_points(card: Card, label: str) -> FittedTable:
    table = make_table("", "from", "part", "sensitivity", "specificity", right=("from",))
    for name, point in card.operating_points[label].items():
        for part, rates in (("chosen on", point.chosen_on), ("hold-out", point.hold_out)):
            first = part == "chosen on"
            table.add_row(
                _text(name if first else ""), f"{point.threshold:.4f}" if first else "", part,
                _show(rates.sensitivity), _show(rates.specificity),
            )  # fmt: skip
    return table


def _split_metrics(
    metrics: Mapping[str, Mapping[str, Metric]],
) -> tuple[dict[str, dict[str, Metric]], dict[str, dict[str, Metric]]]:
    """Return the figures of whole parts, and those of subgroups, named like `sensitivity (viral)`."""

    def choose(*, subgroups: bool) -> dict[str, dict[str, Metric]]:
        chosen = {
            part: {name: metric for name, metric in figures.items() if name.endswith(")") is subgroups}
            for part, figures in metrics.items()
        }
        return {part: figures for part, figures in chosen.items() if figures}

    return choose(subgroups=False), choose(subgroups=True)


def _tabulate_metrics(metrics: Mapping[str, Mapping[str, Metric]]) -> FittedTable:
    """Return a table with a column for each part; of many parts, with a row for each part and figure."""
    if len(metrics) > _MOST_PARTS:
        table = make_table("part", "figure", "value")
        for part, figures in metrics.items():
            for name, metric in figures.items():
                table.add_row(_text(part), _text(_name_figure(name)), _show(metric))
        return table
    table = make_table("", *(show_text(part) for part in metrics))
    for name in dict.fromkeys(name for figures in metrics.values() for name in figures):
        cells = (_show(figures[name]) if name in figures else "" for figures in metrics.values())
        table.add_row(_text(_name_figure(name)), *cells)
    return table


def _name_figure(name: str) -> str:
    return _FIGURES.get(name, name.replace("_", " "))


def _describe_gate(gate: Gate) -> str:
    share = gate.false_rejection
    return (
        "Rejects scans that do not look like frontal chest X-rays; they get a reason and no score (--no-gate turns it "
        f"off). False rejections on the hold-out: {share.value:.2%} ({share.low:.2%} to {share.high:.2%}). Limits: "
        f"sides of {gate.max_aspect_ratio:.3g} to 1, feature distance {gate.max_distance:.3g} from the training scans "
        f"(Mahalanobis; theirs is about 1). From {gate.doubtful_distance:.3g} on, a scan is compared again, inverted "
        "and rotated."
    )


def _tabulate_same_pixels(compared: Mapping[str, SamePixels]) -> FittedTable:
    numbers = ("scans", "median", "largest", "decisions")
    table = make_table("", *numbers, right=numbers)
    for name, found in compared.items():
        table.add_row(
            _text(name), f"{found.scans:,}", f"{found.median_difference:.2g}", f"{found.largest_difference:.2g}",
            f"{found.decisions_changed} ({found.decisions_changed / found.scans:.1%})",
        )  # fmt: skip
    return table


def _tabulate_origin(card: Card) -> Table:
    training, (height, width, channels) = card.training, card.input.shape
    parts = ", ".join(
        f"{part} {count:,}" + (f" ({training.patients[part]:,})" if part in training.patients else "")
        for part, count in training.scans.items()
    )
    low, high = card.input.value_range
    rows = {
        "data": training.data_source,
        "licence": training.license,
        "attribution": training.attribution,
        "split": training.split,
        "scans (patients)": parts,
        "architecture": card.architecture,
        "input": f"{height} x {width} x {channels}, {low:g} to {high:g}; preprocessing {card.preprocessing_version}",
        "precision": card.precision.value,
        "outputs": ", ".join(output.name for output in card.outputs),
        "parity": _describe_parity(card),
        "drift": "" if card.drift_reference is None else f"reference: {card.drift_reference.scans:,} hold-out scans",
        "seed": str(training.seed),
        "created": card.created_at.isoformat(timespec="seconds"),
        "digest": card.digest,
    }  # fmt: skip
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, _text(value))
    return table


def _describe_parity(card: Card) -> str:
    if card.conversion is None:
        return f"at most {card.parity_tolerance:g} from the trained network"
    found = card.conversion
    return (
        f"{found.parity:.2g} at most (allowed: {card.parity_tolerance:g}) on {found.scans:,} scans, "
        f"{found.decisions_changed} decisions changed"
    )


def _show(metric: Metric) -> str:
    return f"{metric.value:.3f} ({metric.low:.3f}-{metric.high:.3f})"
