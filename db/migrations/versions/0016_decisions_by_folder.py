"""Decisions by folder and day

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

A new table, two columns that the release before leaves empty, and a view. Earlier runs are counted by the sweeps that
follow, a few at a time; until then, and where a run has changed since, the view counts scans.
"""

import sqlalchemy as sa
from alembic import op

from db.migrations.views import ViewColumn, drop_views, replace_view
from db.types import UtcDateTime

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_IS_COUNTED = "coalesce(runs.counted_at = runs.finished_at AND runs.counted_found = runs.found, false)"
_FOLDER = {
    "postgresql": "left(scans.path, length(scans.path) - position('/' IN reverse(scans.path)))",
    "sqlite": "rtrim(rtrim(scans.path, replace(scans.path, '/', '')), '/')",
}
_DAY = {
    "postgresql": "to_char(scans.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "sqlite": "substr(scans.finished_at, 1, 10)",
}
_KEPT = f"""\
SELECT folder_counts.run_id AS run_id, folder_counts.folder AS folder, folder_counts.day AS day,
        folder_counts.label AS label, folder_counts.decision AS decision, folder_counts.scans AS scans
    FROM runs JOIN folder_counts ON folder_counts.run_id = runs.id
    WHERE {_IS_COUNTED}"""  # noqa: S608  # our own text


def _list_counted(dialect: str) -> str:
    """Return what is counted of a run's scans, from their SELECT on."""
    of_row = "worklist_rows.label AS label, worklist_rows.decision AS decision"
    return f"{_FOLDER[dialect]} AS folder, {_DAY[dialect]} AS day, {of_row}, count(*) AS scans"


# Each run that is not counted is looked up on its own: planners think that most runs are such, and would read all
# scans for none.
_COUNTED_ANEW = {
    "postgresql": f"""\
SELECT runs.id, found.folder, found.day, found.label, found.decision, found.scans
    FROM runs CROSS JOIN LATERAL (
        SELECT {_list_counted("postgresql")}
        FROM scans JOIN worklist_rows ON worklist_rows.scan_id = scans.id
        WHERE scans.run_id = runs.id AND scans.status = 'scored'
        GROUP BY 1, 2, 3, 4
    ) AS found
    WHERE NOT {_IS_COUNTED}""",  # noqa: S608  # our own text
    "sqlite": f"""\
SELECT runs.id, {_list_counted("sqlite")}
    FROM runs CROSS JOIN scans ON scans.run_id = runs.id AND scans.status = 'scored'
    CROSS JOIN worklist_rows ON worklist_rows.scan_id = scans.id
    WHERE NOT {_IS_COUNTED}
    GROUP BY runs.id, 2, 3, 4, 5""",  # noqa: S608  # our own text
}
_FOLDERS = (
    ViewColumn("run_id", "counts.run_id", "the run"),
    ViewColumn("run", "runs.name", "name of the run"),
    ViewColumn("model", "models.name || '@' || models.version", "model of the run, NAME@VERSION"),
    ViewColumn("created", "runs.created_at", "when the run was created, UTC"),
    ViewColumn("folder", "counts.folder", "folder of the scans, written as their paths are"),
    ViewColumn("day", "counts.day", "on which they were scored, UTC: YYYY-MM-DD"),
    ViewColumn("label", "counts.label", "label of the score"),
    ViewColumn("decision", "counts.decision", "the label, its negative, or uncertain"),
    ViewColumn("scans", "counts.scans", "scans with that decision"),
)


def upgrade() -> None:
    """Move the schema to this revision."""
    op.add_column(
        "runs",
        sa.Column(
            "counted_at",
            UtcDateTime(),
            nullable=True,
            comment="its end at which folder_counts were made; null: not yet",
        ),
    )
    op.add_column(
        "runs",
        sa.Column(
            "counted_found", sa.Integer(), nullable=True, comment="found at that time; null: it has too many folders"
        ),
    )
    op.create_table(
        "folder_counts",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False, comment="of its scans, written as their paths are"),
        sa.Column("day", sa.String(length=10), nullable=False, comment="on which they were scored, UTC"),
        sa.Column("label", sa.String(length=64), nullable=False, comment="as in predictions"),
        sa.Column("decision", sa.String(length=64), nullable=False, comment="as in predictions"),
        sa.Column("scans", sa.BigInteger(), nullable=False, comment="number of scans"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_folder_counts_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "folder", "day", "label", "decision", name=op.f("pk_folder_counts")),
    )
    uncounted = sa.text("counted_at IS NULL AND finished_at IS NOT NULL")
    op.create_index("ix_runs_uncounted", "runs", ["id"], postgresql_where=uncounted, sqlite_where=uncounted)
    dialect = op.get_bind().dialect.name
    source = f"""\
FROM (
    {_KEPT}
    UNION ALL
    {_COUNTED_ANEW[dialect]}
) AS counts
JOIN runs ON runs.id = counts.run_id
JOIN models ON models.digest = runs.model_digest"""
    replace_view("folders", "one row for each run, folder, day, label and decision", _FOLDERS, source)


def downgrade() -> None:
    """Move the schema back to the revision before."""
    drop_views("folders")
    op.drop_index("ix_runs_uncounted", table_name="runs")
    op.drop_table("folder_counts")
    op.drop_column("runs", "counted_found")
    op.drop_column("runs", "counted_at")
