"""Predictions, gate verdicts and brightness by content key: SHA-256 digest, model digest and preprocessing version."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam

from db.dialects import built_once


class Stored(NamedTuple):
    """What is stored of some contents, by their SHA-256 digests.

    Attributes:
        predicted: those with a prediction for every label of the model.
        verdicts: the input gate's verdict under the model, where there is one.
        brightness: brightness rule and contradictions of one earlier scan; of contents in `predicted` or `verdicts`.
    """

    predicted: set[str]
    verdicts: dict[str, str]
    brightness: dict[str, tuple[str, str | None]]


def has_bound_content(table: Table) -> ColumnElement[bool]:
    """Match rows of `predictions` or `measurements` whose key is among the parameters of `bind_contents`."""
    return and_(
        table.c.sha256.in_(bindparam("digests", expanding=True)),
        table.c.model_digest == bindparam("of_model"),
        table.c.preprocessing == bindparam("of_preprocessing"),
    )


def bind_contents(digests: Sequence[str], model_digest: str, preprocessing: str) -> dict[str, Any]:
    """Return the parameters of a statement with `has_bound_content`."""
    return {"digests": digests, "of_model": model_digest, "of_preprocessing": preprocessing}


def find_stored(
    connection: Connection, digests: Sequence[str], model_digest: str, preprocessing: str, label_count: int
) -> Stored:
    """Look up what is stored of contents under one model.

    Args:
        connection: for reading.
        digests: SHA-256 digests of the contents.
        model_digest: of the model.
        preprocessing: the model's preprocessing version.
        label_count: number of the model's labels.
    """
    found = Stored(set(), {}, {})
    if not digests:
        return found
    key = (model_digest, preprocessing)
    looked_up = connection.exec_driver_sql(_look_up(connection), (*key, *key, _bind(connection, digests)))
    for digest, labels, verdict in looked_up.all():
        if labels == label_count:
            found.predicted.add(digest)
        if verdict is not None:
            found.verdicts[digest] = verdict
    if known := sorted(found.predicted | found.verdicts.keys()):
        rows = connection.exec_driver_sql(_look_up_brightness(connection), (_bind(connection, known),)).all()
        found.brightness.update({digest: (rule, contradictions) for digest, rule, contradictions in rows})
    return found


# Each content is looked up by its own key, in statements that the driver gets as they are: SQLAlchemy writes a list of
# parameters anew each time.
_GIVEN = {
    "sqlite": ("?", "(SELECT value AS sha256 FROM json_each(?)) AS given"),
    "postgresql": ("%s", "unnest(%s::text[]) AS given(sha256)"),
}


def _bind(connection: Connection, digests: Sequence[str]) -> str | list[str]:
    return json.dumps(digests) if connection.dialect.name == "sqlite" else list(digests)


@built_once
def _look_up(dialect: str) -> str:
    place, given = _GIVEN[dialect]
    is_content = f"sha256 = given.sha256 AND model_digest = {place} AND preprocessing = {place}"
    return (
        f"SELECT given.sha256, (SELECT count(*) FROM predictions WHERE {is_content}), "  # noqa: S608  # our own text
        f"(SELECT gate_verdict FROM measurements WHERE {is_content}) FROM {given}"
    )


@built_once
def _look_up_brightness(dialect: str) -> str:
    """Select one earlier scan of each content, however many there are.

    A range of one digest in its order, not an equality: a planner without statistics would rather read the table from
    its beginning for the first row that fits.
    """
    _, given = _GIVEN[dialect]
    return (
        "SELECT given.sha256, earlier.brightness_rule, earlier.contradictions "  # noqa: S608  # our own text
        f"FROM {given} JOIN scans AS earlier ON earlier.id = (SELECT id FROM scans "
        "WHERE scans.sha256 BETWEEN given.sha256 AND given.sha256 AND scans.brightness_rule IS NOT NULL "
        "ORDER BY scans.sha256 LIMIT 1)"
    )
