"""Views with a comment on each column, created by the migrations.

PostgreSQL keeps the comments as `COMMENT ON`, SQLite in the stored text of the view. A view that exists is replaced in
place on PostgreSQL, since dropping it would take the grants of readers and whatever users built on it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from alembic import op


class ViewColumn(NamedTuple):
    """A column of a view."""

    name: str
    expression: str
    comment: str


def replace_view(name: str, comment: str, columns: Sequence[ViewColumn], source: str) -> None:
    """Create a view, or replace one with the same first columns.

    Args:
        name: name of the view.
        comment: what a row is.
        columns: in order; a replaced view may only gain columns at the end.
        source: the query from its FROM on.
    """
    connection = op.get_bind()
    is_postgresql = connection.dialect.name == "postgresql"
    if not is_postgresql:
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
    last = len(columns) - 1
    listed = "\n".join(
        f"    {column.expression} AS {column.name}{',' if index < last else ''}  -- {column.comment}"
        for index, column in enumerate(columns)
    )
    create = "CREATE OR REPLACE VIEW" if is_postgresql else "CREATE VIEW"
    connection.exec_driver_sql(f"{create} {name} AS\n-- {comment}\nSELECT\n{listed}\n{source}")
    if is_postgresql:
        connection.exec_driver_sql(f"COMMENT ON VIEW {name} IS {_quote(comment)}")
        for column in columns:
            connection.exec_driver_sql(f"COMMENT ON COLUMN {name}.{column.name} IS {_quote(column.comment)}")


def drop_views(*names: str) -> None:
    """Drop views, in the given order."""
    for name in names:
        op.get_bind().exec_driver_sql(f"DROP VIEW {name}")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
