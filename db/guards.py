"""What the guards of runs found, and the runs that nobody has judged yet."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select, update

from db.tables import REASON_TEXT_LENGTH, runs
from db.types import RunStatus


def find_unjudged(connection: Connection) -> Sequence[str]:
    """Return the ids of finished runs that have guards and were not judged by them."""
    return (
        connection.execute(
            select(runs.c.id).where(
                runs.c.guard.is_(None),
                runs.c.guards.is_not(None),
                runs.c.finished_at.is_not(None),
                runs.c.status == RunStatus.FINISHED,
            )
        )
        .scalars()
        .all()
    )


def store_guard(connection: Connection, run_id: str, guard: str, text: str) -> bool:
    """Store what the guards of a finished run found; returns False if another process did so before."""
    judged = update(runs).where(runs.c.id == run_id, runs.c.guard.is_(None), runs.c.status == RunStatus.FINISHED)
    values = {"guard": guard, "guard_text": text[:REASON_TEXT_LENGTH] or None}
    return connection.execute(judged.values(values)).rowcount == 1


def find_night_sizes(connection: Connection, schedule: str, run_id: str, nights: int) -> list[int]:
    """Return the numbers of scans of the last nights of a schedule that held any, without the run itself.

    Scans that `prune` has deleted count.
    """
    query = (
        select(runs.c.found + func.coalesce(runs.c.pruned, 0))
        .where(
            runs.c.schedule == schedule, runs.c.id != run_id, runs.c.found > 0, runs.c.status == RunStatus.FINISHED
        )
        .order_by(runs.c.created_at.desc())
        .limit(nights)
    )  # fmt: skip
    return list(connection.execute(query).scalars())
