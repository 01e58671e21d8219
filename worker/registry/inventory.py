"""Inventory of the registry: the bundles on this machine and in the database, and their differences."""

from dataclasses import dataclass

from sqlalchemy import Engine

from db.engine import reading
from db.registry import StoredModel
from db.registry import list_models as list_stored
from nightread.errors import ModelError
from nightread.model.bundle import list_bundles, load_bundle
from nightread.model.card import Card
from nightread.settings import Settings


@dataclass(frozen=True, slots=True)
class Entry:
    """One model bundle.

    Attributes:
        reference: NAME@VERSION, from its folder or the database.
        digest: of the bundle on this machine, else in the database; None if unknown.
        labels: from the card.
        description: from the card.
        stage: in the database; None if it has no row there.
        is_here: whether this machine has the bundle, valid or not.
        difference: between machine and database, with the remedy; "" if there is none.
        error: why the bundle on this machine cannot be served; "" if it can.
    """

    reference: str
    digest: str | None
    labels: tuple[str, ...]
    description: str
    stage: str | None
    is_here: bool
    difference: str = ""
    error: str = ""


def list_registry(engine: Engine, settings: Settings) -> list[Entry]:
    """Return every bundle of this machine and of the database, by name and version."""
    with reading(engine) as connection:
        stored = {model.reference: model for model in list_stored(connection)}
    entries: dict[str, Entry] = {}
    for folder in list_bundles(settings.models_dir):
        reference = f"{folder.parent.name}@{folder.name}"
        if reference in entries:
            continue  # the operator's bundle hides the shipped one
        known = stored.get(reference)
        try:
            card = load_bundle(folder).card
        except ModelError as error:
            stage = None if known is None else known.stage.value
            entries[reference] = Entry(reference, None, (), "", stage, is_here=True, error=str(error))
        else:
            entries[reference] = _compare(reference, card, known)
    for reference, model in stored.items():
        if reference not in entries:
            entries[reference] = _describe_absent(model)
    return [entries[reference] for reference in sorted(entries)]


def _compare(reference: str, card: Card, known: StoredModel | None) -> Entry:
    difference = ""
    if card.reference != reference:
        difference = f"its card says {card.reference}: import it again, into the right folder"
    elif known is not None and known.digest != card.digest:
        difference = (
            f"the database has another bundle of this name, {known.digest[:12]}: copy that one here, or give this "
            "one another version"
        )
    stage = None if known is None else known.stage.value
    return Entry(reference, card.digest, card.labels, card.description, stage, is_here=True, difference=difference)


def _describe_absent(model: StoredModel) -> Entry:
    labels = tuple(str(label) for label in model.card.get("labels", ()))
    description = str(model.card.get("description", ""))
    difference = f"not on this machine: copy its bundle to NIGHTREAD_MODELS_DIR/{model.name}/{model.version}"
    return Entry(
        model.reference, model.digest, labels, description, model.stage.value, is_here=False, difference=difference
    )
