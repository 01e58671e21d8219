"""Notices: ended runs of which somebody is to be told.

What one address is to be told of one end of a run is a delivery of the kind `notice`: it is claimed under a lease and
attempted until the address has taken it. A run counts as told once every address has.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, func, or_, select, update

from db.deliveries import ClaimedDelivery, NewDelivery, add_deliveries, claim_due, deliveries
from db.runs import RunInfo, is_open
from db.tables import runs
from db.types import DeliveryStatus, database_now

#: Older ends are no news: notices may have been switched on later.
_NEWS_S: Final = 86_400.0
_KIND: Final = "notice"


def find_untold(connection: Connection) -> list[str]:
    """Return the ids of runs that have ended lately, are judged if they have guards, and of which nobody was told."""
    query = select(runs.c.id).where(
        ~is_open(),
        runs.c.finished_at > database_now(-_NEWS_S),
        runs.c.notified_at.is_(None),
        or_(runs.c.guards.is_(None), runs.c.guard.is_not(None)),
    )
    return list(connection.execute(query.order_by(runs.c.finished_at)).scalars())


def claim_notice(connection: Connection, run: RunInfo, destination: str, lease_s: float) -> ClaimedDelivery | None:
    """Claim the notice of a run's end to one address; None if it is sent, given up, claimed or backing off.

    Args:
        connection: in a transaction.
        run: an ended run.
        destination: key of the address; not the address itself, which may hold a password.
        lease_s: seconds after which the notice of a process that died may be claimed again.
    """
    notice = NewDelivery(_identify(run), "", _KIND)
    add_deliveries(connection, run.id, destination, [notice])
    claimed = claim_due(connection, destination, [notice.instance_uid], lease_s)
    return claimed[0] if claimed else None


def mark_told(connection: Connection, run: RunInfo, destinations: Sequence[str]) -> bool:
    """Note that a run was told of if each address has taken the notice of this end; returns whether that is so."""
    taken = select(func.count()).where(
        deliveries.c.instance_uid == _identify(run),
        deliveries.c.destination.in_(destinations),
        deliveries.c.status == DeliveryStatus.SENT,
    )
    if connection.execute(taken).scalar_one() < len(destinations):
        return False
    of_this_end = runs.c.finished_at == run.finished_at  # `retry` may have opened the run again meanwhile
    connection.execute(
        update(runs).where(runs.c.id == run.id, of_this_end, ~is_open()).values(notified_at=database_now())
    )
    return True


def _identify(run: RunInfo) -> str:
    """Return the key of a run's end: a run that is retried ends again, and is told of again."""
    if run.finished_at is None:
        raise ValueError("the run has not ended")
    return f"{run.id}.{run.finished_at.timestamp():.6f}"
