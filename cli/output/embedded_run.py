"""Progress and summary of a run that this process scores."""

import time
from pathlib import Path
from typing import Any

from cli.exits import Exit
from cli.output.console import progress_bar, say, waiting
from cli.output.run_summary import count_run, report_run, say_nothing_new
from cli.request import make_request
from db.engine import reading
from db.runs import RunInfo
from db.tallies import read_tallies
from nightread.inference.early_open import Ahead
from nightread.settings import Settings
from worker.errors import NothingNew
from worker.process import WorkerProcess
from worker.report.notice import notify_ended
from worker.runs.embedded import begin_run, gather_crew, run_embedded


def score_new_run(
    settings: Settings,
    ahead: Ahead,
    paths: list[Path],
    asked: dict[str, Any],
    *,
    listed: list[Path] | None,
    as_json: bool,
) -> int:
    """Make a run over paths, score it in this process and print its summary; returns the exit code.

    Args:
        settings: of this process.
        ahead: the model that another thread is opening.
        paths: files and folders.
        asked: arguments of `cli.request.make_request`.
        listed: files and folders below `paths` to look at, instead of the paths themselves.
        as_json: print JSON instead of text.
    """
    request = make_request(**asked)
    process = WorkerProcess(settings, ahead)
    try:
        with waiting("listing scans"):
            run_id = begin_run(process, paths, request=request, listed=listed, on_resume=_say_resumed)
    except NothingNew as nothing:
        say_nothing_new(str(nothing), as_json)
        return Exit.OK
    return score_run(process, run_id, as_json=as_json)


def _say_resumed(run: RunInfo) -> None:
    say(f"Going on with run {run.id[:8]}, which was interrupted.")


def score_run(process: WorkerProcess, run_id: str, *, as_json: bool) -> int:
    """Score a run in this process and print its summary; returns the exit code."""
    with reading(process.engine) as connection:
        before = read_tallies(connection, [run_id])[run_id].counts
    try:
        crew = gather_crew(process, run_id)  # before the bar, which has a thread of its own
        started = time.monotonic()
        with progress_bar("scoring", None) as bar:
            run = run_embedded(
                process, run_id, lambda counts: bar.set(counts.terminal, counts.found), crew,
                lambda: say("Interrupted: storing the scans at hand."),
            )  # fmt: skip
    except KeyboardInterrupt:
        done = count_run(process.engine, run_id).counts
        say(
            f"{done.scored + done.rejected:,} of {done.found:,} scans are stored. "
            f"Run the command again to go on with run {run_id[:8]}."
        )
        return Exit.INTERRUPTED
    code = report_run(
        process.engine, run, seconds=time.monotonic() - started, provider=process.provider, as_json=as_json,
        before=before.terminal,
    )  # fmt: skip
    notify_ended(process.engine, process.settings)
    return code
