"""Retention: deletes old runs, and stored results of contents that no scan refers to, in short transactions.

Each transaction leaves counts that add up, so an interrupted deletion is continued by the next one. A run that is
deleted in part loses its tally first, and is then counted from its scans. A month whose runs are all old goes as a
whole, where PostgreSQL keeps it in partitions of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from typing import Any, Final

import sqlalchemy as sql
from sqlalchemy import ColumnElement, Connection, Engine, Select, Table, and_, delete, func, select, tuple_, update
from sqlalchemy.exc import DBAPIError

from db.dialects import allow_slow_statement, wait_for_advisory_lock
from db.engine import reading, write
from db.page_tables import marks
from db.partitions import keep_months, list_full, run_ddl
from db.runs import is_open, lock_run
from db.scored_scans import SCORED_SCANS
from db.tables import jobs, measurements, predictions, runs, scans, tallies, worklist_rows
from db.tallies import CONTENTS_LOCK, DECISION, LABEL, PROVIDER, REUSED, begin_tally, count_scans
from db.types import ScanStatus, database_now
from db.views import results
from nightread.failpoints import Point, failpoint

#: Rows of one transaction.
_ROWS_PER_STEP: Final = 5_000
# Partitions that others keep locked, such as a backup, and those that another `prune` has dropped.
_NOT_FREE_SQLSTATES: Final = frozenset({"55P03", "42P01"})


@dataclass(slots=True)
class Pruned:
    """Numbers of rows that were deleted, or that would be.

    Attributes:
        runs: runs without a remaining scan.
        scans: their scans, and those of runs that keep some.
        kept: scans of old runs that stay, because they are positive.
        jobs: jobs.
        worklist_rows: rows of the worklist page.
        predictions: scores of contents that no scan refers to.
        measurements: measurements of contents that no scan refers to.
    """

    runs: int = 0
    scans: int = 0
    kept: int = 0
    jobs: int = 0
    worklist_rows: int = 0
    predictions: int = 0
    measurements: int = 0

    def describe(self) -> dict[str, int]:
        """Return the numbers by name; fields are only ever added."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def find_cutoff(connection: Connection, older_than_s: float) -> datetime:
    """Return the time before which a run must have ended, by the database's clock."""
    cutoff: datetime = connection.execute(select(database_now(-older_than_s))).scalar_one()
    return cutoff


def count_prunable(connection: Connection, cutoff: datetime, *, keep_positives: bool) -> Pruned:
    """Return what `prune` would delete, without deleting it; reads all predictions.

    Args:
        connection: for reading.
        cutoff: runs that ended before this time are old.
        keep_positives: whether positive scans of old runs stay.
    """
    allow_slow_statement(connection)
    old = select(runs.c.id).where(_is_old(cutoff))
    stays: ColumnElement[bool] = scans.c.run_id.not_in(old)
    if keep_positives:
        stays |= scans.c.id.in_(_select_positives().where(_is_old(cutoff)))
    staying = select(scans.c.id).where(stays)
    has_scan = staying.where(scans.c.run_id == runs.c.id).exists()
    has_scan_of_job = staying.where(scans.c.job_id == jobs.c.id).exists()
    return Pruned(
        runs=_count(connection, runs, _is_old(cutoff), ~has_scan),
        scans=_count(connection, scans, ~stays),
        kept=_count(connection, scans, scans.c.run_id.in_(old), stays),
        jobs=_count(connection, jobs, jobs.c.run_id.in_(old), ~has_scan_of_job),
        worklist_rows=_count(
            connection,
            worklist_rows,
            worklist_rows.c.run_id.in_(old),
            ~staying.where(scans.c.id == worklist_rows.c.scan_id).exists(),
        ),
        predictions=_count(connection, predictions, ~staying.where(scans.c.sha256 == predictions.c.sha256).exists()),
        measurements=_count(connection, measurements, ~staying.where(scans.c.sha256 == measurements.c.sha256).exists()),
    )


