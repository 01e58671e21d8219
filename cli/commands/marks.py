"""`marks export`: writes labels from the marks of the worklist page."""

import csv
import io
import os
from pathlib import Path
from typing import Annotated

import typer

from cli.database import open_database
from cli.options import RunReference
from cli.output.console import say
from cli.output.result_rows import open_output
from db.engine import reading
from db.marks import list_labels
from db.runs import find_run
from nightread.scan.archives import SEPARATOR
from nightread.scan.files import decode_path
from nightread.settings import read_settings


def export(
    run: RunReference = None,
    all_runs: Annotated[bool, typer.Option("--all-runs", help="Marks of all runs.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write; default: stdout.")] = None,
) -> None:
    """Write the marks of users as labels: a CSV file of path and label.

    `calibrate`, `train` and `evaluate` read it. Scans without a label, with contradicting users, or in an archive are
    left out and counted.

    Example: nightread marks export ward-a --out labels.csv
    """
    if all_runs and run:
        raise typer.BadParameter("name a RUN or --all-runs, not both")
    to_local = read_settings().local_paths.to_local
    engine = open_database()
    with reading(engine) as connection:
        found = None if all_runs else find_run(connection, run).id
        marked = list_labels(connection, found)
    written: dict[str, set[str]] = {}
    archived = 0
    for path, labels in marked:
        local = to_local(decode_path(path))
        if SEPARATOR in local and not os.path.lexists(local):
            archived += 1
            continue
        # The file of labels is UTF-8: other names stay as the database writes them.
        written.setdefault(local if local.isprintable() else path, set()).update(labels)
    clear = {path: next(iter(labels)) for path, labels in written.items() if len(labels) == 1}
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label"])
    writer.writerows(clear.items())
    with open_output(out) as file:
        file.write(text.getvalue().encode())
    left_out = [(len(written) - len(clear), "on which users contradict each other"), (archived, "in archives")]
    told = "".join(f"; {count:,} scans {why} left out" for count, why in left_out if count)
    say(f"{len(clear):,} labels{told}.")
