"""Stages that are kept: one production model at most, and who changed which stage when

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

The release before writes candidates alone and knows nothing of the new table, so both go on side by side.
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_IN_PRODUCTION = sa.text("stage = 'production'")


def upgrade() -> None:
    """Move the schema to this revision."""
    op.create_table(
        "stage_changes",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            comment="in the order of the changes",
        ),
        sa.Column("request", sa.String(length=32), nullable=False, comment="random; one command's changes share it"),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column(
            "stage",
            sa.Enum(
                "candidate", "production", "retired", name="stage", native_enum=False, create_constraint=True, length=16
            ),
            nullable=False,
            comment="the stage that it took",
        ),
        sa.Column(
            "cause",
            sa.Enum(
                "promoted",
                "replaced",
                "rolled-back",
                "retired",
                "restored",
                name="cause",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
            comment="promoted, replaced, rolled-back, retired or restored",
        ),
        sa.Column("changed_by", sa.String(length=200), nullable=False, comment="user@host of the command"),
        sa.Column("changed_at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.ForeignKeyConstraint(["model_digest"], ["models.digest"], name=op.f("fk_stage_changes_model_digest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stage_changes")),
    )
    op.create_index(op.f("ix_stage_changes_request"), "stage_changes", ["request"], unique=False)
    # No command of the release before promotes, but somebody may have done so by hand, and more than once.
    op.execute(
        "UPDATE models SET stage = 'candidate' WHERE stage = 'production' AND digest <> ("
        "SELECT digest FROM models WHERE stage = 'production' ORDER BY created_at DESC, digest LIMIT 1)"
    )
    op.create_index(
        "uq_models_production",
        "models",
        ["stage"],
        unique=True,
        postgresql_where=_IN_PRODUCTION,
        sqlite_where=_IN_PRODUCTION,
    )
    op.execute(
        "INSERT INTO stage_changes (request, model_digest, stage, cause, changed_by, changed_at) "
        "SELECT '00000000000000000000000000000002', digest, 'production', 'promoted', 'before schema 0002', created_at "
        "FROM models WHERE stage = 'production'"
    )


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.drop_index("uq_models_production", table_name="models")
    op.drop_table("stage_changes")
