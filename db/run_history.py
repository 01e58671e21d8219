"""Earlier runs like a run: of the same model, and of the same schedule, folders or name."""

from sqlalchemy import Connection, select

from db.runs import RunInfo
from db.tables import runs
from db.types import RunStatus


def list_earlier(connection: Connection, run: RunInfo) -> list[str]:
    """Return the ids of the finished runs like `run` that began before it, oldest first."""
    query = (
        select(runs.c.id, runs.c.name, runs.c.schedule, runs.c.sources)
        .where(
            runs.c.model_digest == run.model_digest,
            runs.c.status == RunStatus.FINISHED,
            runs.c.created_at < run.created_at,
            runs.c.id != run.id,
        )
        .order_by(runs.c.created_at, runs.c.id)
    )
    return [
        row.id
        for row in connection.execute(query)
        if (run.schedule is not None and row.schedule == run.schedule)
        or row.sources == run.sources
        or row.name == run.name
    ]
