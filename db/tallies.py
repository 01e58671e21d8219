"""The counts of a run, read from its tally or counted from its scans.

The transactions that change scans also update the tally, so that the cost of reading it does not grow with the run.
Each count is spread over a few slots and read as their sum: two workers that end jobs at once seldom contend for one
slot. Slots are updated last in a transaction, in the order of their key, which avoids deadlocks.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Insert, Row, Select, bindparam, exists, func, insert, select

from db.bulk import copy_in
from db.contents import bind_contents, has_bound_content
from db.dialects import built_once, insert_adding, share_advisory_lock
from db.results import count_decisions, count_reasons, find_providers
from db.tables import models, predictions, runs, scans, tallies, worklist_rows
from db.types import ScanStatus, UtcDateTime, database_now
from nightread.errors import PredictionGone

#: Key of a count in a tally: its kind, and the reason, decision or provider.
TallyKey = tuple[str, str]

FOUND: Final = "found"
LABEL: Final = "label"
DECISION: Final = "decision"
PROVIDER: Final = "provider"
REUSED: Final = "reused"
#: Advisory lock: shared while a scan begins to refer to a stored prediction, whole while unreferenced ones are deleted.
CONTENTS_LOCK: Final = 7_201_124
_WITH_SCORE, _WITH_REASON = (ScanStatus.SCORED,), (ScanStatus.REJECTED, ScanStatus.FAILED)
_SLOTS = 8


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Number of scans of a run by status; `reused` counts the scored ones that needed no inference."""

    queued: int = 0
    scored: int = 0
    rejected: int = 0
    failed: int = 0
    reused: int = 0

    @property
    def found(self) -> int:
        """All scans of the run: queued + scored + rejected + failed."""
        return self.queued + self.terminal

    @property
    def terminal(self) -> int:
        """Scans with a terminal status."""
        return self.scored + self.rejected + self.failed


def reconcile(found: int, counts: RunCounts) -> str:
    """Return the sum that closes a run, as one line; it says so where the sum is wrong.

    Args:
        found: files found, as stored with the run.
        counts: its scans by status.
    """
    parts = f"{counts.scored:,} scored + {counts.rejected:,} rejected + {counts.failed:,} failed"
    if counts.queued or found != counts.terminal:
        parts += f" + {counts.queued:,} still to be scored"
    if found == counts.found:
        return f"{found:,} found = {parts}"
    return f"{found:,} found IS NOT {parts}: this is an error in Nightread, please report it"


