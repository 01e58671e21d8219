"""Marks of users on scans

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

A new table; the release before does not know it. Its rows go with their scans, whichever release prunes them.
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_KINDS = ("seen", "agree", "disagree", "note")


def upgrade() -> None:
    """Move the schema to this revision."""
    op.create_table(
        "marks",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="in the order of the marks",
        ),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("scan_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False, comment="the model whose decision was judged"),
        sa.Column("sha256", sa.String(length=64), nullable=True, comment="of the scan's bytes"),
        sa.Column("user_name", sa.String(length=200), nullable=False, comment="who marked it"),
        sa.Column(
            "kind",
            sa.Enum(*_KINDS, name="kind", native_enum=False, length=16),
            nullable=False,
            comment="seen, agree, disagree or note",
        ),
        sa.Column("label", sa.String(length=64), nullable=True, comment="what the user says is right; null: no label"),
        sa.Column("note", sa.String(length=1000), nullable=True, comment="text of a note"),
        sa.Column("at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.Column("undone_at", UtcDateTime(), nullable=True, comment="when its user took it back, UTC"),
        sa.CheckConstraint("kind IN ('seen', 'agree', 'disagree', 'note')", name=op.f("ck_marks_kind")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_marks_run_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_marks_scan_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_digest"], ["models.digest"], name=op.f("fk_marks_model_digest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_marks")),
    )
    op.create_index(op.f("ix_marks_scan_id"), "marks", ["scan_id"])
    op.create_index(op.f("ix_marks_run_id_scan_id"), "marks", ["run_id", "scan_id"])


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.drop_table("marks")
