"""Rows that go with their run: the worklist's rows refer to it, and a run knows how many scans were pruned

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

Rows of runs that were deleted by hand are deleted first: the release before had no foreign key here. SQLite cannot add
one to a table, so it copies the table, about a second for each million rows.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = "fk_worklist_rows_run_id"


def upgrade() -> None:
    """Move the schema to this revision."""
    op.add_column(
        "runs", sa.Column("pruned", sa.Integer(), nullable=True, comment="scans that `prune` has deleted; null: none")
    )
    op.execute("DELETE FROM worklist_rows WHERE run_id NOT IN (SELECT id FROM runs)")
    with op.batch_alter_table("worklist_rows", table_kwargs={"sqlite_with_rowid": False}) as table:
        table.create_foreign_key(_KEY, "runs", ["run_id"], ["id"], ondelete="CASCADE")


def downgrade() -> None:
    """Move the schema back to the revision before."""
    with op.batch_alter_table("worklist_rows", table_kwargs={"sqlite_with_rowid": False}) as table:
        table.drop_constraint(_KEY, type_="foreignkey")
    op.drop_column("runs", "pruned")
