"""SQLite begins a question about a time at the scans of that time, not at all scores

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

SQLite takes any range for a fourth of the rows. For "last night's scores of 0.9 and more" it then reads every score:
2 s of ten million, where the scans of a night take 0.03. What it samples of the tables changes that by chance. So its
statistics are set by hand, as its manual describes: the index by time counts for a small one, the scores for fewer than
the scans. A user's own ANALYZE replaces them.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

#: Rows of an index, then rows of an equal first column, and so on. The rows of a table are those of its last index.
_STATISTICS: Final = (
    {"table": "scans", "index": "ix_scans_finished_at_status", "rows": "20000 1 1"},
    {"table": "scans", "index": "uq_scans_path_run_id", "rows": "1000000 1 1"},
    {"table": "worklist_rows", "index": "ix_worklist_rows_scan_id_label", "rows": "300000 1 1"},
)


def upgrade() -> None:
    """Move the schema to this revision."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.execute("ANALYZE models")  # makes the table of statistics
    _forget_statistics()
    add = sa.text("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (:table, :index, :rows)")
    op.get_bind().execute(add, list(_STATISTICS))
    op.execute("ANALYZE sqlite_schema")  # this connection reads them again; others do when they are opened


def downgrade() -> None:
    """Move the schema back to the revision before."""
    if op.get_bind().dialect.name == "sqlite":
        _forget_statistics()


def _forget_statistics() -> None:
    op.execute("DELETE FROM sqlite_stat1 WHERE tbl IN ('scans', 'worklist_rows')")
