"""What the worklist page asks: a run's rows by score, page by page, and whether the night goes on."""

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from db.queries import ResultFilter, select_results
from db.tables import jobs, models, results, runs, scans
from db.types import JobStatus, UtcDateTime, database_now

# Finding the last scan that became terminal must not read every scan that was ever stored.
_RUNS_LOOKED_AT = 5


@dataclass(frozen=True, slots=True)
class Position:
    """A row's place in a worklist; rows without a score have neither score nor label and come last.

    The label stands in it because a scan has a row for each label, and two labels of it may have the same score.
    """

    score: float | None
    scan_id: int
    label: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a worklist, and the place of the last of them where more rows follow."""

    rows: list[dict[str, Any]]
    last: Position | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Whether the night goes on.

    Attributes:
        open_jobs: jobs that are not done, of all runs.
        seconds_since_last_scan: since a scan became terminal, by the database's clock; None where none ever did.
    """

    open_jobs: int
    seconds_since_last_scan: float | None


def read_page(connection: Connection, wanted: ResultFilter, size: int, after: Position | None) -> Page:
    """Return up to `size` rows of `wanted` by score, those that follow the place `after`.

    Places, unlike numbers of rows to pass over, stay right while scans are scored in between: a row that stays where
    it is comes once, however many come before it meanwhile.
    """
    query = select_results(replace(wanted, by_score=True, limit=size + 1))
    if after is not None:
        query = query.where(_follows(after))
    rows = [{**row, "status": row["status"].value} for row in connection.execute(query).mappings()]
    if len(rows) <= size:
        return Page(rows, None)
    last = rows[size - 1]
    return Page(rows[:size], Position(last["score"], last["scan_id"], last["label"]))


def read_card(connection: Connection, model_digest: str) -> dict[str, Any]:
    """Return a model's card as it was stored, perhaps by another release."""
    card: dict[str, Any] = connection.execute(select(models.c.card).where(models.c.digest == model_digest)).scalar_one()
    return card


def read_progress(connection: Connection) -> Progress:
    """Return how much is open, and how long ago a scan became terminal."""
    open_jobs = connection.execute(select(func.count()).where(jobs.c.status != JobStatus.DONE)).scalar_one()
    newest = select(runs.c.id).limit(_RUNS_LOOKED_AT)
    # Their ids first: with two queries inside it, PostgreSQL would read the whole table for the next one.
    looked_at = [
        *connection.execute(newest.where(runs.c.finished_at.is_(None)).order_by(runs.c.created_at.desc())).scalars(),
        *connection.execute(
            newest.where(runs.c.finished_at.is_not(None)).order_by(runs.c.finished_at.desc())
        ).scalars(),
    ]
    last = select(func.max(scans.c.finished_at, type_=UtcDateTime())).where(scans.c.run_id.in_(looked_at))
    now, then = connection.execute(select(database_now(), last.scalar_subquery())).one()
    return Progress(open_jobs, None if then is None else max(0.0, (now - then).total_seconds()))


def _follows(place: Position) -> ColumnElement[bool]:
    if place.score is None:
        return and_(results.c.score.is_(None), results.c.scan_id > place.scan_id)
    same_score = or_(
        results.c.scan_id > place.scan_id,
        and_(results.c.scan_id == place.scan_id, results.c.label > place.label),
    )
    return or_(
        results.c.score < place.score, and_(results.c.score == place.score, same_score), results.c.score.is_(None)
    )
