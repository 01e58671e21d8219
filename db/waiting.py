"""What is on its way from the table of jobs to a worker, as whoever publishes must know it."""

from sqlalchemy import Connection, func, select

from db.tables import jobs
from db.types import JobStatus, database_now


def count_just_published(connection: Connection, within_s: float) -> int:
    """Return for how many jobs a message was sent in the last `within_s` seconds, or is being sent, and not yet taken.

    Args:
        connection: in a transaction that keeps other publishers out.
        within_s: longer than sending takes.
    """
    query = (
        select(func.count())
        .select_from(jobs)
        .where(jobs.c.status == JobStatus.QUEUED, jobs.c.published_at > database_now(-within_s))
    )
    return int(connection.execute(query).scalar_one())
