"""`results`: prints or exports the results of a run, or of all runs."""

import json
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from sqlalchemy import Connection, Engine

from cli.database import open_database
from cli.options import MOST_ROWS, Json, RunReference, read_moment, read_noon
from cli.output.result_rows import Format, open_output, write_json_lines, write_rows
from cli.output.result_table import print_rows
from db.changes import Changes
from db.engine import reading
from db.registry import read_card
from db.results import COLUMNS, OPERATING_POINT, OperatingPoint, Order, ResultFilter
from db.results_csv import list_columns
from db.runs import RunInfo, find_run
from db.tallies import RunTally, read_tallies
from db.types import ScanStatus
from db.views import results as view
from nightread.errors import WrongValue

_ALL_COLUMNS: Final = "all"
_ROWS, _OUTPUT = "Rows", "Output"


def results(
    run: RunReference = None,
    status: Annotated[
        list[ScanStatus] | None,
        typer.Option("--status", help="Only scans with this status; repeatable.", rich_help_panel=_ROWS),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Only rows of this label.", rich_help_panel=_ROWS)
    ] = None,
    decision: Annotated[
        str | None,
        typer.Option(
            "--decision", help="Only this decision: a label, its negative, or uncertain.", rich_help_panel=_ROWS
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", min=0, max=1, help="Only rows scoring at least this.", rich_help_panel=_ROWS),
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", metavar="UID", help="Only this study, of any run.", rich_help_panel=_ROWS)
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            metavar="TIME",
            parser=read_moment,
            help="Ended since then, of any run: 12h, 7d, a date.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    night: Annotated[
        datetime | None,
        typer.Option(
            "--night",
            metavar="DATE",
            formats=["%Y-%m-%d"],
            help="Ended from noon of this day to the next.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    all_runs: Annotated[bool, typer.Option("--all-runs", help="Rows of all runs.", rich_help_panel=_ROWS)] = False,
    latest: Annotated[
        bool,
        typer.Option("--latest", help="Each file once: the newest run in which it has ended.", rich_help_panel=_ROWS),
    ] = False,
    operating_point: Annotated[
        str | None,
        typer.Option(
            "--operating-point",
            metavar="NAME",
            help="Decisions at this point of the card, not the stored ones.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    sort: Annotated[
        Order | None,
        typer.Option("--sort", help="Order of rows; tables: score, exports: found.", rich_help_panel=_OUTPUT),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B,...", help="Columns by name, or `all`.", rich_help_panel=_OUTPUT),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, max=MOST_ROWS, help="Maximum rows; tables: 100 by default.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    changed_after: Annotated[
        str | None,
        typer.Option(
            "--changed-after",
            metavar="CURSOR",
            help="Rows that ended since, as jsonl; begin with `start`.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    format: Annotated[  # noqa: A002  # the option's name
        Format | None, typer.Option("--format", help="Output format; default: table.", rich_help_panel=_OUTPUT)
    ] = None,
    excel: Annotated[
        bool, typer.Option("--excel", help="CSV as Excel opens it; text is never a formula.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option("--out", help="Output file.", rich_help_panel=_OUTPUT)] = None,
) -> None:
    """Print a run's results: one row per label of a scan.

    The table begins with the highest score. A scan without a score has one row with its reason. Operating points have
    names such as high-sensitivity, balanced and high-specificity; `nightread models show` lists them.

    With `--changed-after`, the last line holds the cursor for the next time: every change comes exactly once.

    Example: nightread results ward-a --decision pneumonia --format csv --out ward-a.csv
    """
    form = _choose_format(format, out, excel=excel, as_json=as_json, is_feed=changed_after is not None)
    engine = open_database()
    with reading(engine) as connection:
        of_any = all_runs or latest or changed_after or (study, since, night) != (None, None, None)
        found = None if run is None and of_any else find_run(connection, run)
        begin, end = _read_night(night, since)
        wanted = ResultFilter(
            run_id=found.id if found else None, statuses=status or [], label=label, min_score=min_score, limit=limit,
            decision=decision, order=sort or (Order.SCORE if form is Format.TABLE else Order.FOUND), study=study,
            since=begin, until=end, latest=latest, columns=_read_columns(columns),
            decided_at=None if operating_point is None else _find_operating_point(connection, found, operating_point),
        )  # fmt: skip
        if form is Format.TABLE:
            print_rows(connection, wanted, _read_tally(connection, wanted))
            return
        if changed_after is None:
            write_rows(connection, wanted, form, out, for_excel=excel)
            return
    _write_changes(engine, wanted, changed_after, out)


def _choose_format(form: Format | None, out: Path | None, *, excel: bool, as_json: bool, is_feed: bool) -> Format:
    asked = [
        (form, "--format"),
        (Format.CSV if excel else None, "--excel"),
        (Format.JSON if as_json else None, "--json"),
    ]
    chosen = {value for value, _ in asked if value is not None}
    if is_feed:
        if chosen - {Format.JSONL}:
            raise typer.BadParameter("changes are written as jsonl; leave the format out", param_hint="--changed-after")
        return Format.JSONL
    if len(chosen) > 1:
        raise typer.BadParameter("--format, --excel and --json name different formats: give one", param_hint="--format")
    found = chosen.pop() if chosen else None
    if found is None:
        found = next((one for one in Format if out is not None and out.suffix == f".{one}"), Format.TABLE)
        if found is Format.TABLE and out is not None:
            known = ", ".join(one for one in Format if one is not Format.TABLE)
            raise typer.BadParameter(f"a table is for the terminal; add --format: {known}", param_hint="--out")
    if found.is_binary and out is None and sys.stdout.isatty():
        raise typer.BadParameter(f"{found} is binary: name a file with --out", param_hint="--format")
    return found


def _read_columns(names: str | None) -> tuple[str, ...]:
    known = tuple(column.name for column in view.c)
    if names is None:
        return ()
    if names == _ALL_COLUMNS:
        return known
    asked = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in asked if name not in {*known, OPERATING_POINT}]
    if unknown or not asked:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no column; columns are {', '.join(known)}", param_hint="--columns"
        )
    return tuple(name for name in asked if name != OPERATING_POINT)


def _read_night(night: datetime | None, since: datetime | None) -> tuple[datetime | None, datetime | None]:
    """Return begin and end of the rows' times; a night lasts from noon to noon, in local time."""
    if night is None:
        return since, None
    begin = read_noon(night.date())
    end = (begin.replace(tzinfo=None) + timedelta(days=1)).astimezone()  # 23 or 25 hours later, now and then
    return (begin if since is None else max(begin, since)), end


def _read_tally(connection: Connection, wanted: ResultFilter) -> RunTally | None:
    """Return the counts of the run, if the rows are those of one run as they are stored."""
    is_narrowed = wanted.latest or (wanted.study, wanted.since, wanted.until, wanted.decided_at) != (None,) * 4
    return None if wanted.run_id is None or is_narrowed else read_tallies(connection, [wanted.run_id])[wanted.run_id]


def _write_changes(engine: Engine, wanted: ResultFilter, word: str, out: Path | None) -> None:
    changes = Changes(engine, replace(wanted, columns=wanted.columns or COLUMNS), word)
    with open_output(out) as file:
        file.writelines(write_json_lines(changes, list_columns(wanted)))
        file.write(json.dumps({"cursor": changes.cursor}).encode() + b"\n")


def _find_operating_point(connection: Connection, run: RunInfo | None, name: str) -> OperatingPoint:
    if run is None:
        raise typer.BadParameter("the card of one run's model has it: name the RUN", param_hint="--operating-point")
    card = read_card(connection, run.model_digest)  # of another release perhaps: only what is needed is read
    labels, points = card.get("labels", []), card.get("operating_points", {})
    known = {point for named in points.values() for point in named}
    shared = sorted(point for point in known if all(point in points.get(label, {}) for label in labels))
    if name not in shared:
        raise WrongValue(
            f"the card of {run.model} has no operating point {name!r}; it has {', '.join(shared) or 'none'}: "
            "leave out --operating-point to see the stored decisions"
        )
    thresholds = {label: float(points[label][name]["threshold"]) for label in labels}
    return OperatingPoint(name, thresholds, card.get("negative_decision", "normal"))
