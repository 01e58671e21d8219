"""Plots of a training and its figures, as SVG for light and dark; drawn without a display."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from nightread.text import show_text
from trainer.evaluation.metrics import CALIBRATION_BINS, Evaluation, PartScores, find_bins, find_certainty
from trainer.evaluation.mistakes import Mistake
from trainer.fit.history import EpochRow

# Distinguishable for colour-blind readers, and in gray (Okabe and Ito).
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_GRAY: Final = "#777777"
_DPI: Final = 110
#: Text on a light cell, in light and dark: it is not the color of the page's text.
_INK: Final = "#101010"
#: Black is the color of the page's text. Without version, time and random names, equal figures give equal bytes.
_STYLE: Final = (
    b"<style>svg{color:#1a1a1a}text{fill:currentColor}@media(prefers-color-scheme:dark){svg{color:#e7e9ed}}</style>"
)
_FORMAT: Final = {"svg.fonttype": "none", "svg.hashsalt": "nightread"}

#: Longest name below a picture, in characters.
_NAME_LENGTH: Final = 32
#: Most classes with curves of their own; more lines could not be told apart.
_MAX_CURVES: Final = 6


def draw_history(history: Sequence[EpochRow], best_epoch: int) -> bytes:
    """Draw loss and accuracy over the epochs, and mark the epoch that was kept."""
    figure, (left, right) = _make_figure(2, width=9.0, height=3.4)
    epochs = [row.epoch for row in history]
    for axes, name, unit in ((left, "loss", "cross-entropy (nats)"), (right, "accuracy", "share of scans")):
        for prefix, label, colour in (("", "training", _COLOURS[0]), ("val_", "validation", _COLOURS[1])):
            values = [getattr(row, prefix + name) for row in history]
            axes.plot(epochs, values, color=colour, label=label, marker="o" if len(epochs) < 20 else "", markersize=3)
        axes.axvline(best_epoch, color=_GRAY, linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(title=name, xlabel="epoch", ylabel=unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _add_legend(axes)
    return _render(figure)


def draw_confusion(evaluations: Mapping[str, Evaluation], classes: Sequence[str]) -> bytes:
    """Draw one confusion matrix for each part: counts, coloured by the share of the row."""
    small = len(classes) > 4
    if small:  # one below the other: their names are long
        side = 0.26 * len(classes) + 2.4
        figure, all_axes = _make_figure(1, width=side + 2, height=side * len(evaluations), rows=len(evaluations))
    else:
        figure, all_axes = _make_figure(len(evaluations), width=3.2 * len(evaluations) + 0.8, height=3.6)
    for axes, (name, evaluation) in zip(all_axes, evaluations.items(), strict=True):
        counts = evaluation.confusion
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts if small else np.ones_like(counts)).tolist():
            text = str(counts[row, column])
            axes.text(
                column, row, text if small else f"{text}\n{100 * shares[row, column]:.1f} %", ha="center", va="center",
                fontsize=7 if small else 10, color="white" if shares[row, column] > 0.55 else _INK,
            )  # fmt: skip
        axes.set_xticks(range(len(classes)), classes, rotation=90 if small else 0, fontsize=7 if small else 9)
        axes.set_yticks(range(len(classes)), classes, fontsize=7 if small else 9)
        axes.set(title=f"{name}, {evaluation.scans} scans", xlabel="decision", ylabel="label")
    return _render(figure)


def draw_curves(part: PartScores, evaluation: Evaluation) -> bytes:
    """Draw the ROC and precision-recall curves of a part, for its one label or for the most frequent of many."""
    figure, (left, right) = _make_figure(2, width=9.0, height=4.2)
    classes = part.task.classes
    places = [1] if part.threshold is not None else np.argsort(-np.bincount(part.targets, minlength=len(classes)))
    drawn = 0
    for place in [int(place) for place in places]:
        present, scores = part.targets == place, part.class_scores[:, place]
        if drawn == _MAX_CURVES or present.all() or not present.any():
            continue
        auc, colour = evaluation.labels[classes[place]].auc, _COLOURS[drawn % len(_COLOURS)]
        told = f"{classes[place]}: AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})" if auc else classes[place]
        false_positives, true_positives, _ = roc_curve(present, scores, drop_intermediate=False)
        left.plot(false_positives, true_positives, color=colour, label=told)
        precision, recall, _ = precision_recall_curve(present, scores)
        # Without the last point, which scikit-learn adds: no threshold has a recall of 0.
        right.plot(recall[:-1], precision[:-1], color=colour, label=f"{classes[place]}, {int(present.sum())} scans")
        right.axhline(present.mean(), color=colour, linestyle=":", linewidth=0.8)
        drawn += 1
    left.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", linewidth=0.8)
    left.set(title="ROC", xlabel="false positive rate", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01))
    right.set(title="precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    for axes in (left, right):
        if drawn:
            _add_legend(axes)
    return _render(figure)


def draw_calibration(parts: Mapping[str, tuple[PartScores, Evaluation]]) -> bytes:
    """Draw the calibration curve, bin by bin, and the distribution of the scores: a row for each part."""
    figure, all_axes = _make_figure(2, width=9.0, height=3.8 * len(parts), rows=len(parts))
    for row, (name, (part, evaluation)) in enumerate(parts.items()):
        _draw_calibration(all_axes[2 * row : 2 * row + 2], name, part, evaluation)
    return _render(figure)


def _draw_calibration(axes: Sequence[Any], name: str, part: PartScores, evaluation: Evaluation) -> None:
    left, right = axes
    predicted, observed = find_certainty(part)
    bins = find_bins(predicted)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    used = np.flatnonzero(counts)
    means = [
        np.bincount(bins, weights=values, minlength=CALIBRATION_BINS)[used] / counts[used]
        for values in (predicted, observed)
    ]
    left.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", linewidth=0.8, label="calibrated")
    left.plot(*means, color=_COLOURS[0], marker="o", label=f"this network: ECE {evaluation.figures['ece'].value:.3f}")
    for x, y, count in zip(*means, counts[used], strict=True):
        left.annotate(str(count), (x, y), textcoords="offset points", xytext=(5, -9), fontsize=7, color=_GRAY)
    is_binary = part.threshold is not None
    left.set(
        title=f"{name}: calibration (numbers: scans in the bin)",
        xlabel="mean score" if is_binary else "mean highest score",
        ylabel="share with the finding" if is_binary else "share of right decisions",
        xlim=(-0.03, 1.08), ylim=(-0.06, 1.04),
    )  # fmt: skip
    _add_legend(left)
    groups = ((part.targets == 1, part.task.classes[1]), (part.targets == 0, part.task.classes[0])) if is_binary else (
        (observed == 1, "right"), (observed == 0, "wrong"),
    )  # fmt: skip
    right.hist(
        [predicted[mask] for mask, _ in groups], bins=np.linspace(0, 1, 21).tolist(), color=(_COLOURS[1], _COLOURS[0]),
        label=[f"{name}, {int(mask.sum())} scans" for mask, name in groups],
    )  # fmt: skip
    if part.threshold is not None:
        right.axvline(part.threshold, color="black", linestyle=":", label=f"threshold {part.threshold:.3f}")
    right.set(
        title=f"{name}: scores",
        xlabel="score" if is_binary else "highest score",
        ylabel="scans",
        yscale="symlog",
        xlim=(0, 1),
    )  # fmt: skip
    _add_legend(right)


def draw_mistakes(mistakes: Sequence[Mistake]) -> bytes:
    """Draw the worst mistakes, as the network saw the scans."""
    columns = min(4, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure, all_axes = _make_figure(columns, width=2.3 * columns, height=2.75 * rows, rows=rows)
    for axes in all_axes:
        axes.axis("off")
    for axes, mistake in zip(all_axes, mistakes, strict=False):
        axes.imshow(mistake.pixels, cmap="gray", vmin=0, vmax=1)
        axes.set_title(
            f"is {mistake.label}\ntaken for {mistake.decision} ({mistake.score:.2f})\n{_show_name(mistake.name)}",
            fontsize=7,
            parse_math=False,
        )
    return _render(figure)


def _show_name(name: str) -> str:
    """Return a file's name that fits below its picture: cut in the middle, without characters that no font has."""
    shown = show_text(name)
    return shown if len(shown) <= _NAME_LENGTH else f"{shown[: _NAME_LENGTH // 2]}...{shown[-_NAME_LENGTH // 2 + 3 :]}"


def _make_figure(columns: int, *, width: float, height: float, rows: int = 1) -> tuple[Any, list[Any]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.ravel())


def _add_legend(axes: Any) -> None:
    """Add a legend below the axes, where it hides no data."""
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.2), borderaxespad=0, frameon=False)


def _render(figure: Any) -> bytes:
    buffer = io.BytesIO()
    with rc_context(_FORMAT):
        figure.savefig(
            buffer, format="svg", dpi=_DPI, transparent=True, metadata={"Creator": None, "Date": None, "Format": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index(b"<svg") :].replace(b"stroke: #000000", b"stroke: currentColor")
    start = svg.index(b">") + 1
    return svg[:start] + _STYLE + svg[start:]
