"""Options of commands that make runs: intake, guards and key; imports nothing that `score` waits for."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.options import read_duration_option
from worker.errors import WrongPaths

_INTAKE, _GUARDS = "Intake", "Guards"

SomePaths = Annotated[
    list[Path] | None, typer.Argument(metavar="[PATH...]", help="Files and folders, searched recursively.")
]
FromFile = Annotated[
    str | None,
    typer.Option(
        "--from-file", metavar="FILE", rich_help_panel=_INTAKE,
        help="Read paths from a file, or from stdin (-): one a line, or ended by NUL.",
    ),
]  # fmt: skip
Settle = Annotated[
    float,
    typer.Option(
        "--settle", metavar="DURATION", parser=read_duration_option, rich_help_panel=_INTAKE,
        help="Read a file only when it has not changed for this long: 60s, 10m.",
    ),
]  # fmt: skip
OnlyNew = Annotated[
    bool,
    typer.Option(
        "--only-new", rich_help_panel=_INTAKE,
        help="Leave out files that the model has scored or rejected, and that have not changed since.",
    ),
]  # fmt: skip
Key = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="KEY", rich_help_panel=_INTAKE,
        help="A command that is repeated with the same key finds its run instead of making another.",
    ),
]  # fmt: skip
MaxRejected = Annotated[
    str,
    typer.Option(
        "--max-rejected", metavar="LIMIT", rich_help_panel=_GUARDS, help="Most rejected scans: a share or a count."
    ),
]
MaxFailed = Annotated[
    str | None,
    typer.Option(
        "--max-failed", metavar="LIMIT", rich_help_panel=_GUARDS,
        help="Most failed scans: a share or a count; else exit code 3 tells of each.",
    ),
]  # fmt: skip
Expect = Annotated[
    str | None,
    typer.Option("--expect", metavar="MIN..MAX", rich_help_panel=_GUARDS, help="Number of scans: 200..3000, 200.."),
]
AllowEmpty = Annotated[
    bool, typer.Option("--allow-empty", rich_help_panel=_GUARDS, help="A run without any scan is in order.")
]
DriftAlarm = Annotated[
    bool,
    typer.Option(
        "--drift-alarm", rich_help_panel=_GUARDS, help="Scans that do not look like the training data are an alarm."
    ),
]


def find_paths(paths: list[Path] | None, from_file: str | None) -> tuple[list[Path], list[Path] | None]:
    """Return the sources of a run, and what to look at below them; None: the sources themselves.

    The sources of a list are its files' folders: a list may be long, and each job has the sources for its roots.

    Raises:
        WrongPaths: there is neither path nor list, or the list cannot be read or is empty.
    """
    if from_file is None:
        if not paths:
            raise WrongPaths("no path was given: name files or folders, or a list of them with --from-file")
        return paths, None
    listed = [Path(os.path.abspath(path)) for path in [*_read_list(from_file), *(paths or ())]]  # noqa: PTH100  # keeps links
    return _unite({_find_folder(path) for path in listed}), listed


def _find_folder(path: Path) -> Path:
    """Return the folder that a path is or lies in; of a missing one the nearest that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


_MOST_SOURCES = 16


def _unite(folders: set[Path]) -> list[Path]:
    """Return few folders that hold all of `folders`."""
    kept = sorted(folder for folder in folders if folders.isdisjoint(folder.parents))
    return kept if len(kept) <= _MOST_SOURCES else [Path(os.path.commonpath(kept))]


def _read_list(file: str) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise WrongPaths(f"the list {file} cannot be read: {error.strerror}") from None
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    paths = [os.fsdecode(line) for line in lines if line.strip()]
    if not paths:
        raise WrongPaths(f"the list {'on stdin' if file == '-' else file} is empty: write one path a line")
    return paths
