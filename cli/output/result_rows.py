"""Result rows as CSV, JSON, Parquet or a sheet, streamed: a million rows take no more memory than a thousand."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import Connection

from cli.output.private_file import open_private
from cli.output.streams import stdout_of_rows
from db.result_files import name_for_excel, to_utc, write_parquet, write_sheet
from db.results import ResultFilter, stream_results
from db.results_csv import list_columns, stream_csv

#: A cell that begins so is a formula for a spreadsheet, or hides one behind white space.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"

    @property
    def is_binary(self) -> bool:
        """Whether it is no text for a terminal."""
        return self in {Format.PARQUET, Format.XLSX}


def write_rows(
    connection: Connection, wanted: ResultFilter, form: str, path: Path | None, *, for_excel: bool = False
) -> None:
    """Write the rows of `wanted` in a format other than a table to a file, or to stdout where `path` is None.

    Args:
        connection: for reading.
        wanted: the rows.
        form: a value of `Format`.
        path: the file, which appears under its name only once it is whole.
        for_excel: write CSV as Excel opens it: with a byte order mark, CRLF, and cells that are no formulas.

    Raises:
        NightreadError: the file cannot be written, or a sheet does not hold the rows.
    """
    columns = list_columns(wanted)
    with open_output(path) as file:
        if for_excel:
            _write_excel_csv(stream_results(connection, wanted), file, columns)
        elif form in {Format.CSV, Format.TSV}:
            separator = "\t" if form == Format.TSV else ","
            file.writelines(stream_csv(connection, wanted, separator=separator))
        elif form == Format.JSON:
            _write_json(stream_results(connection, wanted), file, columns)
        elif form == Format.JSONL:
            file.writelines(write_json_lines(stream_results(connection, wanted), columns))
        elif form == Format.XLSX:
            write_sheet(stream_results(connection, wanted), file, columns)
        else:
            write_parquet(stream_results(connection, wanted), file, columns)


@contextmanager
def open_output(path: Path | None) -> Iterator[IO[bytes]]:
    """Open stdout, or a file that appears under its name only once it is whole; text is UTF-8 in every locale.

    Raises:
        NightreadError: it cannot be written.
    """
    with stdout_of_rows() if path is None else open_private(path) as file:
        yield file


def write_json_lines(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> Iterator[bytes]:
    """Yield one JSON object a line."""
    for row in rows:
        yield _to_json(row, columns).encode() + b"\n"


def _to_json(row: dict[str, Any], columns: Sequence[str]) -> str:
    line = {name: value.isoformat() if isinstance(value := row[name], datetime) else value for name in columns}
    return json.dumps(line, ensure_ascii=False)


def _write_json(rows: Iterator[dict[str, Any]], file: IO[bytes], columns: Sequence[str]) -> None:
    """Write one JSON array, an object a line."""
    file.write(b"[")
    for index, row in enumerate(rows):
        file.write((",\n" if index else "\n").encode() + _to_json(row, columns).encode())
    file.write(b"\n]\n")


def _write_excel_csv(rows: Iterator[dict[str, Any]], file: IO[bytes], columns: Sequence[str]) -> None:
    """Write CSV that Excel opens without an import: UTF-8 with a byte order mark, CRLF, no formulas, times in UTC."""
    file.write(b"\xef\xbb\xbf")
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(map(name_for_excel, columns))
    for row in rows:
        writer.writerow(_guard_cell(row[column]) for column in columns)
        file.write(lines.take())
    file.write(lines.take())


class _Lines:
    """File-like object that holds what `csv.writer` wrote until it is taken."""

    def __init__(self) -> None:
        self._held: list[str] = []

    def write(self, line: str) -> None:
        self._held.append(line)

    def take(self) -> bytes:
        held, self._held = self._held, []
        return "".join(held).encode()


def _guard_cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{to_utc(value):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value
