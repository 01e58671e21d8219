"""Consistency of the ledger: what must hold in it at any time, counted in SQL."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, select, text

from db.dialects import allow_slow_statement
from db.runs import is_open
from db.tables import jobs, measurements, models, predictions, runs, scans, worklist_rows
from db.tallies import count_scans, read_tallies
from db.types import JobStatus, ScanStatus
from db.views import folders

_RUNS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class CheckedRule:
    """A rule of the ledger, and the number of rows that break it.

    Attributes:
        rule: name, for programs.
        text: what must hold, for people.
        broken: rows that break it.
        is_fault: whether a broken rule is an error; else it is only worth knowing.
    """

    rule: str
    text: str
    broken: int
    is_fault: bool = True


def check_ledger(connection: Connection) -> Iterator[CheckedRule]:
    """Yield each rule of the ledger with what breaks it; reads every row.

    Args:
        connection: for reading, so that all rules see one snapshot.
    """
    allow_slow_statement(connection)
    if connection.dialect.name == "sqlite":
        said = [row[0] for row in connection.execute(text("PRAGMA integrity_check")) if row[0] != "ok"]
        yield CheckedRule("file", "the file is whole", len(said))
        lost = connection.execute(text("PRAGMA foreign_key_check")).all()
        yield CheckedRule("foreign-keys", "each row refers to rows that exist", len(lost))
    yield CheckedRule(
        "reconciliation", "found = queued + scored + rejected + failed, in each run", _compare(connection)
    )
    yield CheckedRule("ended-runs", "no scan of an ended run is queued", _count_queued(connection, ~is_open()))
    ended_job = select(jobs.c.id).where(jobs.c.id == scans.c.job_id, jobs.c.status == JobStatus.DONE).exists()
    yield CheckedRule("ended-jobs", "no scan of an ended job is queued", _count_queued(connection, ended_job))
    yield CheckedRule("scores", "each scored scan has a score of its run's model", _count_unscored(connection))
    lost_rows = ~select(scans.c.id).where(scans.c.id == worklist_rows.c.scan_id).exists()
    lost_query = select(func.count()).select_from(worklist_rows).where(lost_rows)
    yield CheckedRule("worklist", "each row of the worklist has its scan", connection.execute(lost_query).scalar_one())
    yield CheckedRule("folders", "the decisions by folder are those of the worklist", _compare_folders(connection))
    for table in (predictions, measurements):
        unused = ~select(scans.c.id).where(scans.c.sha256 == table.c.sha256).exists()
        count = connection.execute(select(func.count()).select_from(table).where(unused)).scalar_one()
        yield CheckedRule(
            f"unused-{table.name}", f"a scan refers to each row of {table.name} (`prune` deletes others)", count, False
        )


def _compare(connection: Connection) -> int:
    """Count the runs whose scans, tally and `found` do not agree."""
    found: dict[str, int] = {row.id: row.found for row in connection.execute(select(runs.c.id, runs.c.found))}
    ids, broken = list(found), 0
    for start in range(0, len(ids), _RUNS_AT_ONCE):
        part = ids[start : start + _RUNS_AT_ONCE]
        counted, kept = count_scans(connection, part), read_tallies(connection, part)
        broken += sum(counted[one].found != found[one] or kept[one].counts != counted[one] for one in part)
    return broken


def _compare_folders(connection: Connection) -> int:
    """Count the runs whose decisions by folder do not add up to their rows of the worklist."""
    kept, listed = (
        select(table.c.run_id, count.label("rows")).group_by(table.c.run_id).subquery()
        for table, count in ((folders, func.sum(folders.c.scans)), (worklist_rows, func.count()))
    )
    differs = func.coalesce(kept.c.rows, 0) != listed.c.rows
    query = select(func.count()).select_from(listed.outerjoin(kept, kept.c.run_id == listed.c.run_id))
    return connection.execute(query.where(differs)).scalar_one()


def _count_queued(connection: Connection, where: ColumnElement[bool]) -> int:
    queued = select(func.count()).select_from(scans.join(runs, runs.c.id == scans.c.run_id))
    return connection.execute(queued.where(scans.c.status == ScanStatus.QUEUED, where)).scalar_one()


def _count_unscored(connection: Connection) -> int:
    predicted = (
        select(predictions.c.sha256)
        .where(
            predictions.c.sha256 == scans.c.sha256,
            predictions.c.model_digest == runs.c.model_digest,
            predictions.c.preprocessing == models.c.preprocessing,
        )
        .exists()
    )
    of_runs = scans.join(runs, runs.c.id == scans.c.run_id).join(models, models.c.digest == runs.c.model_digest)
    query = select(func.count()).select_from(of_runs).where(and_(scans.c.status == ScanStatus.SCORED, ~predicted))
    return connection.execute(query).scalar_one()
