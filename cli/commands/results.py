"""`results`: prints or exports the results of a run."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection

from cli.database import open_database
from cli.options import RunReference
from cli.output.result_rows import write_rows
from db.engine import reading
from db.registry import read_card
from db.results import OperatingPoint, ResultFilter
from db.runs import RunInfo, find_run
from db.types import ScanStatus
from nightread.errors import NightreadError


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def results(
    run: RunReference = None,
    status: Annotated[
        list[ScanStatus] | None, typer.Option("--status", help="Only scans with this status; repeatable.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Only rows of this label.")] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", min=0, max=1, help="Only rows scoring at least this.")
    ] = None,
    operating_point: Annotated[
        str | None,
        typer.Option(
            "--operating-point", metavar="NAME", help="Decisions at this point of the card, not the stored ones."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Maximum rows; tables: 100 by default.")] = None,
    format: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.TABLE,  # noqa: A002  # the option's name
    out: Annotated[Path | None, typer.Option("--out", help="Output file; required for parquet on a terminal.")] = None,
) -> None:
    """Print a run's results: one row per label of a scan.

    A scan without a score has one row with its reason. Operating points have names such as high-sensitivity, balanced
    and high-specificity; `nightread models show` lists them.

    Example: nightread results ward-a --min-score 0.5 --format csv --out ward-a.csv
    """
    if format is Format.PARQUET and out is None and sys.stdout.isatty():
        raise typer.BadParameter("parquet is binary: name a file with --out", param_hint="--format")
    with reading(open_database()) as connection:
        found = find_run(connection, run)
        wanted = ResultFilter(
            run_id=found.id,
            statuses=status or [],
            label=label,
            min_score=min_score,
            limit=limit,
            decided_at=None if operating_point is None else _find_operating_point(connection, found, operating_point),
        )
        write_rows(connection, wanted, format.value, out)


def _find_operating_point(connection: Connection, run: RunInfo, name: str) -> OperatingPoint:
    card = read_card(connection, run.model_digest)  # of another release perhaps: only what is needed is read
    labels, points = card.get("labels", []), card.get("operating_points", {})
    known = {point for named in points.values() for point in named}
    shared = sorted(point for point in known if all(point in points.get(label, {}) for label in labels))
    if name not in shared:
        raise NightreadError(
            f"the card of {run.model} has no operating point {name}; it has {', '.join(shared) or 'none'}: "
            "leave out --operating-point to see the stored decisions"
        )
    thresholds = {label: float(points[label][name]["threshold"]) for label in labels}
    return OperatingPoint(name, thresholds, card.get("negative_decision", "normal"))
