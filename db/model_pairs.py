"""Read-only queries over two models' predictions for the scans of one run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select

from db.bulk import ROWS_PER_FETCH
from db.dialects import allow_slow_reader
from db.run_history import find_newest_of
from db.tables import predictions, scans
from db.types import ScanStatus


@dataclass(frozen=True, slots=True)
class ScoredScan:
    """A scan of a run that has a score."""

    id: int
    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Scores and decisions of two models for one label of one scan."""

    path: str
    label: str
    score_before: float
    decision_before: str
    score_after: float
    decision_after: str


@dataclass(frozen=True, slots=True)
class ModelKey:
    """Key of a model's predictions, and the first of its labels."""

    digest: str
    preprocessing: str
    first_label: str


@dataclass(frozen=True, slots=True)
class NightPairs:
    """Decisions of two models on the newest finished run of the first one.

    Attributes:
        run_id: the run.
        run: its name.
        scored: scans that it has scored.
        compared: of those, scans that the second model has scored, too.
        flips: scans by (label, decision before, decision after), where the decisions differ.
    """

    run_id: str
    run: str
    scored: int
    compared: int
    flips: dict[tuple[str, str, str], int]

    def describe(self) -> dict[str, object]:
        """Return the counts for a program."""
        return {
            "run": self.run_id, "name": self.run, "scored": self.scored, "compared": self.compared,
            "flips": [
                {"label": label, "before": before, "after": after, "scans": count}
                for (label, before, after), count in self.flips.items()
            ],
        }  # fmt: skip


def count_scored(connection: Connection, run_id: str) -> int:
    """Count the scored scans of a run."""
    query = select(func.count()).where(scans.c.run_id == run_id, scans.c.status == ScanStatus.SCORED)
    return int(connection.execute(query).scalar_one())


def count_unpredicted(connection: Connection, run_id: str, model: ModelKey) -> int:
    """Count the scored scans of a run without a prediction of `model`."""
    return int(connection.execute(select(func.count()).where(_is_unpredicted(run_id, model))).scalar_one())


def load_unpredicted(
    connection: Connection, run_id: str, model: ModelKey, *, after_id: int, limit: int
) -> list[ScoredScan]:
    """Return the next scored scans of a run without a prediction of `model`, by id."""
    query = (
        select(scans.c.id, scans.c.path, scans.c.size_bytes, scans.c.sha256)
        .where(_is_unpredicted(run_id, model), scans.c.id > after_id)
        .order_by(scans.c.id)
        .limit(limit)
    )
    return [ScoredScan(*row) for row in connection.execute(query)]


def stream_pairs(
    connection: Connection, run_id: str, before: ModelKey, after: ModelKey, labels: Sequence[str]
) -> Iterator[Pair]:
    """Yield the pairs of a run's scans for `labels`, which both models have, in the order the scans were found."""
    allow_slow_reader(connection)
    query = _select_pairs(run_id, before, after, labels).order_by("id", "label")
    for row in connection.execute(query.execution_options(yield_per=ROWS_PER_FETCH)):
        yield Pair(*row[1:])


def count_pairs(connection: Connection, before: ModelKey, after: ModelKey, labels: Sequence[str]) -> NightPairs | None:
    """Count the decisions of two models on the newest finished run of `before`; None if `after` has scored none of it.

    Args:
        connection: of the database.
        before: the model of the run.
        after: the other model.
        labels: which both models have.
    """
    allow_slow_reader(connection)
    run = find_newest_of(connection, before.digest)
    scored = count_scored(connection, run.id) if run is not None else 0
    compared = scored - count_unpredicted(connection, run.id, after) if run is not None else 0
    if run is None or not compared or not labels:
        return None
    pairs = _select_pairs(run.id, before, after, labels).subquery()
    flips = (
        select(pairs.c.label, pairs.c.decision_before, pairs.c.decision_after, func.count())
        .where(pairs.c.decision_before != pairs.c.decision_after)
        .group_by(pairs.c.label, pairs.c.decision_before, pairs.c.decision_after)
        .order_by(func.count().desc(), pairs.c.label, pairs.c.decision_before, pairs.c.decision_after)
    )
    counts = {(row[0], row[1], row[2]): row[3] for row in connection.execute(flips)}
    return NightPairs(run.id, run.name, scored, compared, counts)


def _select_pairs(run_id: str, before: ModelKey, after: ModelKey, labels: Sequence[str]) -> Select[Any]:
    old, new = predictions.alias("before"), predictions.alias("after")
    return (
        select(
            scans.c.id, scans.c.path, old.c.label, old.c.score.label("score_before"),
            old.c.decision.label("decision_before"), new.c.score.label("score_after"),
            new.c.decision.label("decision_after"),
        )
        .join(old, old.c.sha256 == scans.c.sha256)
        .join(new, and_(new.c.sha256 == scans.c.sha256, new.c.label == old.c.label))
        .where(
            scans.c.run_id == run_id,
            scans.c.status == ScanStatus.SCORED,
            old.c.model_digest == before.digest,
            old.c.preprocessing == before.preprocessing,
            old.c.label.in_(labels),
            new.c.model_digest == after.digest,
            new.c.preprocessing == after.preprocessing,
        )
    )  # fmt: skip


def _is_unpredicted(run_id: str, model: ModelKey) -> ColumnElement[bool]:
    # All labels of one content are stored in one statement, so checking the first one suffices.
    predicted = (
        select(predictions.c.sha256)
        .where(
            predictions.c.sha256 == scans.c.sha256,
            predictions.c.model_digest == model.digest,
            predictions.c.preprocessing == model.preprocessing,
            predictions.c.label == model.first_label,
        )
        .exists()
    )
    return and_(scans.c.run_id == run_id, scans.c.status == ScanStatus.SCORED, ~predicted)
