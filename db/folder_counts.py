"""Decisions of ended runs by folder and day, counted once: the view `folders` reads them, and counts other runs anew.

What a question over all nights costs must not grow with their scans. Counts are made after a run's end and are marked
with it, so that they are not read once the run has changed, whichever release has changed it.
"""

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    ForeignKey,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from db.columns import column
from db.dialects import allow_slow_statement
from db.engine import reading, write
from db.tables import metadata, runs
from db.views import folders

#: More rows than this are not kept: a folder for each scan would double what a run stores.
_MOST_ROWS = 2_000

#: Number of rows with a score of a run, by folder, day, label and decision.
folder_counts = Table(
    "folder_counts",
    metadata,
    column("run_id", ForeignKey("runs.id", ondelete="CASCADE")),
    column("folder", Text(), comment="of its scans, written as their paths are"),
    column("day", String(10), comment="on which they were scored, UTC"),
    column("label", String(64), comment="as in predictions"),
    column("decision", String(64), comment="as in predictions"),
    column("scans", BigInteger(), comment="number of scans"),
    PrimaryKeyConstraint("run_id", "folder", "day", "label", "decision"),
)


def find_uncounted(connection: Connection, limit: int) -> list[str]:
    """Return the ids of up to `limit` ended runs whose scans nobody has counted by folder."""
    uncounted = select(runs.c.id).where(runs.c.counted_at.is_(None), runs.c.finished_at.is_not(None))
    return list(connection.execute(uncounted.limit(limit)).scalars())


def count_folders(engine: Engine, run_id: str) -> bool:
    """Count an ended run by folder and keep the counts; nothing is locked while its scans are read.

    Returns:
        Whether the run is counted now; False if it has changed meanwhile, or has not ended.

    Raises:
        DatabaseUnavailable: the database does not answer; the next call does it.
    """
    with reading(engine) as connection:
        allow_slow_statement(connection)
        run = connection.execute(select(runs.c.finished_at, runs.c.found).where(runs.c.id == run_id)).first()
        if run is None or run.finished_at is None:
            return False
        names = [column.name for column in folder_counts.c]
        counts = select(*(folders.c[name] for name in names)).where(folders.c.run_id == run_id)
        rows = [row._asdict() for row in connection.execute(counts.limit(_MOST_ROWS + 1))]
    is_kept = len(rows) <= _MOST_ROWS

    def keep(connection: Connection) -> bool:
        same = (runs.c.id == run_id, runs.c.finished_at == run.finished_at, runs.c.found == run.found)
        marked = update(runs).where(*same).values(
            counted_at=run.finished_at, counted_found=run.found if is_kept else None
        )  # fmt: skip
        if connection.execute(marked).rowcount != 1:
            return False
        connection.execute(delete(folder_counts).where(folder_counts.c.run_id == run_id))
        if rows and is_kept:
            connection.execute(insert(folder_counts), rows)
        return True

    return write(engine, keep)
