"""Follows a run that workers score until it has ended."""

import time

from sqlalchemy import Engine

from cli.exits import Exit
from cli.output.console import progress_bar, say
from cli.output.run_summary import report_run
from db.due_jobs import count_leases
from db.engine import reading
from db.runs import RunInfo, find_run
from db.tallies import RunCounts, read_tallies
from nightread.errors import DatabaseUnavailable
from nightread.text import show_duration

_POLL_S = 0.5
#: A database that restarts or fails over is waited for so long: the run goes on without this command.
_AWAY_S = 900.0
_AWAY_POLL_S = 2.0


def follow_run(engine: Engine, run_id: str, *, as_json: bool, timeout_s: float | None = None) -> int:
    """Show a run's progress until it has ended, then its summary; returns the exit code.

    Args:
        engine: the database; it may be away for a while.
        run_id: id of the run.
        as_json: print JSON instead of text.
        timeout_s: longest wait in seconds; None: as long as it takes.

    Raises:
        DatabaseUnavailable: it stays away.
    """
    try:
        run = _wait(engine, run_id, timeout_s)
    except KeyboardInterrupt:
        say(f"Interrupted: the run goes on without this command; see `nightread status {run_id[:8]}`.")
        return Exit.INTERRUPTED
    if run.finished_at is None:
        return Exit.UNAVAILABLE
    seconds = (run.finished_at - run.created_at).total_seconds()
    return report_run(engine, run, seconds=seconds, as_json=as_json)


def _wait(engine: Engine, run_id: str, timeout_s: float | None) -> RunInfo:
    """Return a run once it has ended or the time is over; shows its progress."""
    began = time.monotonic()
    with progress_bar("waiting for a worker", None) as bar:
        while True:
            run, counts, workers = _look(engine, run_id)
            said = f"scoring, {workers} worker{'s' * (workers != 1)}" if workers else "waiting for a worker"
            bar.set(counts.terminal, counts.found, said)
            if run.finished_at is not None:
                return run
            if timeout_s is not None and time.monotonic() - began > timeout_s:
                say(
                    f"Run {run_id[:8]} has not ended within {show_duration(timeout_s)}: {counts.terminal:,} of "
                    f"{counts.found:,} scans have. It goes on; see `nightread status {run_id[:8]}`."
                )
                return run
            time.sleep(_POLL_S)


def _look(engine: Engine, run_id: str) -> tuple[RunInfo, RunCounts, int]:
    """Return a run, its counts and its workers; waits for a database that is away for a while."""
    deadline = None
    while True:
        try:
            with reading(engine) as connection:
                counts = read_tallies(connection, [run_id])[run_id].counts
                return find_run(connection, run_id), counts, count_leases(connection, run_id)
        except DatabaseUnavailable as error:
            if deadline is None:
                deadline = time.monotonic() + _AWAY_S
                say(f"{error}; the run goes on, and this command waits")
            if time.monotonic() > deadline:
                raise
            time.sleep(_AWAY_POLL_S)
