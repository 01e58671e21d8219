"""Comparison of a model with the one that new runs take now, and what speaks against its promotion."""

from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Engine

from db.engine import reading
from db.model_pairs import ModelKey, NightPairs, count_pairs
from db.registry import find_production
from nightread.errors import ModelError
from nightread.model.bundle import DEFAULT_MODEL, Bundle, find_bundle, load_bundle
from nightread.model.card import Card, Metric
from nightread.model.floor import ALLOWED, Floor, is_worse, show_figure
from nightread.settings import Settings
from worker.registry.choose import choose_bundle

#: The part of the split that nothing was chosen on.
HOLD_OUT: Final = "hold-out"
#: Parts whose scans the network or its thresholds were fitted on.
_FITTED_PARTS: Final = ("train", "validation")
#: Figures that are shown, in this order.
_SHOWN: Final = ("auc", "sensitivity", "specificity", "ece")


@dataclass(frozen=True, slots=True)
class FigurePair:
    """One figure of the model in use and of the new one; None where a card does not have it.

    Attributes:
        part: of the split, or the name of a site.
        name: of the figure.
        is_same: whether both were measured on the same scans.
    """

    part: str
    name: str
    now: Metric | None
    new: Metric | None
    is_same: bool

    @property
    def is_worse(self) -> bool:
        """Whether the new value lies outside the interval of the present one, on the worse side."""
        if not self.is_same or self.now is None or self.new is None or self.name not in ALLOWED:
            return False
        bound = self.now.high if is_worse(self.name, 1, 0) else self.now.low
        return is_worse(self.name, self.new.value, bound)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside the one that new runs take now.

    Attributes:
        bundle: the model to promote.
        now: card of the model in use; None if there is none that can be read, or it is the same model.
        is_production: whether the model in use was promoted; else it is the bundle that ships.
        figures: of both cards.
        night: the newest finished run of the model in use, as far as a shadow has scored it; None without one.
        faults: what speaks against the promotion, in words.
    """

    bundle: Bundle
    now: Card | None
    is_production: bool
    figures: tuple[FigurePair, ...]
    night: NightPairs | None
    faults: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Return the comparison for a program."""
        return {
            "model": self.bundle.card.reference,
            "now": None if self.now is None else self.now.reference,
            "figures": [
                {
                    "part": pair.part, "figure": pair.name, "same_scans": pair.is_same, "worse": pair.is_worse,
                    "now": None if pair.now is None else pair.now.model_dump(),
                    "new": None if pair.new is None else pair.new.model_dump(),
                }
                for pair in self.figures
            ],
            "night": None if self.night is None else self.night.describe(),
            "faults": list(self.faults),
        }  # fmt: skip


def compare_with_present(engine: Engine, settings: Settings, model: str) -> Comparison:
    """Compare a model with the production model, or with the bundle that ships where there is none.

    Args:
        engine: the database, its schema checked.
        settings: `models_dir` and `promote_floor`.
        model: NAME@VERSION.

    Raises:
        ModelError: the bundle is missing or damaged.
        WrongStage: the model is retired.
    """
    bundle = choose_bundle(engine, settings.model_copy(update={"model": model})).bundle
    with reading(engine) as connection:
        production = find_production(connection)
    now = _read_card(production.card) if production is not None else _read_shipped(settings)
    if now is not None and now.digest == bundle.digest:
        now = None
    figures = tuple(_pair_figures(now, bundle.card))
    night = None if now is None else _find_night(engine, now, bundle.card)
    faults = tuple(_list_faults(bundle.card, figures, Floor.read(settings.promote_floor)))
    return Comparison(bundle, now, production is not None, figures, night, faults)


def _read_card(fields: dict[str, Any]) -> Card | None:
    try:
        return Card.model_validate(fields)
    except ValidationError:  # a newer release may have written it
        return None


def _read_shipped(settings: Settings) -> Card | None:
    try:
        return load_bundle(find_bundle(DEFAULT_MODEL, settings.models_dir)).card
    except ModelError:
        return None


def _pair_figures(now: Card | None, new: Card) -> list[FigurePair]:
    before = {} if now is None else now.metrics
    parts = [part for part in {**new.metrics, **before} if part not in _FITTED_PARTS]
    parts.sort(key=lambda part: part != HOLD_OUT)
    return [
        FigurePair(part, name, *found, is_same=now is not None and _have_same_scans(now, new, part))
        for part in parts
        for name in _SHOWN
        if any(found := (before.get(part, {}).get(name), new.metrics.get(part, {}).get(name)))
    ]


def _have_same_scans(now: Card, new: Card, part: str) -> bool:
    """Return whether two cards tell of the same scans, as far as cards say: one source, as many scans and patients."""

    def identify(card: Card) -> tuple[object, ...]:
        training = card.training
        return training.data_source, training.seed, training.scans.get(part), training.patients.get(part)

    return part in now.training.scans and identify(now) == identify(new)


def _find_night(engine: Engine, now: Card, new: Card) -> NightPairs | None:
    labels = [label for label in now.labels if label in new.labels]
    before, after = (ModelKey(card.digest, card.preprocessing_version, card.labels[0]) for card in (now, new))
    with reading(engine) as connection:
        return count_pairs(connection, before, after, labels)


def _list_faults(card: Card, figures: tuple[FigurePair, ...], floor: Floor) -> list[str]:
    hold_out = card.metrics.get(HOLD_OUT, {})
    values = {name: metric.value for name, metric in hold_out.items()}
    faults = [f"{fault} on the hold-out" for fault in floor.list_faults(values)]
    if card.is_by_chance:
        faults.append("it is no better than chance on the hold-out")
    return faults + [
        f"{show_figure(pair.name)} of {pair.part} is worse, {pair.new.value:.3f} after "
        f"{pair.now.value:.3f} ({pair.now.low:.3f}-{pair.now.high:.3f})"
        for pair in figures
        if pair.is_worse and pair.new is not None and pair.now is not None
    ]
