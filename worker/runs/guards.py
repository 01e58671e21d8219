"""Guards of a run: limits by which its end is judged, so that a lost night does not look like a good one.

The limits are stored with the run. Whoever closes runs judges them, too: workers, sweeps, and the command that waits.
A run is judged once; `retry` opens it, and its new end is judged anew.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from statistics import median
from typing import Any

from sqlalchemy import Connection, Engine

from db.engine import reading, write
from db.folder_counts import count_folders, find_uncounted
from db.guards import find_night_sizes, find_unjudged, store_guard
from db.runs import RunInfo, close_finished_runs, find_run
from db.tallies import RunTally, read_tallies
from nightread.errors import NightreadError, WrongValue
from worker.guard_codes import GuardCode

_log = logging.getLogger(__name__)

#: A schedule's usual size is learned from so many of its last nights, and from no fewer than the second number.
_NIGHTS, _LEAST_NIGHTS = 14, 5
#: A night is unusual if it is so many times smaller or larger than the median of the last ones.
_UNUSUAL = 3
_SHARE = re.compile(r"(\d+(?:\.\d+)?) ?%")
#: After an upgrade there are as many as there ever were.
_COUNTED_AT_ONCE = 3
_RANGE = re.compile(r"(\d*)\.\.(\d*)")


@dataclass(frozen=True, slots=True)
class Guards:
    """Limits by which the end of a run is judged.

    Attributes:
        max_rejected: most `rejected` scans, as a share ("50%") or a count ("20").
        max_failed: the same for `failed` scans; None: `failed` scans have an exit code of their own anyway.
        least: fewest scans; None: any.
        most: most scans; None: any.
        is_learned: take the usual size of the schedule's last nights where neither `least` nor `most` is given.
        allow_empty: whether a run without a scan is in order.
        drift_alarm: whether scans unlike the training data are an alarm.
        empty_sources: places of the sources that held no scan, counted from one.
    """

    max_rejected: str = "50%"
    max_failed: str | None = None
    least: int | None = None
    most: int | None = None
    is_learned: bool = False
    allow_empty: bool = False
    drift_alarm: bool = False
    empty_sources: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            WrongValue: a limit is none.
        """
        for name in ("max_rejected", "max_failed"):
            if (limit := getattr(self, name)) is not None:
                _check_limit(name, limit)

    def to_json(self) -> dict[str, Any]:
        """Return the limits as they are stored with a run."""
        return asdict(self) | {"empty_sources": list(self.empty_sources)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Guards":
        """Return stored limits; those of a newer release that this one does not know are left out."""
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in stored.items() if name in known}
        return cls(**given | {"empty_sources": tuple(given.get("empty_sources", ()))})


def read_range(text: str) -> tuple[int | None, int | None]:
    """Return the ends of a range such as "200..3000", "200.." or "..3000".

    Raises:
        WrongValue: it is none.
    """
    match = _RANGE.fullmatch(text.replace(",", "").strip())
    least, most = (int(end) if end else None for end in match.groups()) if match else (None, None)
    if (least is None and most is None) or (least is not None and most is not None and least > most):
        raise WrongValue(f"{text!r} is no number of scans to expect; write 200..3000, 200.. or ..3000")
    return least, most


def end_runs(engine: Engine) -> None:
    """Close ended runs, judge them, and count the decisions of a few by folder.

    Raises:
        DatabaseUnavailable: the next call does what was left.
    """
    write(engine, close_finished_runs)
    with reading(engine) as connection:
        unjudged = find_unjudged(connection)
        uncounted = find_uncounted(connection, _COUNTED_AT_ONCE)
    for run_id in unjudged:
        judge_run(engine, run_id)
    for run_id in uncounted:
        count_folders(engine, run_id)


def judge_run(engine: Engine, run_id: str) -> RunInfo:
    """Judge a finished run by its guards, if nobody has; returns the run with what they found.

    Raises:
        UnknownRun: there is no such run.
        DatabaseUnavailable: the database does not answer.
    """
    with reading(engine) as connection:
        run = find_run(connection, run_id)
        if run.guards is None or run.guard is not None or run.status != "finished":
            return run
        guards = Guards.from_json(run.guards)
        tally = read_tallies(connection, [run_id])[run_id]
        usual = _find_usual(connection, run, guards)
    tripped = find_tripped(guards, run, tally, usual)
    if guards.drift_alarm and (drifted := _find_drift(engine, run)):
        tripped.append((GuardCode.DRIFT, drifted))
    guard = tripped[0][0] if tripped else GuardCode.PASSED
    text = "; ".join(sentence for _, sentence in tripped)
    is_first = write(engine, lambda connection: store_guard(connection, run_id, guard, text))
    if is_first and guard not in {GuardCode.PASSED, GuardCode.EMPTY}:
        _log.warning("run %s does not look like a night: %s", run_id[:8], text)
    with reading(engine) as connection:
        return find_run(connection, run_id)


