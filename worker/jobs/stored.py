"""What is stored already of contents that were just read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from db.contents import find_predicted, find_verdicts
from db.engine import reading
from nightread.model.card import Card


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of some contents under one model.

    Attributes:
        predicted: SHA-256 digests of those that have a prediction for each label.
        verdicts: what the model's gate has said of those that it has seen, by digest.
    """

    predicted: set[str] = field(default_factory=set)
    verdicts: dict[str, str] = field(default_factory=dict)


#: Looks digests up.
FindStored = Callable[[Sequence[str]], Stored]


def find_under(engine: Engine, model_digest: str, card: Card) -> FindStored:
    """Return what looks contents up under one model, in one short transaction each time.

    Raises (when called):
        DatabaseUnavailable: the database does not answer.
    """
    preprocessing = card.preprocessing_version

    def find(digests: Sequence[str]) -> Stored:
        with reading(engine) as connection:
            predicted = find_predicted(connection, digests, model_digest, preprocessing, len(card.labels))
            verdicts = find_verdicts(connection, digests, model_digest, preprocessing) if card.gate else {}
        return Stored(predicted, verdicts)

    return find
