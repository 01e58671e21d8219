"""What the report of a run says, as plain values that a program can read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from db.engine import read_clock, reading
from db.registry import read_card
from db.run_report import (
    count_provenance,
    count_scores,
    list_examples,
    list_highest,
    list_job_ends,
    list_nearest,
    sum_stages,
)
from db.runs import RunInfo
from db.tallies import RunTally, read_tallies, reconcile
from nightread import __version__
from nightread.errors import NightreadError
from worker.process import WorkerProcess
from worker.report.pictures import Picture, draw_pictures
from worker.runs.drift import describe_drift, measure_drift
from worker.runs.drift_histogram import make_histograms

_SCORE_EDGES: Final = tuple(place / 20 for place in range(21))
_HIGHEST: Final = 20
_NEAREST: Final = 10
_EXAMPLES: Final = 3
#: Around the threshold of a model without an abstain band.
_NEAR: Final = 0.05
_SLOTS: Final = 24


@dataclass(slots=True)
class RunReport:
    """The report of one run.

    Attributes:
        run: the run.
        facts: what it says, by section; fields are only ever added.
        pictures: of the highest scans, by label.
        no_maps: why there are no activation maps, "" if there are.
    """

    run: RunInfo
    facts: dict[str, Any]
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    no_maps: str = ""


def make_report(process: WorkerProcess, run: RunInfo, *, with_pictures: bool) -> RunReport:
    """Gather the report of a run.

    Args:
        process: settings and database; the model is opened for activation maps.
        run: the run; it may be open still.
        with_pictures: read the files of the highest scans.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with reading(process.engine) as connection:
        card = read_card(connection, run.model_digest)
        tally = read_tallies(connection, [run.id])[run.id]
        now = read_clock(connection)
        labels = [str(label) for label in card.get("labels", [])]
        listed = {label: list_highest(connection, run.id, label, _HIGHEST) for label in labels}
        described = {}
        for label in labels:
            thresholds = _find_thresholds(card, label)
            described[label] = {
                "thresholds": thresholds,
                "histogram": {
                    "edges": _SCORE_EDGES, "counts": count_scores(connection, run.id, label, _SCORE_EDGES),
                },
                "highest": [_describe_scan(asdict(scan)) for scan in listed[label]],
                "near": _describe_band(connection, run.id, label, thresholds),
            }  # fmt: skip
        reasons = _describe_reasons(connection, run.id, tally)
        ends = list_job_ends(connection, run.id)
        provenance = count_provenance(connection, run.id)
        stages = sum_stages(connection, run.id)
    facts = {
        **_describe_run(run, tally, now),
        "labels": described,
        "reasons": reasons,
        "drift": _describe_drift(process, run),
        "throughput": _describe_throughput(ends),
        "stages": _describe_stages(stages),
        "provenance": {
            "model": run.model, "model_digest": run.model_digest, "preprocessing": run.preprocessing,
            "intended_use": card.get("intended_use", ""), "calibration": card.get("calibration", ""),
            "gate": bool(run.settings.get("gate", True)), "release": __version__, **provenance,
        },
    }  # fmt: skip
    report = RunReport(run, facts)
    if with_pictures:
        for place, label in enumerate(labels):
            report.pictures[label], report.no_maps = draw_pictures(process, run, listed[label], place)
    return report


def _describe_run(run: RunInfo, tally: RunTally, now: datetime) -> dict[str, Any]:
    counts = tally.counts
    seconds = ((run.finished_at or now) - run.created_at).total_seconds()
    return {
        "run": run.id, "name": run.name, "status": run.status.value, "guard": run.guard, "guard_text": run.guard_text,
        "schedule": run.schedule, "night": run.night, "created_at": run.created_at, "finished_at": run.finished_at,
        "seconds": round(seconds, 3),
        "scans_per_second": round(counts.terminal / seconds, 1) if seconds > 0 else 0.0,
        "found": run.found, "scored": counts.scored, "rejected": counts.rejected, "failed": counts.failed,
        "queued": counts.queued, "reused": counts.reused, "pruned": run.pruned, "skipped_by_reason": run.skipped,
        "decisions": tally.decisions, "reconciliation": reconcile(run.found, counts),
    }  # fmt: skip


