"""Predictions and gate verdicts by content key: SHA-256 digest, model digest and preprocessing version."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Select, Table, and_, bindparam, func, select

from db.dialects import built_once
from db.tables import measurements, predictions, scans


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


def find_predicted(
    connection: Connection, digests: Sequence[str], model_digest: str, preprocessing: str, label_count: int
) -> set[str]:
    """Return the subset of `digests` (SHA-256 of scans) with a prediction for every label of the model."""
    if not digests:
        return set()
    wanted = bind_contents(digests, model_digest, preprocessing) | {"label_count": label_count}
    return set(connection.execute(_select_predicted(connection), wanted).scalars())


@built_once
def _select_predicted(_: str) -> Select[str]:
    return (
        select(predictions.c.sha256)
        .where(has_bound_content(predictions))
        .group_by(predictions.c.sha256)
        .having(func.count() == bindparam("label_count", type_=Integer()))
    )


def find_verdicts(
    connection: Connection, digests: Sequence[str], model_digest: str, preprocessing: str
) -> dict[str, str]:
    """Return the stored gate verdicts by digest, for those of `digests` (SHA-256 of scans) that have one."""
    if not digests:
        return {}
    wanted = bind_contents(digests, model_digest, preprocessing)
    return {row.sha256: row.gate_verdict for row in connection.execute(_select_verdicts(connection), wanted)}


def find_brightness(connection: Connection, digests: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Return (brightness rule, contradictions) by digest, from an earlier scan with the same content."""
    if not digests:
        return {}
    rows = connection.execute(_select_brightness(connection), {"digests": digests})
    return {row.sha256: (row.brightness_rule, row.contradictions) for row in rows}


@built_once
def _select_brightness(_: str) -> Select[str, str, str]:
    return (
        select(scans.c.sha256, func.max(scans.c.brightness_rule).label("brightness_rule"),
               func.max(scans.c.contradictions).label("contradictions"))
        .where(scans.c.sha256.in_(bindparam("digests", expanding=True)), scans.c.brightness_rule.is_not(None))
        .group_by(scans.c.sha256)
    )  # fmt: skip


@built_once
def _select_verdicts(_: str) -> Select[str, str]:
    return select(measurements.c.sha256, measurements.c.gate_verdict).where(
        has_bound_content(measurements), measurements.c.gate_verdict.is_not(None)
    )
