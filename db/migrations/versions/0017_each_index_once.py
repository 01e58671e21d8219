"""Each index once, and rows of the worklist by their run

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

On SQLite the constraint UNIQUE (run_id, path) of `scans` had an index of its own beside the unique index on (path,
run_id), which serves all queries. SQLite drops no constraint without copying the table, whose rows would go through all
other indexes again. An index of a constraint is stored like any other: here it gets a name in the schema, and is
dropped by it. A library that does not allow that (SQLITE_DBCONFIG_DEFENSIVE) keeps the index, which costs time only.

On PostgreSQL the view `results` now joins rows of the worklist by their run, too: a question about one run reads its
rows by the key, which begins with the run, instead of those of all runs. The index that begins with the scan gets the
run in place of the label: without statistics a planner would else use the key for each single scan. It took 13 s for
two million scans on a busy machine, during which workers wait with their commits.
"""

from importlib import import_module
from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import OperationalError

from db.migrations.views import replace_view

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_CONSTRAINT: Final = "uq_scans_run_id_path"
_CLAUSE: Final = f"\n\tCONSTRAINT {_CONSTRAINT} UNIQUE (run_id, path), "
_JOIN: Final = "worklist_rows.scan_id = scans.id"


def upgrade() -> None:
    """Move the schema to this revision."""
    if op.get_bind().dialect.name == "sqlite":
        _name_index_of_constraint(op.get_bind())
        op.execute(f"DROP INDEX IF EXISTS {_CONSTRAINT}")
        return
    op.create_index("ix_worklist_rows_scan_id_run_id", "worklist_rows", ["scan_id", "run_id"])
    op.drop_index("ix_worklist_rows_scan_id_label", table_name="worklist_rows")
    _replace_results(f"{_JOIN} AND worklist_rows.run_id = scans.run_id")


def downgrade() -> None:
    """Move the schema back to the revision before."""
    if op.get_bind().dialect.name == "sqlite":  # an index does what the constraint did
        op.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {_CONSTRAINT} ON scans (run_id, path)")
        return
    op.create_index("ix_worklist_rows_scan_id_label", "worklist_rows", ["scan_id", "label"])
    op.drop_index("ix_worklist_rows_scan_id_run_id", table_name="worklist_rows")
    _replace_results(_JOIN)


def _replace_results(join: str) -> None:
    """Replace the view `results` by one that joins rows of the worklist in another way."""
    views = import_module("db.migrations.versions.0009_views_that_answer_questions")
    source = views.RESULTS_FROM["postgresql"].replace(_JOIN, join)
    comment = "one row for each label of a scored scan, and one for each other scan"
    replace_view("results", comment, views.list_results("postgresql"), source)


def _name_index_of_constraint(connection: sa.Connection) -> None:
    """Turn the constraint into an index of its name; SQLite only."""
    table = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'scans'").scalar_one()
    automatic = [
        name
        for _, name, is_unique, origin, _ in connection.exec_driver_sql("PRAGMA index_list(scans)")
        if is_unique and origin == "u"
    ]
    if len(automatic) != 1 or table.count(_CLAUSE) != 1:
        return
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    try:
        connection.exec_driver_sql(
            "UPDATE sqlite_master SET name = ?, sql = ? WHERE type = 'index' AND name = ?",
            (_CONSTRAINT, f"CREATE UNIQUE INDEX {_CONSTRAINT} ON scans (run_id, path)", automatic[0]),
        )
        connection.exec_driver_sql(
            "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = 'scans'",
            (table.replace(_CLAUSE, ""),),
        )
    except OperationalError:  # "table sqlite_master may not be modified"
        return
    finally:
        connection.exec_driver_sql("PRAGMA writable_schema = RESET")  # reads the schema again
