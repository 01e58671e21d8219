"""What a run has come to so far: its counts, from the scans themselves or from the tally that is kept beside it.

The tally is changed in the transactions that change scans, so that looking at a run of a million costs what looking at
one of a thousand does. It is read as the sum over a few slots: two workers that end a job at once seldom need the same
one, and whoever does waits for one commit. Slots are changed last in a transaction, in the order of their key, so that
nobody waits in a circle.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    Connection,
    Insert,
    Integer,
    Select,
    String,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    select,
    union_all,
)

from db.dialects import built_once, insert_adding
from db.queries import count_decisions, count_reasons, find_providers
from db.tables import results, runs, scans, tallies, worklist_rows
from db.types import ScanStatus, UtcDateTime, database_now

#: A count that a tally holds: what of, and the reason, decision or provider.
TallyKey = tuple[str, str]

FOUND: Final = "found"
LABEL: Final = "label"
DECISION: Final = "decision"
PROVIDER: Final = "provider"
REUSED: Final = "reused"
_WITH_SCORE, _WITH_REASON = (ScanStatus.SCORED,), (ScanStatus.REJECTED, ScanStatus.FAILED)
_SLOTS = 8


@dataclass(frozen=True, slots=True)
class RunCounts:
    """How many scans of a run are in which status; `reused` counts the scored ones that cost no inference."""

    queued: int = 0
    scored: int = 0
    rejected: int = 0
    failed: int = 0
    reused: int = 0

    @property
    def found(self) -> int:
        """All scans of the run: found = queued + scored + rejected + failed."""
        return self.queued + self.terminal

    @property
    def terminal(self) -> int:
        """Scans that are accounted for."""
        return self.scored + self.rejected + self.failed


@dataclass(frozen=True, slots=True)
class RunTally:
    """What a run has come to so far.

    Attributes:
        counts: its scans by status.
        decisions: how often each decision was taken, over all labels.
        labels: how many rows each label has; none where `is_kept` is False.
        reasons: how often each reason stands for `rejected` and for `failed` scans.
        providers: the execution providers that its predictions were computed on.
        changed_at: when a scan last became terminal; None where none did.
        is_kept: whether it was read from the tables that are kept beside the run, so that its worklist is there too.
    """

    counts: RunCounts
    decisions: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(
        default_factory=lambda: {ScanStatus.REJECTED.value: {}, ScanStatus.FAILED.value: {}}
    )
    providers: list[str] = field(default_factory=list)
    changed_at: datetime | None = None
    is_kept: bool = False


def count_scans(connection: Connection, run_ids: Iterable[str]) -> dict[str, RunCounts]:
    """Return the counts of several runs by run id, from the scans themselves: what a reconciliation goes by."""
    ids = list(run_ids)
    counts: dict[str, dict[str, int]] = {run_id: {} for run_id in ids}
    query = (
        select(scans.c.run_id, scans.c.status, scans.c.reused, func.count())
        .where(scans.c.run_id.in_(ids))
        .group_by(scans.c.run_id, scans.c.status, scans.c.reused)
    )
    for run_id, status, reused, count in connection.execute(query):
        of_run = counts[run_id]
        of_run[status.value] = of_run.get(status.value, 0) + count
        if reused:
            of_run[REUSED] = of_run.get(REUSED, 0) + count
    return {run_id: RunCounts(**of_run) for run_id, of_run in counts.items()}


def read_tallies(connection: Connection, run_ids: Iterable[str]) -> dict[str, RunTally]:
    """Return what several runs have come to, by run id, at a cost that does not grow with their scans.

    A run that has no tally, or one that does not add up at its end, was made or worked on by the release before: it is
    counted from its scans and predictions.
    """
    ids = list(run_ids)
    sums: dict[str, dict[TallyKey, int]] = {run_id: {} for run_id in ids}
    changed: dict[str, datetime] = {}
    for run_id, kind, name, count, changed_at in connection.execute(_select_sums(connection), {"of_runs": ids}):
        sums[run_id][kind, name] = int(count)
        if kind in (*_WITH_SCORE, *_WITH_REASON):
            changed[run_id] = max(changed_at, changed.get(run_id, changed_at))
    kept = {
        run_id: tally
        for run_id, of_run in sums.items()
        if (tally := _to_tally(of_run, changed.get(run_id))) is not None
    }
    ended = select(runs.c.id).where(runs.c.id.in_(list(kept)), runs.c.finished_at.is_not(None))
    for run_id in connection.execute(ended).scalars():
        if kept[run_id].counts.queued:
            del kept[run_id]
    without = [run_id for run_id in ids if run_id not in kept]
    return kept | (_count_all(connection, without) if without else {})


@built_once
def _select_sums(_: str) -> Select[str, str, str, int, datetime]:
    return (
        select(
            tallies.c.run_id,
            tallies.c.kind,
            tallies.c.name,
            func.sum(tallies.c.count),
            func.max(tallies.c.changed_at, type_=UtcDateTime()),
        )
        .where(tallies.c.run_id.in_(bindparam("of_runs", expanding=True)))
        .group_by(tallies.c.run_id, tallies.c.kind, tallies.c.name)
    )


def begin_tally(connection: Connection, run_id: str, found: int, refused: Mapping[TallyKey, int]) -> None:
    """Begin the tally of a new run.

    Args:
        connection: in the transaction that writes the run.
        run_id: the run's.
        found: its scans, whatever became of them.
        refused: how many of them are terminal from the start, by status and reason code.
    """
    now: datetime = connection.execute(select(database_now())).scalar_one()
    connection.execute(insert(tallies), _make_rows(run_id, 0, {(FOUND, ""): found, **refused}, now))


def tally_scans(connection: Connection, run_id: str, scan_ids: Sequence[int]) -> None:
    """Add scans that have just become terminal to their run's tally and worklist, last in the caller's transaction."""
    if not scan_ids or not _has_tally(connection, run_id):
        return
    connection.execute(_insert_worklist_rows(connection), {"of_scans": scan_ids})
    added = {"of_scans": scan_ids, "of_run": run_id, "to_slot": _choose_slot(connection)}
    connection.execute(_add_scans(connection), added)


@built_once
def _insert_worklist_rows(_: str) -> Insert:
    of_scans = results.c.scan_id.in_(bindparam("of_scans", expanding=True))
    rows = select(results.c.run_id, results.c.label, results.c.decision, -results.c.score, results.c.scan_id)
    names = [column.name for column in worklist_rows.c]
    return insert(worklist_rows).from_select(names, rows.where(of_scans, results.c.label.is_not(None)))


@built_once
def _add_scans(dialect: str) -> Insert:
    ids: BindParameter[int] = bindparam("of_scans", expanding=True)
    of_scans = results.c.scan_id.in_(ids)
    name = case((scans.c.reused, REUSED), else_=func.coalesce(scans.c.reason_code, ""))
    counted = union_all(
        select(cast(scans.c.status, String).label("kind"), name.label("name"), func.count().label("count"))
        .where(scans.c.id.in_(ids), scans.c.status != ScanStatus.QUEUED)
        .group_by(scans.c.status, name),
        *(
            select(literal(kind), column, func.count()).where(of_scans, column.is_not(None)).group_by(column)
            for kind, column in (
                (LABEL, results.c.label),
                (DECISION, results.c.decision),
                (PROVIDER, results.c.provider),
            )
        ),
    ).subquery()
    summed = (
        select(
            bindparam("of_run", type_=String()), bindparam("to_slot", type_=Integer()), counted.c.kind,
            counted.c.name, counted.c["count"], database_now(),
        )
        .where(counted.c["count"] > 0)
        .order_by(counted.c.kind, counted.c.name)
    )  # fmt: skip
    return insert_adding(dialect, tallies).from_select([column.name for column in tallies.c], summed)


def change_tally(connection: Connection, run_id: str, changes: Mapping[TallyKey, int]) -> None:
    """Add counts to a run's tally, or take some away, last in the caller's transaction."""
    changes = {key: change for key, change in changes.items() if change}
    if not changes or not _has_tally(connection, run_id):
        return
    now: datetime = connection.execute(select(database_now())).scalar_one()
    rows = _make_rows(run_id, _choose_slot(connection), changes, now)
    connection.execute(insert_adding(connection.dialect.name, tallies), rows)


def _make_rows(run_id: str, slot: int, counts: Mapping[TallyKey, int], now: datetime) -> list[dict[str, Any]]:
    return [
        {"run_id": run_id, "slot": slot, "kind": kind, "name": name, "count": count, "changed_at": now}
        for (kind, name), count in sorted(counts.items())
    ]


def _has_tally(connection: Connection, run_id: str) -> bool:
    """Whether a run was made by a release that keeps tallies; a part of one would be worth less than none."""
    return connection.execute(_select_first_tally(connection), {"of_run": run_id}).first() is not None


@built_once
def _select_first_tally(_: str) -> Select[str]:
    return select(tallies.c.run_id).where(
        tallies.c.run_id == bindparam("of_run"), tallies.c.slot == 0, tallies.c.kind == FOUND
    )


def _choose_slot(connection: Connection) -> int:
    # Writers of SQLite exclude each other anyway.
    return 0 if connection.dialect.name == "sqlite" else random.randrange(_SLOTS)  # noqa: S311  # no secret


def _to_tally(sums: Mapping[TallyKey, int], changed_at: datetime | None) -> RunTally | None:
    """Make sense of a run's sums; None where there is no tally or it cannot be right."""
    if (FOUND, "") not in sums:
        return None
    named: dict[str, dict[str, int]] = {}
    for (kind, name), count in sums.items():
        if count:
            named.setdefault(kind, {})[name] = count
    scored, rejected, failed = (named.get(status, {}) for status in (*_WITH_SCORE, *_WITH_REASON))
    ended = sum(map(sum, (scored.values(), rejected.values(), failed.values())))
    queued = sums[FOUND, ""] - ended
    if queued < 0:
        return None
    return RunTally(
        counts=RunCounts(
            queued, sum(scored.values()), sum(rejected.values()), sum(failed.values()), scored.get(REUSED, 0)
        ),
        decisions=named.get(DECISION, {}),
        labels=named.get(LABEL, {}),
        reasons={ScanStatus.REJECTED.value: rejected, ScanStatus.FAILED.value: failed},
        providers=sorted(named.get(PROVIDER, {})),
        changed_at=changed_at,
        is_kept=True,
    )


def _count_all(connection: Connection, run_ids: Sequence[str]) -> dict[str, RunTally]:
    counts = count_scans(connection, run_ids)
    newest = (
        select(scans.c.run_id, func.max(scans.c.finished_at, type_=UtcDateTime()))
        .where(scans.c.run_id.in_(run_ids))
        .group_by(scans.c.run_id)
    )
    changed_at: dict[str, datetime | None] = dict(connection.execute(newest).all())
    return {
        run_id: RunTally(
            counts=counts[run_id],
            decisions=count_decisions(connection, run_id),
            reasons=count_reasons(connection, run_id),
            providers=find_providers(connection, run_id),
            changed_at=changed_at.get(run_id),
        )
        for run_id in run_ids
    }
