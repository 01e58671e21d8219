"""Progress and summary of a run that this process scores."""

import time
from pathlib import Path

from cli.exits import Exit
from cli.output.console import progress_bar, say, waiting
from cli.output.run_summary import count_run, report_run
from nightread.inference.early_open import Ahead
from nightread.settings import Settings
from worker.process import WorkerProcess
from worker.runs.embedded import begin_run, gather_crew, run_embedded


def score_new_run(settings: Settings, ahead: Ahead, paths: list[Path], *, name: str | None, as_json: bool) -> int:
    """Make a run over paths, score it in this process and print its summary; returns the exit code."""
    process = WorkerProcess(settings, ahead)
    with waiting("listing scans"):
        run_id = begin_run(process, paths, name=name)
    return score_run(process, run_id, as_json=as_json)


def score_run(process: WorkerProcess, run_id: str, *, as_json: bool) -> int:
    """Score a run in this process and print its summary; returns the exit code."""
    try:
        crew = gather_crew(process, run_id)  # before the bar, which has a thread of its own
        started = time.monotonic()
        with progress_bar("scoring", None) as bar:
            run = run_embedded(process, run_id, lambda counts: bar.set(counts.terminal, counts.found), crew)
    except KeyboardInterrupt:
        done = count_run(process.engine, run_id).counts
        say(
            f"Interrupted: {done.scored + done.rejected:,} of {done.found:,} scans saved. "
            "Run the command again to continue."
        )
        return Exit.INTERRUPTED
    return report_run(
        process.engine, run, seconds=time.monotonic() - started, provider=process.provider, as_json=as_json
    )
