"""Owner of an embedded run: host, process id and start time of the process that scores it

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

The release before writes the three among the run's settings and leaves these columns empty. Rows are not rewritten:
where `host` is empty, `db.runs` reads the settings.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Move the schema to this revision."""
    op.add_column(
        "runs",
        sa.Column(
            "host", sa.String(length=200), nullable=True, comment="of an embedded run: the machine of its process"
        ),
    )
    op.add_column("runs", sa.Column("pid", sa.Integer(), nullable=True, comment="of an embedded run: its process"))
    op.add_column(
        "runs",
        sa.Column(
            "process_started",
            sa.String(length=32),
            nullable=True,
            comment="of an embedded run: when its process was started, in ticks since boot; a process id is used again",
        ),
    )


def downgrade() -> None:
    """Move the schema back to the revision before."""
    for name in ("process_started", "pid", "host"):
        op.drop_column("runs", name)
