"""Check of the invariants I1 to I9, which must hold when a fault is over and the queue has drained.

It relies on tables, Redis, logs and processes only, not on the code that wrote them; the expected results come from an
undisturbed run. Evidence that a case does not have is omitted: a crash of `enqueue` has no workers, a migration no
queue.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from sqlalchemy import JSON, Connection, Engine, Select, String, Text, and_, cast, func, or_, select
from sqlalchemy.types import Enum

from cli.output.run_summary import summarise
from db.engine import reading
from db.runs import find_run
from db.tables import jobs, metadata, models, predictions, runs, scans, worklist_rows
from db.tallies import read_tallies
from db.types import JobStatus, RunStatus, ScanStatus, database_now
from nightread.model.card import Card
from nightread.reasons import Reason
from worker.queue.publisher import QUEUE

_PREFIX = "nightread:"
_UNACKED = "unacked"
#: Columns that may contain paths, which are the operator's own names of folders and files.
_OF_RUNS = ("sources", "name", "settings")
_PATH_COLUMNS = {("scans", "path"), ("folder_counts", "folder"), *(("runs", name) for name in _OF_RUNS)}
#: Batches of different sizes add numbers in different orders.
SCORE_TOLERANCE = 1e-6
_SHOWN = 5


@dataclass(frozen=True)
class Violation:
    """A violation of an invariant."""

    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


@dataclass(frozen=True)
class Outcome:
    """Result of one file in an undisturbed run.

    Attributes:
        status: terminal status.
        reason: reason code of a scan without a score.
        sha256: digest of the content that must have been scored; None for any.
    """

    status: ScanStatus
    reason: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Expected:
    """Result of an undisturbed run over a folder.

    Attributes:
        outcomes: outcomes by path as in the table; several if each is right, such as for an absent share.
        scores: scores of all contents that ever existed, by SHA-256 and label.
    """

    outcomes: Mapping[str, Outcome | Sequence[Outcome]]
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerSeen:
    """State of a worker that the supervisor keeps alive.

    Attributes:
        name: display name.
        is_alive: whether its main process runs.
        has_progressed: whether it committed work after the fault.
        rss_bytes: resident memory of all its processes.
    """

    name: str
    is_alive: bool = True
    has_progressed: bool = True
    rss_bytes: int = 0


@dataclass(frozen=True)
class Evidence:
    """The evidence of a case; omitted parts are not checked.

    Attributes:
        engine: the database.
        accepted: expected results of each run that `enqueue` confirmed, by run id.
        uncertain: expected result of a run that may exist without confirmation, since `enqueue` was killed; at most one
            such run.
        redis_url: URL of the broker.
        logs: all written text by name: logs, tracebacks, health files, Redis' append-only file.
        canaries: texts that must not appear outside the columns for paths.
        workers: workers that must be alive.
        most_rss_bytes: memory limit of each worker.
        drained_s: time from the end of the fault until no job was open.
        most_drained_s: limit of `drained_s`: lease + sweep + work.
        repeated: runs over unchanged files: id of the later run, and of the run that it repeats.
    """

    engine: Engine
    accepted: Mapping[str, Expected]
    uncertain: Expected | None = None
    redis_url: str | None = None
    logs: Mapping[str, str] = field(default_factory=dict)
    canaries: Sequence[str] = ()
    workers: Sequence[WorkerSeen] = ()
    most_rss_bytes: int = 2**30
    drained_s: float | None = None
    most_drained_s: float = 60.0
    repeated: Mapping[str, str] = field(default_factory=dict)


def check(evidence: Evidence) -> list[Violation]:
    """Return all violations."""
    with reading(evidence.engine) as connection:
        found = [
            *_check_scans(connection, evidence),  # I1, I4
            *_check_predictions(connection, evidence),  # I2, I4
            *_check_agreement(connection),  # I3
            *_check_open(connection),  # I5
            *_check_columns(connection, evidence.canaries),  # I8
            *_check_runs(connection, evidence),  # I9
        ]
    if evidence.redis_url is not None:
        found += _check_redis(evidence.redis_url, evidence.canaries)  # I5, I8
    found += _check_workers(evidence)  # I6, I7
    found += _check_logs(evidence)  # I8
    found += _check_reports(evidence)  # I9
    return sorted(found, key=lambda violation: violation.invariant)


def _check_scans(connection: Connection, evidence: Evidence) -> Iterator[Violation]:
    run_ids = set(connection.execute(select(runs.c.id)).scalars())
    lost = set(evidence.accepted) - run_ids
    unexpected = run_ids - set(evidence.accepted)
    if lost:
        yield Violation("I1", f"accepted runs have no row: {_show(lost)}")
    if len(unexpected) > (evidence.uncertain is not None):
        yield Violation("I1", f"runs without confirmation: {_show(unexpected)}")
    expectations = dict(evidence.accepted)
    if evidence.uncertain is not None:
        expectations |= dict.fromkeys(unexpected, evidence.uncertain)
    for run_id, expected in expectations.items():
        if run_id in run_ids:
            yield from _check_run_scans(connection, run_id, expected)
    strays = connection.execute(select(func.count()).select_from(scans).where(scans.c.run_id.not_in(run_ids)))
    if count := strays.scalar_one():
        yield Violation("I1", f"{count} scans belong to no run")


def _check_run_scans(connection: Connection, run_id: str, expected: Expected) -> Iterator[Violation]:
    columns = (scans.c.path, scans.c.status, scans.c.reason_code, scans.c.sha256)
    rows = connection.execute(select(*columns).where(scans.c.run_id == run_id)).all()
    by_path = {row.path: row for row in rows}
    counts = Counter(row.path for row in rows)
    where = f"run {run_id[:8]}"
    if doubled := [path for path, count in counts.items() if count > 1]:
        yield Violation("I1", f"{where}: {len(doubled)} scans doubled: {_show(doubled)}")
    if lost := set(expected.outcomes) - set(by_path):
        yield Violation("I1", f"{where}: {len(lost)} scans lost, without a row: {_show(lost)}")
    if unexpected := set(by_path) - set(expected.outcomes):
        yield Violation("I1", f"{where}: {len(unexpected)} scans unexpected: {_show(unexpected)}")
    if queued := [row.path for row in rows if row.status is ScanStatus.QUEUED]:
        yield Violation("I1", f"{where}: {len(queued)} scans lost, without a terminal status: {_show(queued)}")
    for path, outcome in expected.outcomes.items():
        row = by_path.get(path)
        if row is None or row.status is ScanStatus.QUEUED:
            continue
        allowed = [outcome] if isinstance(outcome, Outcome) else outcome
        if not any(_is(row, one) for one in allowed):
            wanted = " or ".join(_format_outcome(one.status, one.reason, one.sha256) for one in allowed)
            got = _format_outcome(row.status, row.reason_code, row.sha256)
            yield Violation("I4", f"{where}: {path} ended {got}, in an undisturbed run {wanted}")


def _is(row: Any, outcome: Outcome) -> bool:
    same = (row.status, row.reason_code) == (outcome.status, outcome.reason)
    return same and (outcome.sha256 is None or row.sha256 == outcome.sha256)


def _format_outcome(status: ScanStatus, reason: str | None, sha256: str | None) -> str:
    return " ".join(part for part in (status.value, reason, sha256 and f"of {sha256[:8]}") if part)


def _check_predictions(connection: Connection, evidence: Evidence) -> Iterator[Violation]:
    key = (predictions.c.sha256, predictions.c.model_digest, predictions.c.preprocessing, predictions.c.label)
    doubled = connection.execute(select(*key).group_by(*key).having(func.count() > 1)).all()
    if doubled:
        yield Violation("I2", f"{len(doubled)} predictions doubled: {_show(row.sha256[:8] for row in doubled)}")
    scores: dict[str, Mapping[str, float]] = {}
    for expected in (*evidence.accepted.values(), *([evidence.uncertain] if evidence.uncertain else [])):
        scores |= expected.scores
    if not scores:
        return
    for row in connection.execute(select(predictions)):
        reference = scores.get(row.sha256, {}).get(row.label)
        if reference is None:
            yield Violation("I4", f"a prediction of {row.sha256[:8]}, which no undisturbed run scores")
        elif not abs(row.score - reference) <= SCORE_TOLERANCE:
            yield Violation("I4", f"{row.sha256[:8]} scored {row.score}, in an undisturbed run {reference}")


def _check_agreement(connection: Connection) -> Iterator[Violation]:
    cards = {
        row.digest: Card.model_validate(row.card) for row in connection.execute(select(models.c.digest, models.c.card))
    }
    by_content: dict[tuple[str, str], dict[str, Any]] = {}
    for row in connection.execute(select(predictions)):
        by_content.setdefault((row.sha256, row.model_digest), {})[row.label] = row
    for (sha256, digest), rows in by_content.items():
        card = cards[digest]
        if set(rows) == set(card.labels):
            decisions = card.decide(tuple(rows[label].score for label in card.labels))
            if decisions != tuple(rows[label].decision for label in card.labels):
                yield Violation("I3", f"the decisions of {sha256[:8]} do not follow from its scores and the thresholds")
    codes = {reason.value: reason for reason in Reason}
    query = select(scans, runs.c.model_digest).join(runs, runs.c.id == scans.c.run_id)
    for row in connection.execute(query):
        labels = set(by_content.get((row.sha256, row.model_digest), {}))
        scan = f"scan {row.id} is {row.status.value}"
        if row.status is ScanStatus.SCORED:
            if labels != set(cards[row.model_digest].labels):
                yield Violation("I3", f"{scan} and has predictions for {sorted(labels)}")
            if row.reason_code is not None:
                yield Violation("I3", f"{scan} and has the reason {row.reason_code}")
        elif row.status is not ScanStatus.QUEUED:
            reason = codes.get(row.reason_code)
            if reason is None:
                yield Violation("I3", f"{scan} with an unknown reason: {row.reason_code}")
            elif reason.is_rejection != (row.status is ScanStatus.REJECTED):
                yield Violation("I3", f"{scan} with {row.reason_code}, a reason of the other status")
            if row.status is ScanStatus.REJECTED and labels:
                yield Violation("I3", f"{scan} although its content has predictions")


def _check_open(connection: Connection) -> Iterator[Violation]:
    query = select(jobs.c.status, func.count()).where(jobs.c.status != JobStatus.DONE).group_by(jobs.c.status)
    for status, count in connection.execute(query):
        yield Violation("I5", f"{count} jobs are still {status.value}")
    live = select(func.count()).select_from(jobs).where(jobs.c.lease_expires_at >= database_now())
    if count := connection.execute(live).scalar_one():
        yield Violation("I5", f"{count} leases are live")
    for row in connection.execute(select(runs.c.id, runs.c.status)):
        if row.status not in {RunStatus.FINISHED, RunStatus.CANCELLED}:
            yield Violation("I5", f"run {row.id[:8]} is still {row.status.value}")


def _check_redis(url: str, canaries: Sequence[str]) -> Iterator[Violation]:
    with redis.Redis.from_url(url) as client:
        if count := client.llen(_PREFIX + QUEUE):
            yield Violation("I5", f"{count} messages lie in the queue")
        if count := client.hlen(_PREFIX + _UNACKED):
            yield Violation("I5", f"{count} messages are not acknowledged")
        for key in client.scan_iter():
            held = key + b" " + b" ".join(_read_key(client, key))
            for canary in canaries:
                if canary.encode() in held:
                    yield Violation("I8", f"{canary} lies in Redis, below {key!r}")


def _read_key(client: redis.Redis, key: bytes) -> list[bytes]:
    kind = client.type(key)
    if kind == b"list":
        return client.lrange(key, 0, -1)
    if kind == b"hash":
        return [part for pair in client.hgetall(key).items() for part in pair]
    if kind == b"set":
        return list(client.smembers(key))
    if kind == b"zset":
        return client.zrange(key, 0, -1)
    return [client.get(key) or b""]


def _check_workers(evidence: Evidence) -> Iterator[Violation]:
    for worker in evidence.workers:
        if not worker.is_alive:
            yield Violation("I6", f"worker {worker.name} is not alive")
        elif not worker.has_progressed:
            yield Violation("I6", f"worker {worker.name} is alive and has committed nothing since the fault")
        if worker.rss_bytes > evidence.most_rss_bytes:
            have, may = worker.rss_bytes >> 20, evidence.most_rss_bytes >> 20
            yield Violation("I6", f"worker {worker.name} uses {have} MiB of memory; allowed are {may}")
    if evidence.drained_s is not None and evidence.drained_s > evidence.most_drained_s:
        yield Violation("I7", f"draining took {evidence.drained_s:.1f} s; allowed are {evidence.most_drained_s:.1f}")


def _check_columns(connection: Connection, canaries: Sequence[str]) -> Iterator[Violation]:
    for table in metadata.sorted_tables:
        for column in table.columns:
            is_text = isinstance(column.type, String | Text | JSON) and not isinstance(column.type, Enum)
            if not is_text or (table.name, column.name) in _PATH_COLUMNS:
                continue
            for canary in canaries:
                holds = cast(column, Text).contains(canary, autoescape=True)
                if count := connection.execute(select(func.count()).select_from(table).where(holds)).scalar_one():
                    yield Violation("I8", f"{canary} stands in {count} rows of {table.name}.{column.name}")


def _check_logs(evidence: Evidence) -> Iterator[Violation]:
    for name, text in evidence.logs.items():
        for canary in evidence.canaries:
            if canary in text:
                line = next(line for line in text.splitlines() if canary in line)
                yield Violation("I8", f"{canary} stands in {name}: {line[:200]}")


def _check_runs(connection: Connection, evidence: Evidence) -> Iterator[Violation]:
    """Check that a repeated run reuses every prediction and computes none."""
    for again, first in evidence.repeated.items():
        pairs = scans.alias("first"), scans.alias("again")
        one, two = pairs
        differs = or_(
            one.c.status != two.c.status,
            func.coalesce(one.c.reason_code, "") != func.coalesce(two.c.reason_code, ""),
            and_(two.c.status == ScanStatus.SCORED, or_(~two.c.reused, one.c.sha256 != two.c.sha256)),
        )
        query = (
            select(func.count())
            .select_from(one.join(two, one.c.path == two.c.path))
            .where(one.c.run_id == first, two.c.run_id == again, differs)
        )
        if count := connection.execute(query).scalar_one():
            yield Violation("I9", f"repeated run: {count} scans have another result, or were scored again")
        began = select(runs.c.created_at).where(runs.c.id == again).scalar_subquery()
        new = select(func.count()).select_from(predictions).where(predictions.c.created_at >= began)
        if count := connection.execute(new).scalar_one():
            yield Violation("I9", f"repeated run: {count} new predictions")


def _check_reports(evidence: Evidence) -> Iterator[Violation]:
    """Check that the tally, the report and the worklist of each run agree with its scans and predictions."""
    with reading(evidence.engine) as connection:
        run_ids = list(connection.execute(select(runs.c.id)).scalars())
        for run_id, tally in read_tallies(connection, run_ids).items():
            where = f"run {run_id[:8]}"
            if not tally.is_kept:
                yield Violation("I9", f"{where}: its tally is missing, or does not add up")
            report = summarise(find_run(connection, run_id), tally, seconds=1.0)
            query = select(scans.c.status, func.count()).where(scans.c.run_id == run_id).group_by(scans.c.status)
            counts = dict(sorted((status.value, count) for status, count in connection.execute(query)))
            reported = {status.value: report[status.value] for status in sorted(ScanStatus) if report[status.value]}
            if reported != counts:
                yield Violation("I9", f"{where}: the report says {reported}, the table {counts}")
            if report["found"] != (held := sum(counts.values())):
                yield Violation("I9", f"{where} has found {report['found']} scans and holds {held}")
            labels = _select_scored_labels().where(scans.c.run_id == run_id).subquery()
            decided = select(labels.c.decision, func.count()).group_by(labels.c.decision)
            if tally.decisions != (decisions := dict(connection.execute(decided).all())):
                yield Violation("I9", f"{where}: the tally says {tally.decisions}, the predictions {decisions}")
            reasons: dict[str, dict[str, int]] = {"rejected": {}, "failed": {}}
            named = select(scans.c.status, scans.c.reason_code, func.count()).group_by(
                scans.c.status, scans.c.reason_code
            )
            for status, reason, count in connection.execute(named.where(scans.c.run_id == run_id)):
                if status.value in reasons:
                    reasons[status.value][reason] = count
            if tally.reasons != reasons:
                yield Violation("I9", f"{where}: the tally says {tally.reasons}, the scans {reasons}")
        shown = select(worklist_rows.c.run_id, worklist_rows.c.scan_id, worklist_rows.c.label, worklist_rows.c.decision)
        there = _select_scored_labels()
        differences = (("holds", shown.except_(there), "lack"), ("lacks", there.except_(shown), "hold"))
        for name, query, verb in differences:
            if count := len(connection.execute(query).all()):
                yield Violation("I9", f"the worklist {name} {count} rows that the predictions {verb}")


def _select_scored_labels() -> Select[Any]:
    """Select run, scan, label and decision of each scored scan from its predictions, which the views do not read."""
    return (
        select(scans.c.run_id, scans.c.id, predictions.c.label, predictions.c.decision)
        .join(runs, runs.c.id == scans.c.run_id)
        .join(models, models.c.digest == runs.c.model_digest)
        .join(
            predictions,
            (predictions.c.sha256 == scans.c.sha256)
            & (predictions.c.model_digest == runs.c.model_digest)
            & (predictions.c.preprocessing == models.c.preprocessing),
        )
        .where(scans.c.status == ScanStatus.SCORED)
    )


def _show(values: Any) -> str:
    shown = sorted(map(str, values))
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
