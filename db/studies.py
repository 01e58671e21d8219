"""Studies of all runs, page by page, with the roll-up of the view `studies`."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

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
    equal = ((row.label, label), (row.decision, decision), (row.model, model))
    wanted = [column == value for column, value in equal if value is not None]
    if min_score is not None:
        wanted.append(row.score >= min_score)
    # One query for each study: with a list of UIDs, SQLite would roll up every study first.
    query = select(studies).where(row.study == bindparam("of_study"), *wanted).order_by(row.model, row.label)
    found = {uid: [dict(one) for one in connection.execute(query, {"of_study": uid}).mappings()] for uid in uids}
    return {uid: rows for uid, rows in found.items() if rows}