def prune(
    engine: Engine,
    cutoff: datetime,
    *,
    keep_positives: bool,
    on_progress: Callable[[int, int], None] = lambda _, __: None,
) -> Pruned:
    """Delete the runs that ended before `cutoff`, then the results of contents that no scan refers to.

    Open runs are never touched. Models and their history stay.

    Args:
        engine: the database.
        cutoff: runs that ended before this time are old.
        keep_positives: keep scans whose decision is a label; their run stays, its counts are those of the kept scans.
        on_progress: called with the scans looked at and all scans of old runs.

    Raises:
        DatabaseUnavailable: the database does not answer; what is deleted stays deleted, and the rest is there.
    """
    pruned = Pruned()
    keep_months(engine)
    with reading(engine) as connection:
        old = select(runs.c.id, runs.c.found).where(_is_old(cutoff)).order_by(runs.c.finished_at, runs.c.id)
        found = dict(connection.execute(old).all())
    done, every = 0, sum(found.values())
    for count, rows in [] if keep_positives else _drop_months(engine, cutoff):
        pruned.scans += count
        pruned.worklist_rows += rows
        done += count
        on_progress(done, every)
    for run_id in found:
        run = _OldRun(run_id, cutoff, _find_positives(engine, run_id) if keep_positives else frozenset())
        write(engine, partial(_delete_tally, run=run))
        pruned.worklist_rows += sum(_delete_in_steps(engine, run, _delete_worklist, ("", "", -2.0, 0)))
        for count in _delete_in_steps(engine, run, _delete_scans, 0):
            pruned.scans += count
            done += count
            on_progress(done, every)
        pruned.jobs += sum(_delete_in_steps(engine, run, _delete_jobs, ""))
        kept = write(engine, partial(_end_pruning, run=run))
        pruned.runs += kept == 0
        pruned.kept += kept or 0
        every -= kept or 0
    pruned.predictions = _delete_orphans(engine, predictions)
    pruned.measurements = _delete_orphans(engine, measurements)
    return pruned


def _drop_months(engine: Engine, cutoff: datetime) -> Iterator[tuple[int, int]]:
    """Drop the partitions of which all runs are old; yield the numbers of their scans and worklist rows.

    Those that are not free are left, to be deleted row by row.
    """
    with reading(engine) as connection:
        full = list_full(connection)
    for part, rows_part in full:

        def work(connection: Connection, part: str = part, rows_part: str = rows_part) -> tuple[int, int] | None:
            try:
                with connection.begin_nested():
                    return _drop_month(connection, cutoff, part, rows_part)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _NOT_FREE_SQLSTATES:
                    raise
                return None

        if (dropped := write(engine, work)) is not None:
            yield dropped


