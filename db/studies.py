"""Studies of all runs, page by page, with the roll-up of the view `studies`."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from db.tables import scans
from db.views import studies


def list_study_uids(connection: Connection, limit: int, after: str | None = None) -> list[str]:
    """Return up to `limit` Study Instance UIDs that follow the UID `after`, sorted."""
    query = select(scans.c.study_uid).where(scans.c.study_uid.is_not(None)).distinct().order_by(scans.c.study_uid)
    if after is not None:
        query = query.where(scans.c.study_uid > after)
    return [str(uid) for uid in connection.execute(query.limit(limit)).scalars()]


def roll_up(
    connection: Connection,
    uids: Sequence[str],
    *,
    label: str | None = None,
    decision: str | None = None,
    min_score: float | None = None,
    model: str | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the view `studies` by UID, in the order of the UIDs; each filter leaves out the other rows.

    A study without a score has a row without a label.
    """
    row = studies.c
    query = select(studies).where(row.study.in_(uids)).order_by(row.study, row.model, row.label)
    for column, value in ((row.label, label), (row.decision, decision), (row.model, model)):
        if value is not None:
            query = query.where(column == value)
    if min_score is not None:
        query = query.where(row.score >= min_score)
    found: dict[str, list[dict[str, Any]]] = {uid: [] for uid in uids}
    for each in connection.execute(query).mappings():
        found[each["study"]].append(dict(each))
    return {uid: rows for uid, rows in found.items() if rows}
