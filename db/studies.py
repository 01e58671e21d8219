"""Studies of all runs, page by page, with the roll-up of the view `studies`."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, select

from db.tables import scans
from db.types import ScanStatus
from db.views import latest_results


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
    """Return what the view `studies` says of these studies, by UID in their order; each filter leaves out other rows.

    A study without a score has a row without a label. It is computed here, of the rows of `latest_results`: SQLite
    would roll up every study before it looks for one.
    """
    row = latest_results.c
    query = (
        select(row.study, row.model, row.label, row.score, row.decision, row.status, row.time)
        .where(row.study.in_(uids))
        .order_by(row.study, row.model, row.label, row.score.desc(), row.scan_id)
    )
    found: dict[str, list[dict[str, Any]]] = {uid: [] for uid in uids}
    for (uid, name), group in groupby(connection.execute(query), key=lambda one: (one.study, one.model)):
        found[uid] += _roll_up(name, [*group])
    equal = (("label", label), ("decision", decision), ("model", model))
    wanted = {name: value for name, value in equal if value is not None}
    kept = {
        uid: [
            told
            for told in rows
            if all(told[name] == value for name, value in wanted.items())
            and (min_score is None or (told["score"] is not None and told["score"] >= min_score))
        ]
        for uid, rows in found.items()
    }
    return {uid: rows for uid, rows in kept.items() if rows}


def _roll_up(model: str, rows: list[Any]) -> list[dict[str, Any]]:
    """Return one row for each label of a study under a model, of its rows by label and falling score."""
    told = {
        "model": model, "rejected": sum(row.status is ScanStatus.REJECTED for row in rows),
        "failed": sum(row.status is ScanStatus.FAILED for row in rows),
        "time": max((row.time for row in rows if row.time is not None), default=None),
    }  # fmt: skip
    labelled = [row for row in rows if row.label is not None]
    if not labelled:
        return [told | {"label": None, "score": None, "decision": None, "scored": 0}]
    rolled = []
    for label, group in groupby(labelled, key=lambda row: row.label):
        of_label = list(group)
        first = of_label[0]
        rolled.append(
            told | {"label": label, "score": first.score, "decision": first.decision, "scored": len(of_label)}
        )
    return rolled
