"""Pages about a model: its card, and a past run as it would have scored it."""

from collections.abc import Mapping, Sequence
from typing import Any

from db.registry import StageEntry
from nightread.model.card import Card, Metric
from worker.report.charts import draw_intervals, draw_scatter
from worker.report.page import make_environment
from worker.runs.shadow import Shadow


def render_card(card: Card, stage: str | None, changes: Sequence[StageEntry]) -> str:
    """Return a model's card as HTML, one file without scripts and without links to elsewhere.

    Args:
        card: of the bundle.
        stage: in the database; None without a row there.
        changes: of its stage, oldest first.
    """
    environment = make_environment()
    environment.filters["interval"] = _show
    environment.globals["draw_intervals"] = draw_intervals
    return str(
        environment.get_template("card.html").render(card=card, stage=stage, changes=changes, origin=_list_origin(card))
    )


def render_shadow(shadow: Shadow, card: Mapping[str, Any]) -> str:
    """Return a shadow as HTML: a scatter of the scores for each label, and the scans whose decision changes.

    Args:
        shadow: the comparison.
        card: fields of the other model's card.
    """
    environment = make_environment()
    environment.globals["draw_scatter"] = draw_scatter
    thresholds = {label: dict(found) for label, found in card["thresholds"].items()}
    title = f"Shadow of {shadow.run.name}"
    return str(environment.get_template("shadow.html").render(shadow=shadow, thresholds=thresholds, title=title))


def _show(metric: Metric) -> str:
    return f"{metric.value:.3f} ({metric.low:.3f}-{metric.high:.3f})"


def _list_origin(card: Card) -> dict[str, str]:
    training, (height, width, channels) = card.training, card.input.shape
    return {
        "data": training.data_source,
        "licence": training.license,
        "attribution": training.attribution,
        "split": training.split,
        "scans": ", ".join(f"{part} {count:,}" for part, count in training.scans.items()),
        "architecture": card.architecture,
        "input": f"{height} x {width} x {channels}; preprocessing {card.preprocessing_version}",
        "precision": card.precision.value,
        "created": card.created_at.isoformat(timespec="seconds"),
        "digest": card.digest,
    }
