"""Arguments and options shared by commands."""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.completion import complete_models, complete_runs
from nightread.scan.object_address import is_address
from nightread.text import read_duration

#: Largest count of rows; every database holds it.
MOST_ROWS: Final = 2**31 - 1

RunReference = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="Run id, unique prefix of it, name, or schedule; default: the newest run.",
        autocompletion=complete_runs,
    ),
]
NamedRun = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Run id, unique prefix of it, name, or schedule.", autocompletion=complete_runs),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run; default: the folder's name.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME[@VERSION]",
        help="Model bundle; or set NIGHTREAD_MODEL.",
        autocompletion=complete_models,
    ),
]
NoGate = Annotated[
    bool, typer.Option("--no-gate", help="Also score what the input gate rejects; or set NIGHTREAD_GATE=false.")
]
Archives = Annotated[
    bool, typer.Option("--archives", help="Also read scans in zip and tar archives; or set NIGHTREAD_ARCHIVES=true.")
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, or cuda (fails without a GPU); or set NIGHTREAD_DEVICE."),
]
Listen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Address to serve on.")]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels", help="Own labels: CSV file with path, label (patient, split), or a folder with one for each label."
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the run to finish; exit codes as for `score`.")]


def read_duration_option(text: str) -> float:
    """Return the duration of an option, in seconds.

    Raises:
        BadParameter: it is none.
    """
    try:
        return read_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def read_source(text: str) -> Path:
    """Return a path as it was typed, or an address in object storage.

    pathlib would spell a folder of this machine such as `./s3:/ward` like an address: it is made absolute.

    Raises:
        BadParameter: it is empty, as of a variable that is not set; pathlib would take it for the current folder.
    """
    if not text:
        raise typer.BadParameter("the path is empty; write . for the current folder")
    path = Path(text)
    if is_address(path) and "://" not in text and (not is_address(text) or path.exists()):
        return path.absolute()
    return path


def read_moment(text: str) -> datetime:
    """Return the time of an option: a duration before now, or a date or time, local unless it names a zone.

    Raises:
        BadParameter: it is none.
    """
    try:
        return datetime.now(UTC) - timedelta(seconds=read_duration(text))
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; write a duration such as 12h or 7d, or a date or time such as 2026-11-28 or "
            "2026-11-28T22:00"
        ) from None


def read_noon(night: date) -> datetime:
    """Return noon of the day on whose evening a night begins, in local time.

    Raises:
        BadParameter: the calendar ends there.
    """
    try:
        _ = night + timedelta(days=2)  # its end is read in local time
        noon = datetime.combine(night, time(12)).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"there is no night of {night:%Y-%m-%d}", param_hint="--night") from None
    return noon


def read_listen(listen: str) -> tuple[str, int]:
    """Return host and port of an address.

    Raises:
        BadParameter: it is none.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise typer.BadParameter(
            f"{listen!r} is no address; write HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000", param_hint="--listen"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)
