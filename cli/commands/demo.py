"""`demo`: draws a night of synthetic scans and scores it."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cli.embedded import score_here
from cli.options import Json
from cli.output.console import say
from nightread.scan.drawn_chest import write_demo_night
from nightread.settings import read_settings


def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder for the drawn scans; default: a new temporary folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw a small night of synthetic scans and score it.

    Some files are faulty on purpose. Drawn chests have no meaningful score: the demo shows the workflow, not the
    network. The input gate is off, since it would reject them.

    Example: nightread demo
    """
    settings = read_settings(gate=False)
    night = folder or Path(tempfile.mkdtemp(prefix="nightread-demo-"))
    write_demo_night(night)
    say(f"Synthetic scans drawn in {night}")
    raise typer.Exit(score_here(settings, [night], {"name": "demo"}, as_json=as_json))
