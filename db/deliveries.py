"""Deliveries: objects and notices for other systems, at most one row for each destination and object."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    ForeignKey,
    Integer,
    String,
    Table,
    UniqueConstraint,
    func,
    literal,
    or_,
    select,
    update,
)

from db.columns import SERIAL, TIME, column
from db.dialects import insert_ignoring
from db.tables import REASON_TEXT_LENGTH, metadata
from db.types import DeliveryStatus, database_now, enum_by_value

_FIRST_BACK_OFF_S: Final = 10.0
_LONGEST_BACK_OFF_S: Final = 3600.0

#: What is sent to another system; its unique key is why an object is sent to a destination at most once.
deliveries = Table(
    "deliveries",
    metadata,
    column("id", SERIAL, primary_key=True),
    column(
        "run_id", ForeignKey("runs.id", ondelete="CASCADE"), index=True, comment="the run that it was first sent for"
    ),
    column("destination", String(300), comment="TITLE@HOST:PORT or a URL"),
    column("instance_uid", String(64), comment="of the object; follows from the results"),
    column("study_uid", String(64), comment="DICOM (0020,000D)"),
    column("kind", String(16), comment="report or capture"),
    column("status", enum_by_value(DeliveryStatus, "status"), comment="waiting, sent or dead"),
    column("attempts", Integer(), comment="how often it was claimed"),
    column("not_before", TIME, nullable=True, comment="claim or back-off: no attempt until then, UTC"),
    column(
        "error", String(REASON_TEXT_LENGTH), nullable=True, comment="of the last attempt; holds nothing of the object"
    ),
    column("created_at", TIME, comment="UTC"),
    column("sent_at", TIME, nullable=True, comment="UTC"),
    UniqueConstraint("destination", "instance_uid"),
)


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """An object to be sent: its SOP Instance UID, that of its study, and its kind."""

    instance_uid: str
    study_uid: str
    kind: str


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that this process may attempt.

    Attributes:
        attempts: with this one.
    """

    id: int
    instance_uid: str
    attempts: int


def find_back_off(attempts: int, most: int) -> float | None:
    """Return the seconds between an attempt and the next; None after the last one of `most`."""
    if attempts >= most:
        return None
    return min(_FIRST_BACK_OFF_S * 2.0 ** (attempts - 1), _LONGEST_BACK_OFF_S)


def add_deliveries(connection: Connection, run_id: str, destination: str, new: Sequence[NewDelivery]) -> None:
    """Insert a few deliveries, except those of objects that have a row for this destination."""
    rows = [
        {
            "run_id": run_id, "destination": destination, "instance_uid": one.instance_uid,
            "study_uid": one.study_uid, "kind": one.kind, "status": DeliveryStatus.WAITING, "attempts": 0,
            "created_at": database_now(),
        }
        for one in new
    ]  # fmt: skip
    connection.execute(insert_ignoring(connection.dialect.name, deliveries).values(rows))


def claim_due(connection: Connection, destination: str, uids: Sequence[str], lease_s: float) -> list[ClaimedDelivery]:
    """Claim the due deliveries among a few objects; those of a process that dies are due again after `lease_s`."""
    due = (
        select(deliveries.c.id)
        .where(
            *_match(destination, uids),
            deliveries.c.status == DeliveryStatus.WAITING,
            or_(deliveries.c.not_before.is_(None), deliveries.c.not_before <= database_now()),
        )
        .with_for_update(skip_locked=True)
    )
    mine = deliveries.c.id.in_(list(connection.execute(due).scalars()))
    connection.execute(
        update(deliveries).where(mine).values(attempts=deliveries.c.attempts + 1, not_before=database_now(lease_s))
    )
    claimed = select(deliveries.c.id, deliveries.c.instance_uid, deliveries.c.attempts).where(mine)
    return [ClaimedDelivery(*row) for row in connection.execute(claimed.order_by(deliveries.c.id))]


def release_claims(connection: Connection, ids: Sequence[int], back_off_s: float) -> None:
    """Give back claimed deliveries that were not attempted."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(ids), deliveries.c.status == DeliveryStatus.WAITING)
        .values(attempts=deliveries.c.attempts - 1, not_before=database_now(back_off_s))
    )


def mark_sent(connection: Connection, delivery_id: int) -> None:
    """Note that the destination has the object."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id)
        .values(status=DeliveryStatus.SENT, sent_at=database_now(), not_before=None, error=None)
    )


def mark_failed(connection: Connection, delivery_id: int, error: str, back_off_s: float | None) -> None:
    """Note a failed attempt.

    Args:
        connection: in a transaction.
        delivery_id: its row.
        error: why, for people; holds nothing of the object.
        back_off_s: seconds before the next attempt; None: there is none, until somebody asks for it.
    """
    status = DeliveryStatus.DEAD if back_off_s is None else DeliveryStatus.WAITING
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id, deliveries.c.status == DeliveryStatus.WAITING)
        .values(
            status=status,
            error=error[:REASON_TEXT_LENGTH],
            not_before=literal(None) if back_off_s is None else database_now(back_off_s),
        )
    )


def revive_dead(connection: Connection, destination: str, uids: Sequence[str]) -> int:
    """Let dead deliveries of a few objects be attempted at once, from the first attempt on."""
    revived = connection.execute(
        update(deliveries)
        .where(*_match(destination, uids), deliveries.c.status == DeliveryStatus.DEAD)
        .values(status=DeliveryStatus.WAITING, attempts=0, not_before=None, error=None)
    )
    return revived.rowcount


def count_deliveries(connection: Connection, destination: str, uids: Sequence[str]) -> Counter[tuple[str, str]]:
    """Count the deliveries of a few objects by status and last error, "" if there is none."""
    error = func.coalesce(deliveries.c.error, "")
    query = (
        select(deliveries.c.status, error, func.count())
        .where(*_match(destination, uids))
        .group_by(deliveries.c.status, error)
    )
    return Counter({(status.value, text): count for status, text, count in connection.execute(query)})


def _match(destination: str, uids: Sequence[str]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return deliveries.c.destination == destination, deliveries.c.instance_uid.in_(uids)
