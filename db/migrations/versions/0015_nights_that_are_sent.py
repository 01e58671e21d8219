"""Nights that are sent

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

Two new columns of `runs`, both null, and an index; the release before does not know them, and sends no night.
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_UNSENT = sa.text("status <> 'sent'")


def upgrade() -> None:
    """Move the schema to this revision."""
    for column in (
        sa.Column(
            "sending",
            sa.String(length=16),
            nullable=True,
            comment="of a schedule that sends: sent, held or dead; null: still to be sent, or nothing is",
        ),
        sa.Column(
            "sending_not_before",
            UtcDateTime(),
            nullable=True,
            comment="claim or back-off: no other process sends it until then, UTC",
        ),
    ):
        op.add_column("runs", column)
    op.create_index("ix_deliveries_unsent", "deliveries", ["status"], postgresql_where=_UNSENT, sqlite_where=_UNSENT)


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.drop_index("ix_deliveries_unsent", table_name="deliveries")
    op.drop_column("runs", "sending_not_before")
    op.drop_column("runs", "sending")