@dataclass(frozen=True, slots=True)
class RunTally:
    """The counts of a run.

    Attributes:
        counts: number of scans by status.
        decisions: number of rows by decision, over all labels.
        labels: number of rows by label; empty unless `is_kept`.
        reasons: number of `rejected` and `failed` scans, by status and reason code.
        providers: execution providers that computed its predictions.
        changed_at: when a scan last became terminal; None if none did.
        is_kept: whether the run has a tally, and so rows in the table `worklist_rows`; else it was counted.
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
    """Count the scans of several runs, by run id; for reconciliation, which must not rely on tallies."""
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
    """Return the counts of several runs, by run id, at a cost that does not grow with their scans.

    A run without a tally, or whose tally does not add up when it has ended, was created or worked on by the previous
    release: it is counted from its scans and predictions.
    """
    ids = list(run_ids)
    sums: dict[str, dict[TallyKey, int]] = {run_id: {} for run_id in ids}
    changed: dict[str, datetime] = {}
    for run_id, kind, name, count, changed_at in connection.execute(_select_sums(connection), {"of_runs": ids}):
        sums[run_id][kind, name] = int(count)
        if kind in (*_WITH_SCORE, *_WITH_REASON):
            changed[run_id] = max(changed_at, changed.get(run_id, changed_at))
    made = {run_id: _to_tally(of_run, changed.get(run_id)) for run_id, of_run in sums.items()}
    kept = {run_id: tally for run_id, tally in made.items() if tally is not None}
    ended = select(runs.c.id).where(runs.c.id.in_(list(kept)), runs.c.finished_at.is_not(None))
    for run_id in connection.execute(ended).scalars():
        if kept[run_id].counts.queued:
            del kept[run_id]
    without = [run_id for run_id in ids if run_id not in kept]
    return kept | (_count_all(connection, without) if without else {})


@built_once
def _select_sums(_: str) -> Select[str, str, str, int, datetime]:
    key = (tallies.c.run_id, tallies.c.kind, tallies.c.name)
    sums = select(*key, func.sum(tallies.c.count), func.max(tallies.c.changed_at, type_=UtcDateTime()))
    return sums.where(tallies.c.run_id.in_(bindparam("of_runs", expanding=True))).group_by(*key)


def begin_tally(connection: Connection, run_id: str, found: int, refused: Mapping[TallyKey, int]) -> None:
    """Insert the tally of a new run.

    Args:
        connection: in the transaction that inserts the run.
        run_id: id of the run.
        found: number of its scans.
        refused: number of scans that are terminal from the start, by status and reason code.
    """
    begun = insert(tallies).values(changed_at=database_now())
    connection.execute(begun, _make_rows(run_id, 0, {(FOUND, ""): found, **refused}))


@dataclass(frozen=True, slots=True)
class ScanOutcome:
    """The terminal status of one scan, with the columns of `scans` that are known by then."""

    scan_id: int
    status: ScanStatus
    sha256: str | None = None
    reason_code: str | None = None
    reason_text: str | None = None
    reused: bool = False
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    body_part: str | None = None
    view_position: str | None = None
    laterality: str | None = None
    acquired_at: str | None = None
    manufacturer: str | None = None
    station: str | None = None
    accession_hash: str | None = None
    brightness_rule: str | None = None
    contradictions: str | None = None


def tally_scans(connection: Connection, run_id: str, ended: Sequence[ScanOutcome]) -> None:
    """Add scans that have just become terminal to their run's tally and worklist, last in the caller's transaction.

    Predictions are looked up by content rather than through the view: a new database has no statistics, and its planner
    would scan every prediction for each scan.
    """
    model = connection.execute(_select_model(connection), {"of_run": run_id}).one()
    if any(scan.reused for scan in ended):
        share_advisory_lock(connection, CONTENTS_LOCK)
    digests = sorted({scan.sha256 for scan in ended if scan.status is ScanStatus.SCORED and scan.sha256 is not None})
    wanted = bind_contents(digests, model.model_digest, model.preprocessing)
    stored: dict[str | None, list[Row[str, str, str, float, str]]] = {}
    for row in connection.execute(_select_scores(connection), wanted).all() if digests else ():
        stored.setdefault(row.sha256, []).append(row)
    counts: Counter[TallyKey] = Counter()
    worklist: list[tuple[str, str, str, float, int]] = []
    for scan in ended:
        if scan.reused and scan.sha256 not in stored:
            raise PredictionGone("a prediction was deleted before its scan was stored; the job is scored again")
        counts[scan.status.value, REUSED if scan.reused else scan.reason_code or ""] += 1
        for row in stored.get(scan.sha256, ()) if scan.status is ScanStatus.SCORED else ():
            _, label, decision, score, provider = row
            counts[LABEL, label] += 1
            counts[DECISION, decision] += 1
            counts[PROVIDER, provider] += 1
            worklist.append((run_id, label, decision, -score, scan.scan_id))
    copy_in(connection, worklist_rows, [column.name for column in worklist_rows.c], worklist)
    if model.is_kept:
        connection.execute(_add_counts(connection), _make_rows(run_id, _choose_slot(connection), counts))


@built_once
def _select_model(_: str) -> Select[str, str, bool]:
    """Select the model of a run, and whether it has a tally: one without must not get part of one."""
    is_kept = exists().where(tallies.c.run_id == runs.c.id, tallies.c.slot == 0, tallies.c.kind == FOUND)
    return (
        select(runs.c.model_digest, models.c.preprocessing, is_kept.label("is_kept"))
        .join(models, models.c.digest == runs.c.model_digest)
        .where(runs.c.id == bindparam("of_run"))
    )


@built_once
def _select_scores(_: str) -> Select[str, str, str, float, str]:
    return select(
        predictions.c.sha256, predictions.c.label, predictions.c.decision, predictions.c.score, predictions.c.provider
    ).where(has_bound_content(predictions))


@built_once
def _add_counts(dialect: str) -> Insert:
    return insert_adding(dialect, tallies).values(changed_at=database_now())


def change_tally(connection: Connection, run_id: str, changes: Mapping[TallyKey, int]) -> None:
    """Add positive or negative changes to a run's tally, last in the caller's transaction."""
    changes = {key: change for key, change in changes.items() if change}
    if changes and connection.execute(_select_model(connection), {"of_run": run_id}).one().is_kept:
        connection.execute(_add_counts(connection), _make_rows(run_id, _choose_slot(connection), changes))


def _make_rows(run_id: str, slot: int, counts: Mapping[TallyKey, int]) -> list[dict[str, Any]]:
    return [
        {"run_id": run_id, "slot": slot, "kind": kind, "name": name, "count": count}
        for (kind, name), count in sorted(counts.items())
    ]


def _choose_slot(connection: Connection) -> int:
    # SQLite has one writer at a time, so one slot suffices.
    return 0 if connection.dialect.name == "sqlite" else random.randrange(_SLOTS)  # noqa: S311  # no secret


def _to_tally(sums: Mapping[TallyKey, int], changed_at: datetime | None) -> RunTally | None:
    """Return the tally of a run from its sums; None if there is no tally or it cannot be right."""
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
