"""`demo`: writes a small night of real scans and faulty files, and scores it."""

import sys
from pathlib import Path
from typing import Annotated

import platformdirs
import typer

from cli.database import open_database
from cli.embedded import score_here
from cli.options import Json
from cli.output.console import leave_out_hints, say
from cli.output.result_table import print_rows
from db.engine import reading
from db.results import ResultFilter
from db.runs import find_run
from db.tallies import read_tallies
from nightread.example_night import write_example_night
from nightread.model.bundle import DEFAULT_MODEL
from nightread.settings import IN_PROCESS_BROKER, read_settings


def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder for scans and results; default: in your data folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a small night of real scans and score it.

    Eight scans with scores from 0.01 to 0.99, a copy, and six files that cannot be scored, each for another reason.
    Results go to a database of the demo's own.

    Example: nightread demo
    """
    place = (folder or platformdirs.user_data_path("nightread") / "demo").absolute()
    attribution = write_example_night(place / "night")
    database = f"sqlite:///{place / 'nightread.db'}"
    settings = read_settings(
        database_url=database, broker_url=IN_PROCESS_BROKER, model=DEFAULT_MODEL, gate=True, scan_roots=""
    )
    leave_out_hints()
    code = score_here(settings, [place / "night"], {"name": "demo"}, as_json=as_json)
    if not as_json:
        with reading(open_database(settings)) as connection:
            typer.echo("")
            run = find_run(connection, None)
            print_rows(connection, ResultFilter(run_id=run.id), read_tallies(connection, [run.id])[run.id])
        say(f"\nThe scans are in {place / 'night'}; {attribution}", style="dim")
        say("Other commands, such as `nightread report`, find these results after:")
        sys.stderr.write(f"export NIGHTREAD_DATABASE_URL={database}\n")
    raise typer.Exit(code)
