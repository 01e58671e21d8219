"""Reasons of promotions that the figures speak against

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

The release before leaves the column empty. Rows are not rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Move the schema to this revision."""
    op.add_column(
        "stage_changes",
        sa.Column(
            "why",
            sa.String(length=500),
            nullable=True,
            comment="reason of a promotion in spite of its figures; null: none",
        ),
    )


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.drop_column("stage_changes", "why")
