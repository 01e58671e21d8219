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

from sqlalchemy import ColumnElement, Connection, String, case, cast, func, literal, text, type_coerce

from db.bulk import copy_out, stream_raw
from db.results import COLUMNS, OPERATING_POINT, ResultFilter, derive_decision, select_results
from db.views import results

_LINES_PER_CHUNK = 2_000
_CSV_END = "\r\n"
_ISO = 'YYYY-MM-DD"T"HH24:MI:SS.US'


class _Line:
    """File-like object whose `write` returns the line, so that `csv.writer.writerow` does."""

    @staticmethod
    def write(line: str) -> str:
        return line


def stream_csv(connection: Connection, wanted: ResultFilter) -> Iterator[bytes]:
    """Yield the rows of `wanted` as UTF-8 CSV: first the header, then some thousand lines at a time.

    Each line ends in one line feed. Columns are those of `list_columns`, formatted as by `to_text`.

    Args:
        connection: for reading; busy until the iterator is exhausted. Closing the iterator early ends the transaction.
        wanted: rows and their order.
    """
    columns = list_columns(wanted)
    yield _write_lines([columns])
    to_postgresql = connection.dialect.name == "postgresql"
    write = _write_in_postgresql if to_postgresql else _write_in_sqlite
    derived: dict[str, ColumnElement[Any]] = {}
    if wanted.decided_at is not None:
        derived = {"decision": derive_decision(wanted.decided_at), OPERATING_POINT: literal(wanted.decided_at.name)}
    values = (derived[column] if column in derived else write(column) for column in columns)
    query = select_results(wanted).with_only_columns(*values)
    if to_postgresql:
        # The caller may read slowly; it holds no lock that a writer waits for.
        connection.execute(text("SET LOCAL statement_timeout = '1h'"))
        with contextlib.closing(copy_out(connection, query)) as lines:
            while chunk := b"".join(islice(lines, _LINES_PER_CHUNK)):
                yield chunk
    else:
        with contextlib.closing(stream_raw(connection, query)) as rows:
            while part := list(islice(rows, _LINES_PER_CHUNK)):
                yield _write_lines(part)


def list_columns(wanted: ResultFilter) -> tuple[str, ...]:
    """Return the columns of exported rows, with `operating_point` if decisions are derived at one."""
    return COLUMNS if wanted.decided_at is None else (*COLUMNS, OPERATING_POINT)


def _write_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    written = file.getvalue()
    if "\r" in written:  # `csv` quotes a carriage return only if its line terminator contains one
        writer = csv.writer(_Line())
        written = "".join(f"{str(writer.writerow(row)).removesuffix(_CSV_END)}\n" for row in rows)
    return written.encode()


def _write_in_sqlite(column: str) -> ColumnElement[Any]:
    """Return the expression for a column in SQLite; `csv.writer` formats scores by `repr`, as `to_text` does."""
    value = results.c[column]
    if column == "reused":
        return case((value, "true"), else_="false")
    if column == "time":
        return _drop_no_microseconds(func.replace(type_coerce(value, String), " ", "T")) + literal("+00:00")
    if column == "acquired_at":
        return _drop_no_microseconds(func.replace(type_coerce(value, String), " ", "T"))
    return value


def _write_in_postgresql(column: str) -> ColumnElement[Any]:
    value = results.c[column]
    if column == "score":  # PostgreSQL's shortest exact form, like `repr`, except "1" for 1.0
        return case((value == 0, "0.0"), (value == 1, "1.0"), else_=cast(value, String))
    if column == "reused":
        return case((value, "true"), else_="false")
    if column == "time":
        utc = func.timezone("UTC", value)
        return _drop_no_microseconds(func.to_char(utc, _ISO)) + literal("+00:00")
    if column == "acquired_at":
        return _drop_no_microseconds(func.to_char(value, _ISO))
    return value


def _drop_no_microseconds(time: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.replace(time, ".000000", "", type_=String())
