"""Follows a run that workers score until it has ended."""

import time

from sqlalchemy import Engine

from cli.output.console import progress_bar
from cli.output.run_summary import report_run
from db.due_jobs import count_leases
from db.engine import reading
from db.runs import find_run
from db.tallies import read_tallies

_POLL_S = 0.5


def follow_run(engine: Engine, run_id: str, *, as_json: bool) -> int:
    """Show a run's progress until it has ended, then its summary; returns the exit code."""
    with progress_bar("waiting for a worker", None) as bar:
        while True:
            with reading(engine) as connection:
                run = find_run(connection, run_id)
                counts = read_tallies(connection, [run_id])[run_id].counts
                workers = count_leases(connection, run_id)
            said = f"scoring, {workers} worker{'s' * (workers != 1)}" if workers else "waiting for a worker"
            bar.set(counts.terminal, counts.found, said)
            if run.finished_at is not None:
                break
            time.sleep(_POLL_S)
    seconds = (run.finished_at - run.created_at).total_seconds()
    return report_run(engine, run, seconds=seconds, as_json=as_json)
