"""Results of `bench`: medians over its rounds, and their ratios to the limit."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.scans import BenchScans
from bench.stages import STAGES, StageRates, take_medians
from bench.ways import Scored


@dataclass(slots=True)
class Rounds:
    """Measurements of all rounds, in order.

    Attributes:
        stages: each stage alone.
        embedded: first `score` of a round.
        reused: second `score` of a round.
        workers: scans per second, by the number of worker processes.
        loads: load average of the machine at the start of each round.
    """

    stages: list[StageRates] = field(default_factory=list)
    embedded: list[Scored] = field(default_factory=list)
    reused: list[Scored] = field(default_factory=list)
    workers: dict[int, list[float]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)


def describe(
    rounds: Rounds, scans: BenchScans, *, model: str, provider: str, servers: str, not_measured: Sequence[str]
) -> dict[str, Any]:
    """Return medians of all rounds and their ratios to the limit; rates in scans per second. Fields are only added."""
    stages = take_medians(rounds.stages)
    limit, reuse_limit = stages.limit, stages.reuse_limit
    score = statistics.median(one.scans / one.seconds for one in rounds.embedded)
    whole = statistics.median(one.scans / one.wall_s for one in rounds.embedded)
    reuse = statistics.median(one.scans / one.seconds for one in rounds.reused)
    return {
        "model": model,
        "provider": provider,
        "processes": stages.processes,
        "batch_size": stages.batch_size,
        "scans": len(scans.paths),
        "different": scans.different,
        "drawn": scans.is_drawn,
        "bytes": scans.total_bytes,
        "rejected": stages.rejected,
        "rounds": len(rounds.stages),
        "load_average": [round(load, 2) for load in rounds.loads],
        "stages": {stage: round(stages.rates[stage], 1) for stage in STAGES},
        "limit": round(limit, 1),
        "reuse_limit": round(reuse_limit, 1),
        "loop": {"scans_per_second": round(stages.loop, 1), "ratio": _ratio(stages.loop, limit)},
        "embedded": {
            "scans_per_second": round(score, 1),
            "ratio": _ratio(score, limit),
            "whole_process_scans_per_second": round(whole, 1),
            "whole_process_ratio": _ratio(whole, limit),
            "start_and_end_s": round(statistics.median(one.wall_s - one.seconds for one in rounds.embedded), 3),
        },
        "reuse": {
            "scans_per_second": round(reuse, 1),
            "ratio": _ratio(reuse, reuse_limit),
            "reused": rounds.reused[0].reused,
        },
        "workers": _describe_workers(rounds.workers, limit / stages.processes),
        "servers": servers,
        "not_measured": list(not_measured),
    }


def _describe_workers(workers: Mapping[int, Sequence[float]], limit_of_one: float) -> list[dict[str, Any]]:
    medians = {count: statistics.median(rates) for count, rates in sorted(workers.items())}
    return [
        {
            "workers": count,
            "scans_per_second": round(rate, 1),
            "ratio": _ratio(rate, limit_of_one * count),
            "times_one": _ratio(rate, medians[1]) if 1 in medians else None,
        }
        for count, rate in medians.items()
    ]


def _ratio(rate: float, limit: float) -> float:
    return round(rate / limit, 3) if limit > 0 else 0.0
