"""Pages about a model: its card, and a past run as it would have scored it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from db.registry import StageEntry
from nightread.model.card import Card, Metric
from worker.report.charts import draw_intervals, draw_scatter
from worker.report.page import make_environment

if TYPE_CHECKING:  # it opens networks, and so imports ONNX Runtime
    from worker.runs.shadow import Shadow


def render_card(card: Card, stage: str | None, changes: Sequence[StageEntry]) -> str:
    """Return a model's card as HTML, one file without scripts and without links to elsewhere.

    Args:
        card: of the bundle.
        stage: in the database; None without a row there.
        changes: of its stage, oldest first.
    """
    return _render_card("card.html", card, stage, changes)


def render_card_part(card: Card, stage: str | None, changes: Sequence[StageEntry]) -> Markup:
    """Return a model's card as a part of another page, which has the styles; arguments as of `render_card`."""
    return Markup(_render_card("card_body.html", card, stage, changes))  # noqa: S704  # a template escaped it


def _render_card(template: str, card: Card, stage: str | None, changes: Sequence[StageEntry]) -> str:
    environment = make_environment()
    environment.filters["interval"] = _show
    environment.globals["draw_intervals"] = draw_intervals
    filled = environment.get_template(template)
    return str(filled.render(card=card, stage=stage, changes=changes, origin=_list_origin(card)))


def render_shadow(shadow: "Shadow", card: Mapping[str, Any]) -> str:
    """Return a shadow as HTML: a scatter of the scores for each label, and the scans whose decision changes.

    Args:
        shadow: the comparison.
        card: fields of the other model's card.
    """
    return _render_shadow("shadow.html", shadow, card)


def render_shadow_part(shadow: "Shadow", card: Mapping[str, Any]) -> Markup:
    """Return a shadow as a part of another page, which has the styles; arguments as of `render_shadow`."""
    return Markup(_render_shadow("shadow_body.html", shadow, card))  # noqa: S704  # a template escaped it


def _render_shadow(template: str, shadow: "Shadow", card: Mapping[str, Any]) -> str:
    environment = make_environment()
    environment.globals["draw_scatter"] = draw_scatter
    thresholds = {label: dict(found) for label, found in card["thresholds"].items()}
    title = f"Shadow of {shadow.run.name}"
    return str(environment.get_template(template).render(shadow=shadow, thresholds=thresholds, title=title))


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
