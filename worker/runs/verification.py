"""Verification of a run: its files are scored again, and what comes out is compared with what is stored.

Nothing is stored and nothing stored is reused, so a changed file, decoder, model or machine shows.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from db.contents import Stored
from db.engine import reading
from db.jobs import OpenScan
from db.runs import RunInfo
from db.stored_scans import StoredScan, list_ended_scans, load_stored_scans
from db.tallies import ScanOutcome
from db.types import ScanStatus
from nightread.errors import NightreadError
from nightread.inference.scorer import find_allowed_parity
from nightread.reasons import Reason
from worker.jobs.pipeline import JobResult, score_scans
from worker.process import WorkerProcess


class Agreement(StrEnum):
    """How a second scoring of a scan agrees with the stored one."""

    EQUAL = "equal"  # the same scores to the last bit, or the same reason
    CLOSE = "within-tolerance"  # scores that two machines, or two batch sizes, may differ by
    CHANGED = "changed"  # another score, decision or reason, or other bytes in the file
    MISSING = "missing"  # the file is gone or cannot be read


@dataclass(frozen=True, slots=True)
class VerifiedScan:
    """A scan that does not agree.

    Attributes:
        why: what differs, for people; holds no path.
    """

    path: str
    agreement: Agreement
    why: str


@dataclass(slots=True)
class Verification:
    """The second scoring of a run.

    Attributes:
        run: the run.
        ended: its `scored` and `rejected` scans.
        tolerance: largest difference of two scores that still agree.
        counts: scans by agreement.
        largest_difference: of two scores of one scan and label whose bytes are the same.
        differing: scans that changed or are missing, in the order they were found.
    """

    run: RunInfo
    ended: int
    tolerance: float
    counts: Counter[Agreement] = field(default_factory=Counter)
    largest_difference: float = 0.0
    differing: list[VerifiedScan] = field(default_factory=list)

    @property
    def checked(self) -> int:
        """Scans that were scored again."""
        return self.counts.total()

    def describe(self) -> dict[str, Any]:
        """Return the figures for a program; fields are only ever added."""
        return {
            "run": self.run.id, "name": self.run.name, "model": self.run.model, "ended": self.ended,
            "checked": self.checked, "tolerance": self.tolerance, "largest_difference": self.largest_difference,
            **{agreement.value.replace("-", "_"): self.counts[agreement] for agreement in Agreement},
            "scans": [
                {"path": scan.path, "agreement": scan.agreement.value, "why": scan.why} for scan in self.differing
            ],
        }  # fmt: skip


def verify_run(
    process: WorkerProcess, run: RunInfo, *, sample: int | None = None, on_progress: Callable[[int, int], None]
) -> Verification:
    """Score the `scored` and `rejected` scans of a run again, and compare.

    Args:
        process: settings, database and threads.
        run: the run; its own model scores again, as the run's gate setting says.
        sample: number of scans, drawn at random; None: all.
        on_progress: called with the scans done and all scans to do.

    Raises:
        NightreadError: the run has no `scored` or `rejected` scan.
        ModelError: the run's bundle is missing on this machine, or must not be served.
        DatabaseUnavailable: the database does not answer.
    """
    scorer = process.find_scorer(run)
    limits = process.make_limits(run, scorer)
    with reading(process.engine) as connection:
        ids = list_ended_scans(connection, run.id)
    if not ids:
        raise NightreadError(f"run {run.id[:8]} has no scored or rejected scan: there is nothing to verify")
    chosen = ids if sample is None or sample >= len(ids) else sorted(random.sample(ids, sample))
    # Either scoring may be off by what parity allows.
    verification = Verification(run, len(ids), 2 * find_allowed_parity(scorer.card, scorer.device))
    size = process.settings.job_size
    on_progress(0, len(chosen))
    for start in range(0, len(chosen), size):
        with reading(process.engine) as connection:
            stored = load_stored_scans(connection, chosen[start : start + size])
        result = score_scans(
            [OpenScan(scan.id, scan.path, scan.size_bytes) for scan in stored],
            scorer,
            limits,
            decoder=process.decoder,
            find_stored=lambda _: Stored(set(), {}, {}),
            check_lease=lambda: None,
            worker=process.name,
        )
        _compare(verification, stored, result, scorer.card.labels)
        on_progress(min(start + size, len(chosen)), len(chosen))
    return verification


def _compare(
    verification: Verification, stored: Sequence[StoredScan], result: JobResult, labels: Sequence[str]
) -> None:
    outcomes = {outcome.scan_id: outcome for outcome in result.outcomes}
    unreadable = {scan.id: (reason, text) for scan, reason, text in result.put_off}
    scores: dict[str, dict[str, tuple[float, str]]] = {}
    for new in result.predictions:
        scores.setdefault(new.sha256, {})[new.label] = (new.score, new.decision)
    for scan in stored:
        if scan.id in unreadable:
            reason, text = unreadable[scan.id]
            is_changed = reason is Reason.STILL_CHANGING
            agreement, why = Agreement.CHANGED if is_changed else Agreement.MISSING, f"{reason.value}: {text}"
        else:
            outcome = outcomes[scan.id]
            agreement, why = _judge(verification, scan, outcome, scores.get(outcome.sha256 or "", {}), labels)
        verification.counts[agreement] += 1
        if agreement in {Agreement.CHANGED, Agreement.MISSING}:
            verification.differing.append(VerifiedScan(scan.path, agreement, why))


def _judge(
    verification: Verification,
    scan: StoredScan,
    outcome: ScanOutcome,
    scores: dict[str, tuple[float, str]],
    labels: Sequence[str],
) -> tuple[Agreement, str]:
    """Compare one scan; returns how it agrees, and what differs."""
    before = scan.reason or scan.status.value
    after = outcome.reason_code or outcome.status.value
    if outcome.reason_code == Reason.MISSING_FILE.value and before != after:
        return Agreement.MISSING, f"{after}: {outcome.reason_text}"
    if scan.sha256 is not None and outcome.sha256 not in {None, scan.sha256}:
        return Agreement.CHANGED, "the file holds other bytes"
    if before != after:
        return Agreement.CHANGED, f"{before} in the run, {after} now"
    if scan.status is not ScanStatus.SCORED:
        return Agreement.EQUAL, ""
    agreement = Agreement.EQUAL
    for label in labels:
        score, decision = scores[label]
        stored_score = scan.scores.get(label, math.nan)
        difference = abs(score - stored_score)
        verification.largest_difference = max(verification.largest_difference, difference)
        if not difference <= verification.tolerance:  # also where a score is missing
            return Agreement.CHANGED, f"{label} {stored_score:.6f} in the run, {score:.6f} now"
        if decision != scan.decisions[label]:
            return Agreement.CHANGED, f"{label}: {scan.decisions[label]} in the run, {decision} now"
        if difference:
            agreement = Agreement.CLOSE
    return agreement, ""