def find_tripped(
    guards: Guards, run: RunInfo, tally: RunTally, usual: Sequence[int] = ()
) -> list[tuple[GuardCode, str]]:
    """Return the guards that trip, each with its code and a sentence, in the order of what to look at first.

    Args:
        guards: the run's limits.
        run: the run, ended.
        tally: its counts.
        usual: numbers of scans of the last nights of its schedule.
    """
    found, counts = run.found, tally.counts
    if not found:
        return [] if guards.allow_empty else [(GuardCode.EMPTY, "no scan was found")]
    tripped: list[tuple[GuardCode, str]] = []
    if guards.empty_sources:
        which = ", ".join(map(str, guards.empty_sources))
        tripped.append((GuardCode.EMPTY_SOURCE, f"of {len(run.sources)} sources, number {which} held no scan"))
    tripped += _judge_size(guards, found, usual)
    reasons = tally.reasons["rejected"]
    if len(reasons) == 1 and counts.rejected == found:
        every = "the only scan is" if found == 1 else f"all {found:,} scans are"
        tripped.append((GuardCode.ONE_REASON, f"{every} rejected for one reason, {next(iter(reasons))}"))
    elif _exceeds(counts.rejected, guards.max_rejected, found):
        most = max(reasons, key=lambda reason: reasons[reason])
        tripped.append((GuardCode.REJECTED, _say_share(counts.rejected, found, "rejected", guards.max_rejected, most)))
    if guards.max_failed is not None and _exceeds(counts.failed, guards.max_failed, found):
        reasons = tally.reasons["failed"]
        most = max(reasons, key=lambda reason: reasons[reason])
        tripped.append((GuardCode.FAILED, _say_share(counts.failed, found, "failed", guards.max_failed, most)))
    return tripped


def _judge_size(guards: Guards, found: int, usual: Sequence[int]) -> list[tuple[GuardCode, str]]:
    least, most, why = guards.least, guards.most, "expected"
    if least is None and most is None and len(usual) >= _LEAST_NIGHTS:
        middle = median(usual)
        least, most = round(middle / _UNUSUAL), round(middle * _UNUSUAL)
        why = f"usual by the last {len(usual)} nights"
    if least is not None and found < least:
        return [(GuardCode.TOO_FEW, f"{_count_scans(found)} found; {least:,} or more are {why}")]
    if most is not None and found > most:
        return [(GuardCode.TOO_MANY, f"{_count_scans(found)} found; {most:,} or fewer are {why}")]
    return []


def _count_scans(found: int) -> str:
    return f"{found:,} scan was" if found == 1 else f"{found:,} scans were"


def _find_usual(connection: Connection, run: RunInfo, guards: Guards) -> list[int]:
    if not guards.is_learned or run.schedule is None:
        return []
    return find_night_sizes(connection, run.schedule, run.id, _NIGHTS)


def _find_drift(engine: Engine, run: RunInfo) -> str:
    """Return a sentence if a run's scans look neither like the training data nor like the first night of their kind."""
    from worker.runs.drift import measure_against_first, measure_drift  # NumPy and pydantic, which a beat does not need

    try:
        measured = measure_drift(engine, run.id)
        if measured.drift.looks_alike is not False:
            return ""
        first = measure_against_first(engine, measured)
    except NightreadError as error:
        _log.warning("drift of run %s is not known: %s", run.id[:8], error)
        return ""
    if first is None:
        return "its scans do not look like the training data (nightread drift)"
    if first.drift.looks_alike is not False:
        return ""
    return "its scans look neither like the training data nor like the first night (nightread drift)"


def _check_limit(name: str, limit: str) -> None:
    share = _SHARE.fullmatch(limit)
    if (share and float(share[1]) <= 100) or (not share and limit.isdecimal()):  # per cent
        return
    option = f"--{name.replace('_', '-')}"
    raise WrongValue(f"{option} {limit!r} is no limit; write a share of the scans such as 5%, or a count such as 20")


def _exceeds(count: int, limit: str, found: int) -> bool:
    share = _SHARE.fullmatch(limit)
    return count > (Fraction(share[1]) * found / 100 if share else int(limit))  # as a float, 29 % of 100 is below 29


def _say_share(count: int, found: int, status: str, limit: str, most: str) -> str:
    allowed = limit if limit.endswith("%") else f"{int(limit):,}"
    return f"{count:,} of {found:,} scans are {status}, most for {most}; {allowed} are allowed (--max-{status})"