def _describe_scan(scan: dict[str, Any]) -> dict[str, Any]:
    return {name: scan[name] for name in ("path", "score", "decision")}


def _find_thresholds(card: dict[str, Any], label: str) -> dict[str, float]:
    found = card.get("thresholds", {}).get(label)
    if found is None:
        return {}
    if isinstance(found, dict):
        return {name: float(found[name]) for name in ("low", "high") if name in found}
    return {"low": float(found), "high": float(found)}


def _describe_band(connection: Any, run_id: str, label: str, thresholds: dict[str, float]) -> dict[str, Any] | None:
    """Describe the scores in the abstain band, or else around the threshold."""
    if not thresholds:
        return None
    low, high = thresholds["low"], thresholds["high"]
    if low == high:
        low, high = max(0.0, low - _NEAR), min(1.0, high + _NEAR)
    count, nearest = list_nearest(connection, run_id, label, low=low, high=high, limit=_NEAREST)
    return {
        "from": low, "to": high, "is_abstain_band": thresholds["low"] != thresholds["high"], "count": count,
        "scans": [_describe_scan(asdict(scan)) for scan in nearest],
    }  # fmt: skip


def _describe_reasons(connection: Any, run_id: str, tally: RunTally) -> list[dict[str, Any]]:
    counts = [
        (status, reason, count)
        for status, of_status in tally.reasons.items()
        for reason, count in sorted(of_status.items(), key=lambda item: -item[1])
    ]
    examples = list_examples(connection, run_id, [(status, reason) for status, reason, _ in counts], _EXAMPLES)
    return [
        {
            "status": status, "reason": reason, "count": count,
            "examples": [
                {"path": example.path, "text": example.text}
                for example in examples
                if (example.status, example.reason) == (status, reason)
            ],
        }
        for status, reason, count in counts
    ]  # fmt: skip


def _describe_throughput(ends: Sequence[tuple[datetime, int]]) -> dict[str, Any]:
    """Count the scans that ended in each of a few slots of equal length, by the end of their job."""
    if not ends:
        return {"slot_s": 0.0, "scans": []}
    first, last = ends[0][0], ends[-1][0]
    slot_s = max((last - first).total_seconds() / _SLOTS, 1.0)
    scans = [0] * (int((last - first) / timedelta(seconds=slot_s)) + 1)
    for ended_at, count in ends:
        scans[int((ended_at - first) / timedelta(seconds=slot_s))] += count
    return {"from": first, "slot_s": slot_s, "scans": scans}


def _describe_stages(sums: dict[str, Any]) -> dict[str, Any]:
    """Describe where the time of the jobs went; {} for a run of the release before."""
    if not sums:
        return {}
    seconds, batches = sums["seconds"], sums["batches"]
    every_s = sum(seconds.values())
    return {
        "seconds": {stage: round(took_s, 3) for stage, took_s in seconds.items()},
        "shares": {stage: round(took_s / every_s, 4) if every_s else 0.0 for stage, took_s in seconds.items()},
        "batches": batches,
        "mean_batch_size": round(sums["batched_scans"] / batches, 1) if batches else None,
    }


def _describe_drift(process: WorkerProcess, run: RunInfo) -> dict[str, Any]:
    try:
        measured = measure_drift(process.engine, run.id)
    except NightreadError as error:
        return {"looks_alike": None, "sentence": f"not compared: {error}", "histograms": []}
    return {
        "looks_alike": measured.drift.looks_alike,
        "sentence": describe_drift(measured),
        "measured": measured.night.measured,
        "reference_scans": measured.reference.scans,
        "histograms": [histogram.describe() for histogram in make_histograms(measured)],
    }
