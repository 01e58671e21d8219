"""Marks of users on scans: seen, agree, disagree and notes. They change no prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, exists, func, insert, select, update

from db.page_tables import marks
from db.tables import scans
from db.types import MarkKind, database_now

#: Marks of a scan that its page lists.
_MOST_LISTED: Final = 50


class Review(StrEnum):
    """What users have said of a scan, as a filter: nothing, anything, or the kind of its newest mark."""

    UNREVIEWED = "unreviewed"
    REVIEWED = "reviewed"
    SEEN = "seen"
    AGREE = "agree"
    DISAGREE = "disagree"


@dataclass(frozen=True, slots=True)
class NewMark:
    """A mark to store.

    Attributes:
        scan_id: id of a scan that has ended.
        user: who marks it.
        kind: what they say.
        label: what they say is right; None for no label.
        note: text; of a note alone.
    """

    scan_id: int
    user: str
    kind: MarkKind
    label: str | None = None
    note: str | None = None


def store_mark(connection: Connection, run_id: str, model_digest: str, mark: NewMark) -> None:
    """Store a mark on a scan of a run and its model, with the time of the database."""
    sha256 = select(scans.c.sha256).where(scans.c.id == mark.scan_id).scalar_subquery()
    connection.execute(
        insert(marks).values(
            run_id=run_id, scan_id=mark.scan_id, model_digest=model_digest, sha256=sha256, user_name=mark.user,
            kind=mark.kind, label=mark.label, note=mark.note, at=database_now(),
        )
    )  # fmt: skip


def undo_mark(connection: Connection, run_id: str, user: str) -> dict[str, Any] | None:
    """Undo the newest mark of a user in a run; returns its row, None if there is none left."""
    newest = select(marks).where(*_are_active(run_id), marks.c.user_name == user).order_by(marks.c.id.desc()).limit(1)
    row = connection.execute(newest).mappings().first()
    if row is None:
        return None
    connection.execute(update(marks).where(marks.c.id == row["id"]).values(undone_at=database_now()))
    return dict(row)


def list_marks(connection: Connection, scan_id: int) -> list[dict[str, Any]]:
    """Return the marks of a scan that were not undone, newest first."""
    query = select(marks).where(marks.c.scan_id == scan_id, marks.c.undone_at.is_(None))
    rows = connection.execute(query.order_by(marks.c.id.desc()).limit(_MOST_LISTED)).mappings()
    return [dict(row) for row in rows]


def find_verdicts(connection: Connection, run_id: str, scan_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return the newest mark of each of these scans of a run, notes aside."""
    newest = _newest(run_id).where(marks.c.scan_id.in_(sorted(set(scan_ids))))
    rows = connection.execute(select(marks).where(marks.c.id.in_(newest))).mappings()
    return {row["scan_id"]: dict(row) for row in rows}


def count_reviews(connection: Connection, run_id: str) -> dict[str, int]:
    """Return how many scans of a run have a newest mark of each kind."""
    query = select(marks.c.kind, func.count()).where(marks.c.id.in_(_newest(run_id))).group_by(marks.c.kind)
    return {kind.value: count for kind, count in connection.execute(query)}


def count_agreement(connection: Connection) -> dict[str, dict[str, int]]:
    """Return, for each model digest, how many scans have a newest mark of each kind."""
    query = (
        select(marks.c.model_digest, marks.c.kind, func.count())
        .where(marks.c.id.in_(_newest()))
        .group_by(marks.c.model_digest, marks.c.kind)
    )
    counts: dict[str, dict[str, int]] = {}
    for digest, kind, count in connection.execute(query):
        counts.setdefault(digest, {})[kind.value] = count
    return counts


def is_reviewed(run_id: str, scan_id: ColumnElement[Any], review: Review) -> ColumnElement[bool]:
    """Return the condition that a scan of a run has been reviewed so.

    `unreviewed` asks the index for each scan, and most have no mark; the others begin with the marks, which are few.
    """
    if review is Review.UNREVIEWED:
        return ~exists().where(*_are_active(run_id), marks.c.scan_id == scan_id, marks.c.kind != MarkKind.NOTE)
    return scan_id.in_(select_reviewed(run_id, review))


def select_reviewed(run_id: str, review: Review) -> Select[int]:
    """Select the ids of the scans of a run that users have reviewed so; not for `unreviewed`."""
    if review is Review.REVIEWED:  # whichever mark is the newest
        return select(marks.c.scan_id).where(*_are_active(run_id), marks.c.kind != MarkKind.NOTE).distinct()
    newest = marks.c.id.in_(_newest(run_id))
    return select(marks.c.scan_id).where(newest, marks.c.kind == MarkKind(review.value))


def list_labels(connection: Connection, run_id: str | None = None) -> list[tuple[str, list[str]]]:
    """Return (path, labels) of each scan with a label by its users, in the order of the scans.

    Each user's newest mark counts. Users who contradict each other make several labels.

    Args:
        connection: for reading.
        run_id: one run; None: all runs.
    """
    newest = _newest(run_id).group_by(marks.c.user_name)
    query = (
        select(scans.c.id, scans.c.path, marks.c.label)
        .join(scans, scans.c.id == marks.c.scan_id)
        .where(marks.c.id.in_(newest), marks.c.label.is_not(None))
        .order_by(scans.c.id, marks.c.label)
        .distinct()
    )
    found: dict[int, tuple[str, list[str]]] = {}
    for scan_id, path, label in connection.execute(query):
        found.setdefault(scan_id, (path, []))[1].append(label)
    return list(found.values())


def _are_active(run_id: str | None) -> list[ColumnElement[bool]]:
    return [marks.c.undone_at.is_(None), *([] if run_id is None else [marks.c.run_id == run_id])]


def _newest(run_id: str | None = None) -> Select[Any]:
    """Return the ids of each scan's newest mark, notes aside."""
    return (
        select(func.max(marks.c.id))
        .where(*_are_active(run_id), marks.c.kind != MarkKind.NOTE)
        .group_by(marks.c.scan_id)
    )
