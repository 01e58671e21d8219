"""Scores paths in this process, for `score` and `demo`."""

import os
from pathlib import Path

from nightread.logs import configure_logging
from nightread.settings import Settings

# NumPy, which is imported after this module, would start threads; a process with threads of others cannot be forked.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def score_here(settings: Settings, paths: list[Path], *, name: str | None, as_json: bool) -> int:
    """Score paths in this process and print the summary; returns the exit code."""
    configure_logging(settings, level="WARNING")
    from nightread.inference.early_open import Ahead

    ahead = Ahead(settings)
    from cli.output.embedded_run import score_new_run  # SQLAlchemy takes longer than the model, which opens meanwhile

    return score_new_run(settings, ahead, paths, name=name, as_json=as_json)
