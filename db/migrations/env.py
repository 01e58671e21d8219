"""Alembic's entry: runs migrations on the connection that `db.schema.upgrade` hands over."""

from alembic import context

from db.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter most things in place
    transaction_per_migration=False,  # all or nothing: an interrupted upgrade leaves the old schema whole
)
with context.begin_transaction():
    context.run_migrations()