def _drop_month(connection: Connection, cutoff: datetime, part: str, rows_part: str) -> tuple[int, int] | None:
    """Drop a pair of partitions, unless they hold scans of a run that is not old; returns the numbers of their rows."""
    allow_slow_statement(connection)
    ids, run_ids = sql.column("id", scans.c.id.type), sql.column("run_id", runs.c.id.type)
    month = sql.table(part, ids, run_ids)
    of_month = select(month).where(run_ids == runs.c.id).exists()
    # Locked before the table, in the order of `retry`.
    old = select(runs.c.id).where(_is_old(cutoff), of_month).order_by(runs.c.id).with_for_update(key_share=True)
    of_runs = connection.execute(old).scalars().all()
    others = select(runs.c.id).where(of_month, runs.c.id.not_in(of_runs)).limit(1)
    if connection.execute(others).first() is not None:
        return None
    # Workers wait behind this while it waits, so it gives up soon.
    run_ddl(
        connection, ["SET LOCAL lock_timeout = '2s'", f"LOCK TABLE {part}, {rows_part} IN SHARE ROW EXCLUSIVE MODE"]
    )
    # Once more: a run may have been written while this waited for its transaction.
    if connection.execute(others).first() is not None:
        return None
    by_run = select(run_ids, func.count().label("scans")).group_by(run_ids)
    counts = {row.run_id: row.scans for row in connection.execute(by_run)}
    rows = connection.execute(select(func.count()).select_from(sql.table(rows_part))).scalar_one()
    for run_id, count in counts.items():
        connection.execute(delete(tallies).where(tallies.c.run_id == run_id))
        _subtract(connection, run_id, count)
    first, last = (select(one(ids)).select_from(month).scalar_subquery() for one in (func.min, func.max))
    connection.execute(delete(marks).where(marks.c.scan_id.between(first, last)))
    failpoint(Point.PRUNE_IN_TRANSACTION)
    # All that foreign keys touch, in the order in which workers write, and from here on for moments.
    run_ddl(
        connection,
        [
            "LOCK TABLE ONLY jobs, ONLY scans, ONLY worklist_rows, ONLY runs, ONLY marks IN ACCESS EXCLUSIVE MODE",
            f"ALTER TABLE scans DETACH PARTITION {part}",  # `marks` refers to scans, so that it cannot just be dropped
            f"DROP TABLE {part}, {rows_part}",
        ],
    )
    return sum(counts.values()), rows


@dataclass(frozen=True, slots=True)
class _OldRun:
    """A run that ended before the cutoff, with the ids of the scans that it keeps."""

    id: str
    cutoff: datetime
    kept: frozenset[int]


_Step = Callable[[Connection, _OldRun, Any], tuple[int, Any]]


def _delete_in_steps(engine: Engine, run: _OldRun, step: _Step, first: Any) -> Iterator[int]:
    """Repeat a step from where the previous one ended, each in its transaction; yield the numbers of deleted rows."""

    def work(connection: Connection, after: Any) -> tuple[int, Any]:
        return step(connection, run, after) if _lock(connection, run) else (0, None)

    after = first
    while after is not None:
        count, after = write(engine, partial(work, after=after))
        yield count


def _lock(connection: Connection, run: _OldRun) -> bool:
    """Lock a run until the transaction ends; returns False if it is no longer old, since `retry` opened it again."""
    lock_run(connection, run.id)
    query = select(runs.c.id).where(runs.c.id == run.id, _is_old(run.cutoff))
    return connection.execute(query).first() is not None


def _delete_tally(connection: Connection, run: _OldRun) -> None:
    if _lock(connection, run):
        connection.execute(delete(tallies).where(tallies.c.run_id == run.id))


def _delete_worklist(connection: Connection, run: _OldRun, after: tuple[Any, ...]) -> tuple[int, Any]:
    """Delete worklist rows in the order of their key."""
    rows = worklist_rows.c
    key = (rows.label, rows.decision, rows.minus_score, rows.scan_id)
    of_run = and_(rows.run_id == run.id, tuple_(*key) > tuple_(*after))
    found = connection.execute(select(*key).where(of_run).order_by(*key).limit(_ROWS_PER_STEP)).all()
    if not found:
        return 0, None
    last = tuple(found[-1])
    kept = [row.scan_id for row in found if row.scan_id in run.kept]
    doomed = and_(of_run, tuple_(*key) <= tuple_(*last), rows.scan_id.not_in(kept))
    return connection.execute(delete(worklist_rows).where(doomed)).rowcount, last


def _delete_scans(connection: Connection, run: _OldRun, after: int) -> tuple[int, int | None]:
    """Delete scans in the order of their ids; `found` falls with them, and `pruned` grows."""
    of_run = and_(scans.c.run_id == run.id, scans.c.id > after)
    ids = (
        connection.execute(select(scans.c.id).where(of_run).order_by(scans.c.id).limit(_ROWS_PER_STEP)).scalars().all()
    )
    if not ids:
        return 0, None
    kept = [scan_id for scan_id in ids if scan_id in run.kept]
    doomed = and_(of_run, scans.c.id <= ids[-1], scans.c.id.not_in(kept))
    count = connection.execute(delete(scans).where(doomed)).rowcount
    _subtract(connection, run.id, count)
    failpoint(Point.PRUNE_IN_TRANSACTION)
    return count, ids[-1]


