"""Options of commands that make runs: intake, guards and key; imports nothing that `score` waits for."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.options import read_duration_option, read_source
from nightread.scan.object_address import is_address, read_address
from worker.errors import WrongPaths

_INTAKE, _GUARDS = "Intake", "Guards"

SomePaths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[PATH...]", parser=read_source, help="Files, folders and s3://BUCKET/PREFIX, searched recursively."
    ),
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
    listed = [_make_absolute(path) for path in [*_read_list(from_file), *(paths or ())]]
    return _unite({_find_folder(path) for path in listed}), listed


def _make_absolute(path: str | Path) -> Path:
    """Return a path with its links, made absolute; an address in object storage as it is.

    Raises:
        WrongPaths: it is an address that is not read.
    """
    try:
        is_local = read_address(path) is None
    except ValueError as error:
        raise WrongPaths(str(error)) from None
    return Path(os.path.abspath(path) if is_local else path)  # noqa: PTH100  # keeps links


def _find_folder(path: Path) -> Path:
    """Return the folder that a path is or lies in; of a missing one the nearest that exists."""
    if is_address(path):  # `s3:/bucket/night/a.dcm`; a bucket is its own folder
        return path.parent if len(path.parts) > 2 else path
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


_MOST_SOURCES = 16


def _unite(folders: set[Path]) -> list[Path]:
    """Return few folders that hold all of `folders`."""
    kept = sorted(folder for folder in folders if folders.isdisjoint(folder.parents))
    if len(kept) <= _MOST_SOURCES:
        return kept
    local = [folder for folder in kept if not is_address(folder)]
    buckets = {Path(*folder.parts[:2]) for folder in kept if is_address(folder)}
    return [*([Path(os.path.commonpath(local))] if local else []), *sorted(buckets)]


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
