"""What a run came to beside it: its counts and its worklist, so that looking costs the same however large it is

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

The two tables begin empty: a run without a row in `tallies` is counted as before. A worker of the release before fills
neither, so a run that it had a part in is counted as before once it has ended, by sums that do not agree. Building the
two indexes on `scans` takes about two seconds for each million of them, during which workers wait with their commits.
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OPEN_JOBS = sa.text("status <> 'done'")
_OPEN_RUNS = sa.text("status IN ('queued', 'running')")
_CRASHED_JOBS = sa.text("crashes > 0")


def upgrade() -> None:
    """Move the schema to this revision."""
    op.create_table(
        "tallies",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column(
            "slot",
            sa.SmallInteger(),
            nullable=False,
            comment="one of a few that workers add to, so that they seldom wait for each other; the count is the sum",
        ),
        sa.Column(
            "kind",
            sa.String(length=16),
            nullable=False,
            comment="found, scored, rejected or failed scans; label, decision or provider of their rows",
        ),
        sa.Column(
            "name",
            sa.String(length=64),
            nullable=False,
            comment="the reason code, label, decision or provider; or reused",
        ),
        sa.Column("count", sa.BigInteger(), nullable=False, comment="may be negative in one slot"),
        sa.Column(
            "changed_at", UtcDateTime(), nullable=False, comment="when something was last added by this slot, UTC"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_tallies_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "slot", "kind", "name", name=op.f("pk_tallies")),
    )
    op.create_table(
        "worklist_rows",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False, comment="as in predictions"),
        sa.Column("decision", sa.String(length=64), nullable=False, comment="as in predictions"),
        sa.Column(
            "minus_score",
            sa.Double(),
            nullable=False,
            comment="the negated score, so that the highest comes first in an ascending key",
        ),
        sa.Column("scan_id", sa.BigInteger(), nullable=False, comment="scans.id"),
        sa.PrimaryKeyConstraint("run_id", "label", "decision", "minus_score", "scan_id", name=op.f("pk_worklist_rows")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_jobs_open_of_run",
        "jobs",
        ["run_id", "created_at", "id"],
        unique=False,
        postgresql_where=_OPEN_JOBS,
        sqlite_where=_OPEN_JOBS,
    )
    op.create_index(
        "ix_jobs_crashed", "jobs", ["id"], unique=False, postgresql_where=_CRASHED_JOBS, sqlite_where=_CRASHED_JOBS
    )
    op.create_index("ix_runs_open", "runs", ["id"], unique=False, postgresql_where=_OPEN_RUNS, sqlite_where=_OPEN_RUNS)
    op.create_index(op.f("ix_scans_run_id_id"), "scans", ["run_id", "id"], unique=False)
    op.create_index(
        op.f("ix_scans_run_id_status_reused_id"), "scans", ["run_id", "status", "reused", "id"], unique=False
    )
    op.drop_index(op.f("ix_scans_run_id_status_reused"), table_name="scans")


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.create_index(op.f("ix_scans_run_id_status_reused"), "scans", ["run_id", "status", "reused"], unique=False)
    op.drop_index(op.f("ix_scans_run_id_status_reused_id"), table_name="scans")
    op.drop_index(op.f("ix_scans_run_id_id"), table_name="scans")
    op.drop_index("ix_runs_open", table_name="runs")
    op.drop_index("ix_jobs_crashed", table_name="jobs")
    op.drop_index("ix_jobs_open_of_run", table_name="jobs")
    op.drop_table("worklist_rows")
    op.drop_table("tallies")
