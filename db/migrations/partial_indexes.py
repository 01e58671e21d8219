"""Partial indexes, and those of one dialect; importing this module adds them to `metadata`, as migrations need.

They are kept apart from the tables because a PostgreSQL option imports that whole dialect, at each start and for SQLite
too.
"""

from sqlalchemy import Column, Index, text

from db.deliveries import deliveries
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
# What other systems have not got yet: few of many.
_index_where("status <> 'sent'", "ix_deliveries_unsent", deliveries.c.status)
# Ended runs whose scans nobody has counted by folder.
_index_where("counted_at IS NULL AND finished_at IS NOT NULL", "ix_runs_uncounted", runs.c.id)
# Most scans of a night are no DICOM files.
_index_where("study_uid IS NOT NULL", "ix_scans_study_uid", scans.c.study_uid)
# SQLite's LIKE disregards case, so that only such an index serves it.
Index("ix_scans_path_nocase", scans.c.path.collate("NOCASE")).ddl_if(dialect="sqlite")
# What was said of one file, and of the files of a folder by LIKE 'FOLDER/%'.
Index("uq_scans_path_run_id", scans.c.path, scans.c.run_id, unique=True, postgresql_ops={"path": "text_pattern_ops"})
