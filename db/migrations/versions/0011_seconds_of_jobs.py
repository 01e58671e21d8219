"""Seconds of jobs by stage, and their batches

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

The release before leaves the columns empty. Rows are not rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_STAGES = ("read", "hash", "decode", "prepare", "infer", "commit")
_COUNTS = {"batches": "calls of the model, without the gate's second looks", "batched_scans": "scans in them"}


def upgrade() -> None:
    """Move the schema to this revision."""
    for stage in _STAGES:
        comment = "seconds in this stage, of all threads together"
        op.add_column("jobs", sa.Column(f"{stage}_s", sa.Double(), nullable=True, comment=comment))
    for name, comment in _COUNTS.items():
        op.add_column("jobs", sa.Column(name, sa.Integer(), nullable=True, comment=comment))


def downgrade() -> None:
    """Move the schema back to the revision before."""
    for name in (*_COUNTS, *(f"{stage}_s" for stage in _STAGES)):
        op.drop_column("jobs", name)