def _subtract(connection: Connection, run_id: str, count: int) -> None:
    """Note that a run has lost scans."""
    values = {"found": runs.c.found - count, "pruned": func.coalesce(runs.c.pruned, 0) + count}
    connection.execute(update(runs).where(runs.c.id == run_id).values(values))


def _delete_jobs(connection: Connection, run: _OldRun, after: str) -> tuple[int, str | None]:
    of_run = and_(jobs.c.run_id == run.id, jobs.c.id > after)
    query = select(jobs.c.id).where(of_run).order_by(jobs.c.id).offset(_ROWS_PER_STEP - 1).limit(1)
    last = connection.execute(query).scalar()
    if last is not None:
        of_run &= jobs.c.id <= last
    has_scans = select(scans.c.id).where(scans.c.job_id == jobs.c.id).exists()
    return connection.execute(delete(jobs).where(of_run, ~has_scans)).rowcount, last


def _end_pruning(connection: Connection, run: _OldRun) -> int | None:
    """Delete a run without scans, or tally the scans that it keeps; returns their number, None if it is not old."""
    if not _lock(connection, run):
        return None
    counts = count_scans(connection, [run.id])[run.id]
    if not counts.found:
        connection.execute(delete(runs).where(runs.c.id == run.id))
        return 0
    scored = ScanStatus.SCORED.value
    kept = {(scored, ""): counts.scored - counts.reused, (scored, REUSED): counts.reused}
    for kind, column in ((LABEL, results.c.label), (DECISION, results.c.decision), (PROVIDER, results.c.provider)):
        of_run = select(column, func.count()).where(results.c.run_id == run.id).group_by(column)
        kept |= {(kind, name): count for name, count in connection.execute(of_run)}
    begin_tally(connection, run.id, counts.found, kept)
    connection.execute(update(runs).where(runs.c.id == run.id).values(counted_at=None))
    return counts.found


def _delete_orphans(engine: Engine, table: Table) -> int:
    """Delete the rows of contents that no scan refers to; returns their number."""

    def work(connection: Connection, after: str) -> tuple[int, str | None]:
        # A worker that reuses a prediction commits either before this, and then its scan refers to it, or after this.
        wait_for_advisory_lock(connection, CONTENTS_LOCK)
        in_range = table.c.sha256 > after
        query = select(table.c.sha256).where(in_range).order_by(table.c.sha256).offset(_ROWS_PER_STEP - 1).limit(1)
        last: str | None = connection.execute(query).scalar()
        if last is not None:
            in_range &= table.c.sha256 <= last
        is_used = select(scans.c.id).where(scans.c.sha256 == table.c.sha256).exists()
        return connection.execute(delete(table).where(in_range, ~is_used)).rowcount, last

    deleted, after = 0, ""
    while True:
        count, last = write(engine, partial(work, after=after))
        deleted += count
        if last is None:
            return deleted
        after = last


def _is_old(cutoff: datetime) -> ColumnElement[bool]:
    return and_(~is_open(), runs.c.finished_at < cutoff)


def _find_positives(engine: Engine, run_id: str) -> frozenset[int]:
    with reading(engine) as connection:
        return frozenset(connection.execute(_select_positives().where(runs.c.id == run_id)).scalars())


def _select_positives() -> Select[int]:
    """Select the ids of scans with a prediction under their run's model whose decision is its label."""
    return (
        select(scans.c.id)
        .select_from(SCORED_SCANS)
        .where(scans.c.status == ScanStatus.SCORED, predictions.c.decision == predictions.c.label)
    )


def _count(connection: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
