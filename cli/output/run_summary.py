"""Summary of a run, for people and for programs, and its exit code."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Engine

from cli.exits import Exit
from cli.output.console import hint, print_json, say, show_time
from db.engine import reading
from db.pace import Pace
from db.runs import RunInfo
from db.tallies import RunTally, count_scans, read_tallies, reconcile
from nightread.text import show_duration, show_text
from worker.guard_codes import QUIET, GuardCode
from worker.runs.guards import judge_run

_WORKERS_NAMED: Final = 8


def count_run(engine: Engine, run_id: str) -> RunTally:
    """Return a run's tally with its scans counted one by one, as a reconciliation needs them."""
    with reading(engine) as connection:
        tally = read_tallies(connection, [run_id])[run_id]
        return replace(tally, counts=count_scans(connection, [run_id])[run_id])


def summarise(run: RunInfo, tally: RunTally, *, seconds: float, provider: str = "", before: int = 0) -> dict[str, Any]:
    """Return the object that `score --json` ends with; fields are only ever added.

    Args:
        run: the run.
        tally: its counts, reasons and decisions.
        seconds: its duration so far.
        provider: the execution provider; default: that of the run's predictions.
        before: scans that were terminal before those seconds.
    """
    counts = tally.counts
    return {
        "run": run.id,
        "name": run.name,
        "status": run.status.value,
        "found": run.found,
        "skipped": sum(run.skipped.values()),
        "skipped_by_reason": run.skipped,
        "scored": counts.scored,
        "rejected": counts.rejected,
        "failed": counts.failed,
        "queued": counts.queued,
        "reused": counts.reused,
        "pruned": run.pruned,
        "seconds": round(seconds, 3),
        "scans_per_second": round((counts.terminal - before) / seconds, 1) if seconds > 0 else 0.0,
        "model": run.model,
        "provider": provider or ", ".join(tally.providers),
        "guard": run.guard,
        "guard_text": run.guard_text,
    }


def exit_code(summary: dict[str, Any]) -> int:
    """Return the exit code of a finished run."""
    if summary["found"] != summary["scored"] + summary["rejected"] + summary["failed"]:
        return Exit.ERROR
    if summary["guard"] not in QUIET:
        return Exit.EMPTY if summary["guard"] == GuardCode.EMPTY else Exit.GUARD
    return Exit.SOME_FAILED if summary["failed"] else Exit.OK


def report_run(
    engine: Engine, run: RunInfo, *, seconds: float, provider: str = "", as_json: bool, before: int = 0
) -> int:
    """Print the summary of a finished run; returns the exit code. For the arguments see `summarise`."""
    run = judge_run(engine, run.id)
    tally = count_run(engine, run.id)
    summary = summarise(run, tally, seconds=seconds, provider=provider, before=before)
    if as_json:
        print_json(summary)
    else:
        print_summary(run, tally, summary)
    return exit_code(summary)


def say_nothing_new(message: str, as_json: bool) -> None:
    """Say that all scans are known, so that there is no run."""
    if as_json:
        print_json({"run": None, "found": 0})
    else:
        say(message)


def print_summary(run: RunInfo, tally: RunTally, summary: dict[str, Any], pace: Pace | None = None) -> None:
    """Print a run's reconciliation, decisions and reasons for people, and the pace of an open one."""
    from cli.output.tables import make_table, out, paint  # Rich, which --json does not need

    provider = f" on {summary['provider']}" if summary["provider"] else ""
    out.print(f"run {run.id[:8]} ({show_text(run.name)}) {summary['status']}: {run.model}{provider}")
    table = make_table("scans", "status", "", right=("scans",), text=("",))
    table.add_row(f"{summary['scored']:,}", "scored", _detail(tally.decisions, "reused", summary["reused"]))
    for status in ("rejected", "failed"):
        table.add_row(
            f"{summary[status]:,}",
            paint(status, of=status if summary[status] else "none"),
            _detail(tally.reasons[status]),
        )
    out.print(table)
    skipped = f"; {_detail(run.skipped)} skipped" if run.skipped else ""
    pruned = f"; {run.pruned:,} more were pruned" if run.pruned else ""
    out.print(reconcile(run.found, tally.counts) + skipped + pruned)
    if summary["seconds"]:
        out.print(f"{show_duration(summary['seconds'])}, {summary['scans_per_second']:,.0f} scans/s")
    if pace is not None:
        out.print("\n".join(_tell_pace(pace)))
    if run.guard not in QUIET:
        out.print(paint(f"guard {run.guard}: {run.guard_text}", of="failed"))
    hint(f"See the results: nightread results {run.id[:8]}")


def _tell_pace(pace: Pace) -> Iterator[str]:
    """Yield a line each about the last minute, the queue and the workers of an open run."""
    end = "nothing was scored, so its end is unknown"
    if pace.left_s is not None:
        rate = f"{pace.rate:,.3g} scans/s" if pace.rate else "none of its scans was scored"
        end = f"{rate}; may end at {show_time(pace.ends_at)}, in {show_duration(pace.left_s)}"
    yield f"last minute: {end}"
    if pace.place is not None:
        yield f"place {pace.place:,} of {pace.runs:,} in the queue, after {pace.before:,} scans of other runs"
    if pace.waiting:
        scans = "1 scan waits" if pace.waiting == 1 else f"{pace.waiting:,} scans wait"
        yield f"{scans} for the next try, at {show_time(pace.next_try_at)} or later"
    names = ", ".join(pace.workers[:_WORKERS_NAMED])
    more = f" and {len(pace.workers) - _WORKERS_NAMED:,} more" if len(pace.workers) > _WORKERS_NAMED else ""
    count = "worker" if len(pace.workers) == 1 else f"{len(pace.workers):,} workers:"
    yield f"{count} {show_text(names)}{more}" if pace.workers else "no worker is at it"


def _detail(counts: dict[str, int], extra: str = "", extra_count: int = 0) -> str:
    parts = [f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1])]
    if extra_count:
        parts.append(f"{extra_count:,} {extra}")
    return ", ".join(parts)
