"""Result rows as Parquet or as a sheet, written in parts: a million rows take no more memory than a thousand."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

from sqlalchemy import BigInteger, Boolean, DateTime, Double

from db.types import UtcDateTime
from db.views import results
from nightread.errors import NightreadError

_PARQUET_ROWS: Final = 50_000
#: Rows of a sheet with its header, and characters of a cell, as Excel limits them.
_SHEET_ROWS, _CELL_CHARACTERS = 1_048_576, 32_767


class NoSheet(NightreadError):
    """A sheet does not hold the rows, or cannot be written here."""


def write_parquet(rows: Iterator[dict[str, Any]], file: IO[bytes], columns: Sequence[str]) -> None:
    """Write a Parquet file; floats are not rounded, and times are UTC."""
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


def to_utc(time: datetime) -> datetime:
    """Return a time without its zone, in UTC; a device's own time as it is."""
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def name_for_excel(column: str) -> str:
    """Return the title of a column; that of a time names its zone, which a cell of a sheet cannot."""
    is_utc = column in results.c and isinstance(results.c[column].type, UtcDateTime)
    return f"{column} (UTC)" if is_utc else column


def write_sheet(rows: Iterator[dict[str, Any]], file: IO[bytes], columns: Sequence[str]) -> None:
    """Write a workbook of one sheet: text stays text, whatever it begins with; times are UTC.

    Raises:
        NoSheet: there are more rows than a sheet holds, or the extra `excel` is missing.
    """
    try:
        import xlsxwriter
    except ModuleNotFoundError:
        raise NoSheet(
            "sheets need the extra `excel`: uv sync --extra excel; or write --excel, a CSV that Excel opens"
        ) from None
    with TemporaryFile() as temporary:
        options = {
            "constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False,
            "strings_to_numbers": False, "default_date_format": "yyyy-mm-dd hh:mm:ss",
        }  # fmt: skip
        book = xlsxwriter.Workbook(temporary, options)
        sheet = book.add_worksheet("results")
        try:
            sheet.freeze_panes(1, 0)
            bold = book.add_format({"bold": True})
            for place, column in enumerate(columns):
                sheet.write_string(0, place, name_for_excel(column), bold)
            line = 0
            for row in rows:
                line += 1
                if line >= _SHEET_ROWS:
                    raise NoSheet(
                        f"a sheet holds {_SHEET_ROWS:,} rows and there are more: choose some (--since, --decision, "
                        "--min-score), or write csv or parquet"
                    )
                for place, column in enumerate(columns):
                    _write_cell(sheet, line, place, row[column])
            sheet.autofilter(0, 0, max(1, line), len(columns) - 1)
            book.close()
        finally:  # a workbook that is not closed leaves its rows on disk
            sheet.row_data_fh.close()
            Path(sheet.row_data_filename).unlink(missing_ok=True)
        temporary.seek(0)
        while part := temporary.read(2**20):
            file.write(part)


def _write_cell(sheet: Any, line: int, place: int, value: Any) -> None:
    if isinstance(value, str):
        sheet.write_string(line, place, value[:_CELL_CHARACTERS])
    elif isinstance(value, datetime):
        sheet.write_datetime(line, place, to_utc(value))
    elif value is not None:
        sheet.write(line, place, value)
