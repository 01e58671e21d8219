"""What is stored of contents under one model, found by its key: SHA-256 digest, model and preprocessing version."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, bindparam


def is_of_contents(table: Table) -> ColumnElement[bool]:
    """Of a row of `predictions` or `measurements`: that its key is one which `name_contents` gives as parameters."""
    return and_(
        table.c.sha256.in_(bindparam("digests", expanding=True)),
        table.c.model_digest == bindparam("of_model"),
        table.c.preprocessing == bindparam("of_preprocessing"),
    )


def name_contents(digests: Sequence[str], model_digest: str, preprocessing: str) -> dict[str, Any]:
    """Return the parameters of a statement that asks for some contents under one model."""
    return {"digests": digests, "of_model": model_digest, "of_preprocessing": preprocessing}
