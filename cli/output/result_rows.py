"""Result rows as table, CSV, JSON or Parquet, streamed: a million rows take no more memory than a thousand."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection

from cli.output.console import say, show_time, silence_stdout
from db.results import ResultFilter, stream_results, to_text
from db.results_csv import list_columns, stream_csv
from nightread.errors import NightreadError

_TABLE_ROWS = 100
_PARQUET_ROWS = 50_000


def write_rows(connection: Connection, wanted: ResultFilter, form: str, path: Path | None) -> None:
    """Write the rows of `wanted` in a format to a file, or to stdout where `path` is None.

    Raises:
        NightreadError: the file cannot be written.
    """
    if form == "table" and path is None:
        _print_table(connection, wanted)
        return
    columns = list_columns(wanted)
    try:
        with _open(path, "w" if form == "json" else "wb") as file:
            if form == "csv":
                file.writelines(stream_csv(connection, wanted))
            elif form == "json":
                _write_json(stream_results(connection, wanted), file, columns)
            else:
                _write_parquet(stream_results(connection, wanted), file, columns)
    except BrokenPipeError:  # `nightread results | head` has read enough
        silence_stdout()
    except OSError as error:
        raise NightreadError(f"{path or 'stdout'} cannot be written: {error.strerror}") from None


@contextmanager
def _open(path: Path | None, mode: str) -> Iterator[IO[Any]]:
    """Open stdout, or a file that appears under its name only once it is whole."""
    if path is None:
        yield sys.stdout.buffer if "b" in mode else sys.stdout
        sys.stdout.flush()
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _open_binary_or_text(partial, mode) as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _open_binary_or_text(path: Path, mode: str) -> IO[Any]:
    return path.open(mode) if "b" in mode else path.open(mode, encoding="utf-8", newline="")


def _print_table(connection: Connection, wanted: ResultFilter) -> None:
    limit = wanted.limit or _TABLE_ROWS
    rows = list(stream_results(connection, replace(wanted, limit=limit + 1)))
    if not rows:
        say("no rows")
        return
    from cli.output.tables import make_table, out, paint  # Rich, which the other formats do not need

    table = make_table(
        "scan", "label", "score", "decision", "status", "reason", "time", right=("score",),
        spare=("reason", "status", "label", "time"),
    )  # fmt: skip
    for row in rows[:limit]:
        score = "" if row["score"] is None else f"{row['score']:.4f}"
        decision = paint(row["decision"] or "", is_finding=bool(row["label"]) and row["decision"] == row["label"])
        table.add_row(
            row["path"] or "", row["label"] or "", score, decision, paint(row["status"]), row["reason"] or "",
            show_time(row["time"]),
        )  # fmt: skip
    out.print(table)
    if wanted.decided_at is not None:
        thresholds = ", ".join(f"{label} >= {score:.4g}" for label, score in wanted.decided_at.thresholds.items())
        say(
            f"Decisions recomputed at {wanted.decided_at.name} ({thresholds}); stored decisions unchanged.", style="dim"
        )
    if len(rows) > limit:
        say(f"Showing the first {limit} rows. More: --limit N; all: --format csv", style="dim")


def _write_json(rows: Iterator[dict[str, Any]], file: IO[str], columns: Sequence[str]) -> None:
    """Write one JSON array, an object a line."""
    file.write("[")
    for index, row in enumerate(rows):
        times = {column: to_text(row[column]) or None for column in ("time", "acquired_at")}
        line = {column: row[column] for column in columns} | times
        file.write((",\n" if index else "\n") + json.dumps(line, ensure_ascii=False))
    file.write("\n]\n")


def _write_parquet(rows: Iterator[dict[str, Any]], file: IO[bytes], columns: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {
        "score": pa.float64(),
        "reused": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
        "acquired_at": pa.timestamp("us"),
    }
    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in columns])
    with parquet.ParquetWriter(file, schema) as writer:
        while part := list(islice(rows, _PARQUET_ROWS)):
            values = {column: [row[column] for row in part] for column in columns}
            writer.write_table(pa.table(values, schema=schema))
