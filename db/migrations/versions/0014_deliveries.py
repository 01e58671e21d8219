"""Deliveries to other systems

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

A new table; the release before does not know it. Its rows go with their run, whoever deletes it.
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Move the schema to this revision."""
    status = sa.Enum("waiting", "sent", "dead", name="status", native_enum=False, create_constraint=True, length=16)
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=False, comment="the run that it was first sent for"),
        sa.Column("destination", sa.String(length=300), nullable=False, comment="TITLE@HOST:PORT or a URL"),
        sa.Column(
            "instance_uid", sa.String(length=64), nullable=False, comment="of the object; follows from the results"
        ),
        sa.Column("study_uid", sa.String(length=64), nullable=False, comment="DICOM (0020,000D)"),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="report or capture"),
        sa.Column("status", status, nullable=False, comment="waiting, sent or dead"),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="how often it was claimed"),
        sa.Column("not_before", UtcDateTime(), nullable=True, comment="claim or back-off: no attempt until then, UTC"),
        sa.Column(
            "error", sa.String(length=300), nullable=True, comment="of the last attempt; holds nothing of the object"
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.Column("sent_at", UtcDateTime(), nullable=True, comment="UTC"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_deliveries_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("destination", "instance_uid", name=op.f("uq_deliveries_destination_instance_uid")),
    )
    op.create_index("ix_deliveries_run_id", "deliveries", ["run_id"])


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.drop_table("deliveries")
