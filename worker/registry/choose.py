"""Choice of a new run's model: the requested one, else the production model, else the shipped bundle."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from db.engine import make_engine, reading
from db.registry import NewModel, StoredModel, explain_retired, find_model, find_production
from db.schema import ensure_schema
from db.types import ModelStage
from nightread.errors import CardMismatch, WrongStage
from nightread.model.bundle import DEFAULT_MODEL, Bundle, find_bundle, load_bundle
from nightread.settings import Settings


class Why(StrEnum):
    """Reason for the choice of a model, for messages."""

    ASKED = "asked for by --model or NIGHTREAD_MODEL"
    PRODUCTION = "the production model"
    SHIPS = "the bundled default; no production model is set"


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen model bundle, read and checked.

    Attributes:
        bundle: the bundle.
        why: the rule that chose it.
        stored: its row in the database; None if it has none yet.
    """

    bundle: Bundle
    why: Why
    stored: StoredModel | None

    @property
    def is_retired(self) -> bool:
        """Whether the model is retired, so that new runs with it are refused."""
        return self.stored is not None and self.stored.stage is ModelStage.RETIRED


def choose_bundle(
    engine: Engine,
    settings: Settings,
    *,
    allow_retired: bool = False,
    load: Callable[[Path], Bundle] = load_bundle,
) -> Choice:
    """Choose the model of a new run, and read its bundle.

    Args:
        engine: the database, its schema checked.
        settings: `model` and `models_dir`.
        allow_retired: for callers that create no run.
        load: reads the bundle in a folder.

    Raises:
        ModelError: the bundle is missing or damaged, or the database has another digest for its name and version.
        WrongStage: the model is retired.
    """
    production = None
    if not settings.model:
        with reading(engine) as connection:
            production = find_production(connection)
    if production is not None:
        return Choice(load_stored(production, settings, load), Why.PRODUCTION, production)
    bundle = load(find_bundle(settings.model or DEFAULT_MODEL, settings.models_dir))
    with reading(engine) as connection:
        stored = find_model(connection, bundle.card.name, bundle.card.version)
    check_digest(bundle, stored)
    choice = Choice(bundle, Why.ASKED if settings.model else Why.SHIPS, stored)
    if choice.is_retired and not allow_retired:
        raise WrongStage(explain_retired(bundle.card.reference))
    return choice


def choose_without_run(settings: Settings) -> Bundle:
    """Choose the model that a new run would take, for a caller that stores nothing.

    The database is asked only where no model is named, and an SQLite file that is not there is not made.

    Raises:
        ModelError: the bundle is missing or damaged.
        DatabaseError: the database does not answer, or has another schema.
    """
    url = settings.database_url.get_secret_value()
    if settings.model or (url.startswith("sqlite") and not Path(make_url(url).database or "").expanduser().exists()):
        return load_bundle(find_bundle(settings.model, settings.models_dir))
    engine = make_engine(url)
    ensure_schema(engine)
    return choose_bundle(engine, settings, allow_retired=True).bundle


def load_stored(stored: StoredModel, settings: Settings, load: Callable[[Path], Bundle] = load_bundle) -> Bundle:
    """Read the bundle of a model in the database.

    Raises:
        ModelError: the bundle is not on this machine, damaged, or has another digest.
    """
    try:
        folder = find_bundle(stored.reference, settings.models_dir)
    except CardMismatch:
        raise CardMismatch(
            f"{stored.reference} ({stored.stage.value}) is not on this machine: copy its bundle to "
            f"NIGHTREAD_MODELS_DIR/{stored.name}/{stored.version}, or name another with --model or NIGHTREAD_MODEL"
        ) from None
    bundle = load(folder)
    check_digest(bundle, stored)
    return bundle


def check_digest(bundle: Bundle, stored: StoredModel | None) -> None:
    """Check that a bundle has the digest that the database has for its name and version.

    Raises:
        CardMismatch: the digests differ.
    """
    if stored is not None and stored.digest != bundle.digest:
        raise CardMismatch(
            f"{bundle.card.reference} on this machine has the digest {bundle.digest[:12]}, in the database "
            f"{stored.digest[:12]}; bundles never change: copy the right one to NIGHTREAD_MODELS_DIR, or give this one "
            "another version"
        )


def describe_model(bundle: Bundle) -> NewModel:
    """Return the row of a bundle for the table `models`."""
    card = bundle.card
    return NewModel(bundle.digest, card.name, card.version, card.preprocessing_version, card.model_dump(mode="json"))
