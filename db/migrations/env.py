"""Entry point of Alembic: runs migrations on the connection that `db.schema.upgrade` passes."""

from typing import Any

from alembic import context

from db import page_tables as _page_tables  # noqa: F401  # the same
from db.migrations import partial_indexes as _partial_indexes  # noqa: F401  # they complete the metadata
from db.tables import metadata
from nightread.failpoints import Point, failpoint


def _pass_revision(*_: Any, **__: Any) -> None:
    failpoint(Point.MIGRATE_AFTER_REVISION)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="schema_version",  # `alembic_version` is for releases up to schema 0005: see `db.schema`
    render_as_batch=True,  # SQLite cannot alter most things in place
    transaction_per_migration=False,  # atomic: an interrupted upgrade leaves the old schema intact
    on_version_apply=_pass_revision,
)
with context.begin_transaction():
    context.run_migrations()
