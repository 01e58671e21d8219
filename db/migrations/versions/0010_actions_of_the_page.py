"""Actions of the worklist page, for audit

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

A new table; the release before does not know it. It refers to no other table: the audit outlives what it tells of.
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Move the schema to this revision."""
    op.create_table(
        "page_actions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.Column("user_name", sa.String(length=200), nullable=False, comment="who did it"),
        sa.Column("role", sa.String(length=16), nullable=False, comment="of the user then: view, mark or operate"),
        sa.Column("action", sa.String(length=32), nullable=False, comment="what was done, such as login or retry"),
        sa.Column("run_id", sa.String(length=32), nullable=True, comment="the run that it was done to"),
        sa.Column("scan_id", sa.BigInteger(), nullable=True, comment="the scan that it was done to"),
        sa.Column("detail", sa.String(length=200), nullable=True, comment="more of it; holds no path"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_page_actions")),
    )


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.drop_table("page_actions")
