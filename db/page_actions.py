"""What users of the worklist page did, for audit: rows are added with the action, and never changed."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, insert, select

from db.page_tables import page_actions
from db.types import database_now

#: Actions on one page.
_MOST: Final = 200
_DETAIL_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class PageAction:
    """One action.

    Attributes:
        user: who did it.
        role: of the user, by value.
        action: what was done.
        run_id: the run that it was done to.
        scan_id: the scan that it was done to.
        detail: more of it, without a path; longer text is cut.
    """

    user: str
    role: str
    action: str
    run_id: str | None = None
    scan_id: int | None = None
    detail: str | None = None


def store_action(connection: Connection, action: PageAction) -> None:
    """Store an action with the time of the database."""
    connection.execute(
        insert(page_actions).values(
            at=database_now(), user_name=action.user, role=action.role, action=action.action, run_id=action.run_id,
            scan_id=action.scan_id, detail=None if action.detail is None else action.detail[:_DETAIL_LENGTH],
        )
    )  # fmt: skip


def list_actions(connection: Connection, before: int | None = None) -> list[dict[str, Any]]:
    """Return up to 200 actions, newest first.

    Args:
        connection: for reading.
        before: id; only older ones.
    """
    query = select(page_actions).order_by(page_actions.c.id.desc()).limit(_MOST)
    if before is not None:
        query = query.where(page_actions.c.id < before)
    return [dict(row) for row in connection.execute(query).mappings()]
