"""Partial indexes, and one by hash; importing this module adds them to `metadata`, for migrations and comparisons.

They are kept apart from the tables because a PostgreSQL option imports that whole dialect, at each start and for SQLite
too.
"""

from sqlalchemy import Column, Index, text

from db.tables import jobs, models, runs, scans


def _index_where(condition: str, name: str, *columns: Column[object], unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, postgresql_where=text(condition), sqlite_where=text(condition))


# At most one production model, even under concurrent promotions.
_index_where("stage = 'production'", "uq_models_production", models.c.stage, unique=True)
# For closing runs and finding orphans, without scanning all past runs.
_index_where("status IN ('queued', 'running')", "ix_runs_open", runs.c.id)
# For the sweeper: open jobs only, which are few.
_index_where("status <> 'done'", "ix_jobs_open", jobs.c.created_at, jobs.c.id)
# The open jobs of one run: has it ended, and which of its jobs are due?
_index_where("status <> 'done'", "ix_jobs_open_of_run", jobs.c.run_id, jobs.c.created_at, jobs.c.id)
_index_where("crashes > 0", "ix_jobs_crashed", jobs.c.id)
# Runs whose end nobody has judged by their guards.
_index_where("guard IS NULL AND guards IS NOT NULL AND finished_at IS NOT NULL", "ix_runs_unjudged", runs.c.id)
# The rows of one file in all runs. By hash: a path may be longer than a B-tree takes, and the index stays small.
Index("ix_scans_path", scans.c.path, postgresql_using="hash")
