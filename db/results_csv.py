"""CSV export of a run's rows, streamed in constant memory.

Building a dictionary per row would double the cost, so the database formats each column as text, and PostgreSQL
formats whole lines while this process forwards the ones before.
"""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    DateTime,
    Double,
    String,
    case,
    cast,
    func,
    literal,
    text,
    type_coerce,
)

from db.bulk import copy_out, stream_raw
from db.results import COLUMNS, OPERATING_POINT, ResultFilter, derive_decision, find_view, select_results
from db.types import UtcDateTime

_LINES_PER_CHUNK = 2_000
_CSV_END = "\r\n"
#: Below it `repr` writes a whole number without an exponent.
_LARGEST_WHOLE = 1e15
_ISO = 'YYYY-MM-DD"T"HH24:MI:SS.US'


class _Line:
    """File-like object whose `write` returns the line, so that `csv.writer.writerow` does."""

    @staticmethod
    def write(line: str) -> str:
        return line


def stream_csv(connection: Connection, wanted: ResultFilter, *, separator: str = ",") -> Iterator[bytes]:
    """Yield the rows of `wanted` as UTF-8 CSV: first the header, then some thousand lines at a time.

    Each line ends in one line feed. Columns are those of `list_columns`, formatted as by `to_text`.

    Args:
        connection: for reading; busy until the iterator is exhausted. Closing the iterator early ends the transaction.
        wanted: rows and their order.
        separator: between two fields: a comma or a tab.
    """
    columns = list_columns(wanted)
    yield _write_lines([columns], separator)
    to_postgresql = connection.dialect.name == "postgresql"
    write = _write_in_postgresql if to_postgresql else _write_in_sqlite
    view = find_view(wanted)
    derived: dict[str, ColumnElement[Any]] = {}
    if wanted.decided_at is not None:
        decision = derive_decision(wanted.decided_at, view)
        derived = {"decision": decision, OPERATING_POINT: literal(wanted.decided_at.name)}
    values = (derived[column] if column in derived else write(view.c[column]) for column in columns)
    query = select_results(wanted).with_only_columns(*values)
    if to_postgresql:
        # The caller may read slowly; it holds no lock that a writer waits for.
        connection.execute(text("SET LOCAL statement_timeout = '1h'"))
        with contextlib.closing(copy_out(connection, query, separator)) as lines:
            while chunk := b"".join(islice(lines, _LINES_PER_CHUNK)):
                yield chunk
    else:
        with contextlib.closing(stream_raw(connection, query)) as rows:
            while part := list(islice(rows, _LINES_PER_CHUNK)):
                yield _write_lines(part, separator)


def list_columns(wanted: ResultFilter) -> tuple[str, ...]:
    """Return the columns of exported rows, with `operating_point` if decisions are derived at one."""
    columns = tuple(wanted.columns or COLUMNS)
    return columns if wanted.decided_at is None else tuple(dict.fromkeys((*columns, OPERATING_POINT)))


def _write_lines(rows: Sequence[Sequence[Any]], separator: str) -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=separator, lineterminator="\n").writerows(rows)
    written = file.getvalue()
    if "\r" in written:  # `csv` quotes a carriage return only if its line terminator contains one
        writer = csv.writer(_Line(), delimiter=separator)
        written = "".join(f"{str(writer.writerow(row)).removesuffix(_CSV_END)}\n" for row in rows)
    return written.encode()


def _write_in_sqlite(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the expression for a column in SQLite; `csv.writer` formats numbers by `repr`, as `to_text` does."""
    if isinstance(value.type, Boolean):
        return case((value, "true"), else_="false")
    if isinstance(value.type, UtcDateTime):
        return _drop_no_microseconds(func.replace(type_coerce(value, String), " ", "T")) + literal("+00:00")
    if isinstance(value.type, DateTime):
        return _drop_no_microseconds(func.replace(type_coerce(value, String), " ", "T"))
    return value


def _write_in_postgresql(value: ColumnElement[Any]) -> ColumnElement[Any]:
    if isinstance(value.type, Double):  # PostgreSQL's shortest exact form, like `repr`, except "1" for 1.0
        is_whole = (value == func.trunc(value)) & (func.abs(value) < _LARGEST_WHOLE)
        return case((is_whole, cast(value, String) + literal(".0")), else_=cast(value, String))
    if isinstance(value.type, Boolean):
        return case((value, "true"), else_="false")
    if isinstance(value.type, UtcDateTime):
        utc = func.timezone("UTC", value)
        return _drop_no_microseconds(func.to_char(utc, _ISO)) + literal("+00:00")
    if isinstance(value.type, DateTime):
        return _drop_no_microseconds(func.to_char(value, _ISO))
    return value


def _drop_no_microseconds(time: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.replace(time, ".000000", "", type_=String())
