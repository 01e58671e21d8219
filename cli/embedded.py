"""Scores paths in this process, for `score` and `demo`."""

import os
from pathlib import Path
from typing import Any

from cli.output.console import waiting
from nightread.logs import configure_logging
from nightread.settings import Settings

# NumPy, which is imported after this module, would start threads; a process with threads of others cannot be forked.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def score_here(
    settings: Settings,
    paths: list[Path],
    asked: dict[str, Any],
    *,
    listed: list[Path] | None = None,
    as_json: bool,
) -> int:
    """Score paths in this process and print the summary; returns the exit code.

    Args:
        settings: of this process.
        paths: files and folders.
        asked: arguments of `cli.request.make_request`, which takes its time to import.
        listed: files and folders below `paths` to look at, instead of the paths themselves.
        as_json: print JSON instead of text.
    """
    configure_logging(settings, default="WARNING")
    with waiting("starting"):
        from nightread.inference.early_open import Ahead

        ahead = Ahead(settings)
        # SQLAlchemy takes longer than the model, which opens meanwhile.
        from cli.output.embedded_run import score_new_run

    return score_new_run(settings, ahead, paths, asked, listed=listed, as_json=as_json)
