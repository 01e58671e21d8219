"""`report`: writes the report of a run."""

from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.dicom_extra import import_dicom
from cli.exits import Exit
from cli.options import Device, RunReference, read_noon
from cli.output.console import encode_json, print_json, say, waiting
from cli.output.private_file import write_private
from db.engine import reading
from db.run_report import list_runs_of_night
from db.runs import RunInfo, find_run
from db.schema import ensure_schema
from nightread.errors import UnknownRun
from nightread.logs import configure_logging
from nightread.settings import read_settings
from worker.process import WorkerProcess
from worker.report.page import render_page, render_text
from worker.report.run_report import make_report


class Format(StrEnum):
    """How a report is written."""

    HTML = "html"
    JSON = "json"
    TEXT = "text"


def report(
    run: RunReference = None,
    night: Annotated[
        str | None, typer.Option("--night", metavar="DATE", help="All runs of the night that began on this day.")
    ] = None,
    format: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.HTML,  # noqa: A002  # the option's name
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; default: report-RUN.html here, and stdout otherwise.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Show the highest scans; reads their files.")
    ] = True,
    device: Device = None,
    sr: Annotated[
        Path | None,
        typer.Option("--sr", metavar="FOLDER", help="Write a DICOM Structured Report of each study instead."),
    ] = None,
    sc: Annotated[
        bool, typer.Option("--sc", help="With --sr: also a picture of each scan, with its score burnt in.")
    ] = False,
) -> None:
    """Write the report of a run: one HTML file that needs no server.

    It has the scores with the thresholds, the highest scans, those near the threshold, rejected and failed scans by
    reason, drift, throughput and provenance. It holds paths and pictures: keep it where the scans may be seen.
    With --sr (extra `dicom`) it writes DICOM objects, which hold names of patients.

    Example: nightread report ward-a --out ward-a.html
    """
    if run is not None and night is not None:
        raise typer.BadParameter("name a run or a night, not both", param_hint="--night")
    noon = None if night is None else _read_noon(night)
    if sc and sr is None:
        raise typer.BadParameter("it needs --sr", param_hint="--sc")
    settings = read_settings(device=device)
    configure_logging(settings, default="WARNING")
    process = WorkerProcess(settings)
    try:
        ensure_schema(process.engine)
        found = _find_runs(process, run, noon)
        if sr is not None:
            _write_objects(process, found, sr, with_captures=sc)
            return
        with waiting("gathering the report"):
            with_pictures = pictures and format is Format.HTML
            reports = [make_report(process, one, with_pictures=with_pictures) for one in found]
    finally:
        process.close()
    if format is Format.JSON:
        _write(out, facts=[one.facts for one in reports] if night else reports[0].facts)
    elif format is Format.TEXT:
        _write(out, text="\n".join(render_text(one) for one in reports))
    else:
        title = f"Night of {night}" if night else f"Report of {found[0].name}"
        file = out or Path(f"report-{night or found[0].id[:8]}.html")
        _write(file, text=render_page(reports, title))
        say(f"{file}: {len(reports)} run{'s' * (len(reports) != 1)}")


def _write_objects(process: WorkerProcess, found: list[RunInfo], folder: Path, *, with_captures: bool) -> None:
    """Write DICOM objects; exit code 1 if some cannot be made."""
    reports = import_dicom("study_reports")
    kinds = [reports.Kind.REPORT, *([reports.Kind.CAPTURE] if with_captures else [])]
    is_whole = True
    for run in found:
        with waiting("writing DICOM objects"):
            done = reports.write_objects(process, run, folder, kinds)
        say(f"{folder}: {done.written:,} DICOM objects of run {run.id[:8]}")
        for cause, count in done.missing.items():
            say(f"{count:,} objects are missing: {cause}")
            is_whole = False
    if not is_whole:
        raise typer.Exit(Exit.ERROR)


def _read_noon(night: str) -> datetime:
    try:
        day = date.fromisoformat(night)
    except ValueError:
        raise typer.BadParameter(f"{night!r} is no date; write 2026-11-28", param_hint="--night") from None
    return read_noon(day)


def _find_runs(process: WorkerProcess, run: str | None, noon: datetime | None) -> list[RunInfo]:
    with reading(process.engine) as connection:
        if noon is None:
            return [find_run(connection, run)]
        found = list_runs_of_night(connection, noon)
    if not found:
        raise UnknownRun(f"there is no run of the night of {noon:%Y-%m-%d}: `nightread runs` lists them")
    return found


def _write(out: Path | None, *, text: str = "", facts: Any = None) -> None:
    """Write a report to a file that only its owner reads, or to stdout."""
    if out is None:
        if facts is not None:
            print_json(facts)
        else:
            typer.echo(text, nl=False)
        return
    if facts is not None:
        text = encode_json(facts) + "\n"
    write_private(out, text)
