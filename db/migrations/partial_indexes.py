"""The indexes of some rows only, for whoever compares the tables with a database: importing this completes `metadata`.

They are not with the tables, since naming an option of PostgreSQL imports all of its dialect, at each start and for a
file too.
"""

from sqlalchemy import Column, Index, text

from db.tables import jobs, models, runs


def _index_where(condition: str, name: str, *columns: Column[object], unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, postgresql_where=text(condition), sqlite_where=text(condition))


# One production model at most, whoever promotes and however many do so at once.
_index_where("stage = 'production'", "uq_models_production", models.c.stage, unique=True)
# Whoever closes runs or looks for orphans must not look at every night that ever was.
_index_where("status IN ('queued', 'running')", "ix_runs_open", runs.c.id)
# What the sweeper looks at: open jobs alone, of which there are few among the many that are done.
_index_where("status <> 'done'", "ix_jobs_open", jobs.c.created_at, jobs.c.id)
# The same of one run: is it at its end, and what of it is due?
_index_where("status <> 'done'", "ix_jobs_open_of_run", jobs.c.run_id, jobs.c.created_at, jobs.c.id)
_index_where("crashes > 0", "ix_jobs_crashed", jobs.c.id)
