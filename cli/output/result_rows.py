"""Result rows as CSV, JSON, Parquet or a sheet, streamed: a million rows take no more memory than a thousand."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

from sqlalchemy import BigInteger, Boolean, Connection, DateTime, Double

from cli.output.console import silence_stdout
from db.results import ResultFilter, stream_results
from db.results_csv import list_columns, stream_csv
from db.types import UtcDateTime
from db.views import results
from nightread.errors import NightreadError

_PARQUET_ROWS: Final = 50_000
#: Rows of a sheet with its header, and characters of a cell, as Excel limits them.
_SHEET_ROWS, _CELL_CHARACTERS = 1_048_576, 32_767
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
            _write_sheet(stream_results(connection, wanted), file, columns)
        else:
            _write_parquet(stream_results(connection, wanted), file, columns)


@contextmanager
def open_output(path: Path | None) -> Iterator[IO[bytes]]:
    """Open stdout, or a file that appears under its name only once it is whole; text is UTF-8 in every locale.

    Raises:
        NightreadError: it cannot be written.
    """
    partial = None if path is None else path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if partial is None:
            yield sys.stdout.buffer
            sys.stdout.flush()
            return
        with partial.open("wb") as file:
            yield file
        partial.replace(path or partial)
    except BrokenPipeError:  # `nightread results | head` has read enough
        silence_stdout()
    except OSError as error:
        raise NightreadError(f"{path or 'stdout'} cannot be written: {error.strerror}") from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


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


def _write_parquet(rows: Iterator[dict[str, Any]], file: IO[bytes], columns: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {
        Double: pa.float64(),
        Boolean: pa.bool_(),
        BigInteger: pa.int64(),
        UtcDateTime: pa.timestamp("us", tz="UTC"),
        DateTime: pa.timestamp("us"),
    }
    types = {column.name: kinds.get(type(column.type), pa.string()) for column in results.c}
    schema = pa.schema([(column, types.get(column, pa.string())) for column in columns])
    with parquet.ParquetWriter(file, schema) as writer:
        while part := list(islice(rows, _PARQUET_ROWS)):
            values = {column: [row[column] for row in part] for column in columns}
            writer.write_table(pa.table(values, schema=schema))


def _write_excel_csv(rows: Iterator[dict[str, Any]], file: IO[bytes], columns: Sequence[str]) -> None:
    """Write CSV that Excel opens without an import: UTF-8 with a byte order mark, CRLF, no formulas, times in UTC."""
    file.write(b"\xef\xbb\xbf")
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(map(_name_for_excel, columns))
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
        return f"{_to_utc(value):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value


def _to_utc(time: datetime) -> datetime:
    """Return a time without its zone, in UTC; a device's own time as it is."""
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _name_for_excel(column: str) -> str:
    """Return the title of a column; that of a time names its zone, which a cell of a sheet cannot."""
    is_utc = column in results.c and isinstance(results.c[column].type, UtcDateTime)
    return f"{column} (UTC)" if is_utc else column


def _write_sheet(rows: Iterator[dict[str, Any]], file: IO[bytes], columns: Sequence[str]) -> None:
    """Write a workbook of one sheet: text stays text, whatever it begins with; times are UTC."""
    try:
        import xlsxwriter
    except ModuleNotFoundError:
        raise NightreadError(
            "sheets need the extra `excel`: uv sync --extra excel; or write --excel, a CSV that Excel opens"
        ) from None
    with TemporaryFile() as temporary:
        options = {
            "constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False,
            "strings_to_numbers": False, "default_date_format": "yyyy-mm-dd hh:mm:ss",
        }  # fmt: skip
        book = xlsxwriter.Workbook(temporary, options)
        sheet = book.add_worksheet("results")
        sheet.freeze_panes(1, 0)
        bold = book.add_format({"bold": True})
        for place, column in enumerate(columns):
            sheet.write_string(0, place, _name_for_excel(column), bold)
        line = 0
        for row in rows:
            line += 1
            if line >= _SHEET_ROWS:
                raise NightreadError(
                    f"a sheet holds {_SHEET_ROWS:,} rows and there are more: choose some (--since, --decision, "
                    "--min-score), or write csv or parquet"
                )
            for place, column in enumerate(columns):
                _write_cell(sheet, line, place, row[column])
        sheet.autofilter(0, 0, max(1, line), len(columns) - 1)
        book.close()
        temporary.seek(0)
        while part := temporary.read(2**20):
            file.write(part)


def _write_cell(sheet: Any, line: int, place: int, value: Any) -> None:
    if isinstance(value, str):
        sheet.write_string(line, place, value[:_CELL_CHARACTERS])
    elif isinstance(value, datetime):
        sheet.write_datetime(line, place, _to_utc(value))
    elif value is not None:
        sheet.write(line, place, value)
