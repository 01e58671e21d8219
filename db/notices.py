"""Notices: which ended runs somebody is to be told of; each is claimed by one process."""

from typing import Final

from sqlalchemy import Connection, or_, select, update

from db.runs import is_open
from db.tables import runs
from db.types import database_now

#: Older ends are no news: notices may have been switched on later.
_NEWS_S: Final = 86_400.0


def find_untold(connection: Connection) -> list[str]:
    """Return the ids of runs that have ended lately, are judged if they have guards, and of which nobody was told."""
    query = select(runs.c.id).where(
        ~is_open(),
        runs.c.finished_at > database_now(-_NEWS_S),
        runs.c.notified_at.is_(None),
        or_(runs.c.guards.is_(None), runs.c.guard.is_not(None)),
    )
    return list(connection.execute(query.order_by(runs.c.finished_at)).scalars())


def claim_notice(connection: Connection, run_id: str) -> bool:
    """Note that a run is told of now; returns False if another process has done so."""
    untold = update(runs).where(runs.c.id == run_id, runs.c.notified_at.is_(None), ~is_open())
    return connection.execute(untold.values(notified_at=database_now())).rowcount == 1


def release_notice(connection: Connection, run_id: str) -> None:
    """Undo `claim_notice`: the notice could not be delivered."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(notified_at=None))
