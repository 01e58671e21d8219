"""Measurements of scans: the input gate's verdict, distance and components of the embedding, pixel statistics

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

The release before cannot read a card that has a gate, and so scores nothing that ought to be measured.
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Move the schema to this revision."""
    op.create_table(
        "measurements",
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="of the scan's bytes"),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("preprocessing", sa.String(length=16), nullable=False, comment="preprocessing version"),
        sa.Column(
            "gate_verdict",
            sa.String(length=32),
            nullable=True,
            comment="passed, or the reason for which the input gate rejects it, on or off; null: the card has no gate",
        ),
        sa.Column(
            "distance",
            sa.Double(),
            nullable=True,
            comment="of its embedding from the training scans'; null where it was not inferred",
        ),
        sa.Column(
            "components",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="the first principal components of its embedding; null where it was not inferred",
        ),
        sa.Column("brightness", sa.Double(), nullable=False, comment="mean gray, 0 black, 1 white"),
        sa.Column("contrast", sa.Double(), nullable=False, comment="standard deviation of the gray"),
        sa.Column("darkest", sa.Double(), nullable=False, comment="gray below which 5 % of the scan lies"),
        sa.Column("brightest", sa.Double(), nullable=False, comment="gray above which 5 % of the scan lies"),
        sa.Column("detail", sa.Double(), nullable=False, comment="mean step of the gray between neighbouring places"),
        sa.Column("symmetry", sa.Double(), nullable=False, comment="correlation of the scan with its mirror image"),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.CheckConstraint("distance >= 0", name=op.f("ck_measurements_distance_not_negative")),
        sa.ForeignKeyConstraint(["model_digest"], ["models.digest"], name=op.f("fk_measurements_model_digest")),
        sa.PrimaryKeyConstraint("sha256", "model_digest", "preprocessing", name=op.f("pk_measurements")),
    )


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.drop_table("measurements")
