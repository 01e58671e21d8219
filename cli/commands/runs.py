"""`runs`, `status` and `results`: looking at what there is."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, RunReference

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from db.results import OperatingPoint
    from db.runs import RunInfo


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


class Status(StrEnum):
    """The statuses of a scan, as `--status` takes them."""

    QUEUED = "queued"
    SCORED = "scored"
    REJECTED = "rejected"
    FAILED = "failed"


def runs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show so many of the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """List the runs, newest first.

    Example: nightread runs --limit 5
    """
    from cli.output.console import print_json, say, show_time
    from db.engine import reading
    from db.runs import list_runs
    from db.tallies import read_tallies
    from nightread.text import show_text

    engine = open_database()
    with reading(engine) as connection:
        listed = list_runs(connection, limit)
        tallies = read_tallies(connection, [run.id for run in listed])
    if as_json:
        print_json([{**_describe(run), **_count(tallies[run.id].counts)} for run in listed])
        return
    if not listed:
        say("no runs yet: start one with `nightread score FOLDER`")
        return
    from cli.output.tables import make_table, out

    table = make_table(
        "run", "name", "status", "found", "scored", "rejected", "failed", "reused", "model", "started",
        right=("found", "scored", "rejected", "failed", "reused"),
    )  # fmt: skip
    for run in listed:
        of_run = tallies[run.id].counts
        table.add_row(
            run.id[:8], show_text(run.name), run.status.value, f"{run.found:,}", f"{of_run.scored:,}",
            f"{of_run.rejected:,}", f"{of_run.failed:,}", f"{of_run.reused:,}", run.model, show_time(run.created_at),
        )  # fmt: skip
    out.print(table)


def status(
    run: RunReference = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Stay until the run has ended, and exit as `score` does.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show where a run stands: counts, rate and workers.

    Example: nightread status ward-a --follow
    """
    from cli.output.console import print_json
    from cli.output.follow import follow_run
    from cli.output.run_summary import print_summary, summarise
    from db.due_jobs import count_leases
    from db.engine import read_clock, reading
    from db.runs import find_run
    from db.tallies import read_tallies

    engine = open_database()
    with reading(engine) as connection:
        found = find_run(connection, run)
    if follow:
        raise typer.Exit(follow_run(engine, found.id, as_json=as_json))
    with reading(engine) as connection:
        tally = read_tallies(connection, [found.id])[found.id]
        workers = count_leases(connection, found.id)
        now = read_clock(connection)
    seconds = ((found.finished_at or now) - found.created_at).total_seconds()
    summary = summarise(found, tally, seconds=seconds) | {"workers": workers}
    if as_json:
        print_json(summary)
    else:
        print_summary(found, tally, summary)


def results(
    run: RunReference = None,
    status: Annotated[
        list[Status] | None, typer.Option("--status", help="Only scans with this status; may be repeated.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Only rows of this label.")] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", min=0, max=1, help="Only scores from here on.")
    ] = None,
    operating_point: Annotated[
        str | None,
        typer.Option(
            "--operating-point",
            metavar="NAME",
            help="Derive the decisions from the scores at this point of the model's card, such as high-sensitivity, "
            "balanced or high-specificity; the stored decisions stay.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first so many rows; a table shows 100 if left out.")
    ] = None,
    format: Annotated[Format, typer.Option("--format", help="How to write the rows.")] = Format.TABLE,  # noqa: A002  # the option's name
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file; parquet needs one.")] = None,
) -> None:
    """Print the results of a run: a row for each label of a scored scan, and one for each scan without a score.

    Example: nightread results ward-a --min-score 0.5 --format csv --out ward-a.csv
    """
    from cli.output.result_rows import write_rows
    from db.engine import reading
    from db.results import ResultFilter
    from db.runs import find_run
    from db.types import ScanStatus

    if format is Format.PARQUET and out is None and sys.stdout.isatty():
        raise typer.BadParameter("parquet is binary: name a file with --out", param_hint="--format")
    engine = open_database()
    with reading(engine) as connection:
        found = find_run(connection, run)
        wanted = ResultFilter(
            run_id=found.id,
            statuses=[ScanStatus(value.value) for value in status or ()],
            label=label,
            min_score=min_score,
            limit=limit,
            decided_at=None if operating_point is None else _find_operating_point(connection, found, operating_point),
        )
        write_rows(connection, wanted, format.value, out)


def open_database() -> "Engine":
    """Return the engine that the settings name, its schema checked."""
    from db.engine import make_engine
    from db.schema import ensure_schema
    from nightread.settings import read_settings

    engine = make_engine(read_settings().database_url.get_secret_value())
    ensure_schema(engine)
    return engine


def _find_operating_point(connection: "Connection", run: "RunInfo", name: str) -> "OperatingPoint":
    from db.registry import read_card
    from db.results import OperatingPoint
    from nightread.errors import NightreadError

    card = read_card(connection, run.model_digest)  # of another release perhaps: only what is needed is read
    labels, points = card.get("labels", []), card.get("operating_points", {})
    known = {point for told in points.values() for point in told}
    shared = sorted(point for point in known if all(point in points.get(label, {}) for label in labels))
    if name not in shared:
        raise NightreadError(
            f"the card of {run.model} has no operating point {name}; it has {', '.join(shared) or 'none'}: "
            "without --operating-point the stored decisions are shown"
        )
    thresholds = {label: float(points[label][name]["threshold"]) for label in labels}
    return OperatingPoint(name, thresholds, card.get("negative_decision", "normal"))


def _describe(run: Any) -> dict[str, Any]:
    return {
        "run": run.id, "name": run.name, "status": run.status.value, "found": run.found,
        "skipped": sum(run.skipped.values()), "model": run.model, "sources": run.sources,
        "created_at": run.created_at, "finished_at": run.finished_at,
    }  # fmt: skip


def _count(counts: Any) -> dict[str, int]:
    return {name: getattr(counts, name) for name in ("queued", "scored", "rejected", "failed", "reused")}
