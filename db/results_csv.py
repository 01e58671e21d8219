"""All rows of a run as CSV, as fast as the database hands them out and with memory for a few thousand.

A row as a dictionary of Python's values costs as much as all else of it, so none is made: the database writes each
column as the text that it becomes, and PostgreSQL whole lines, while this process hands on those before.
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
from db.tables import results

_LINES_PER_CHUNK = 2_000
_CSV_END = "\r\n"


class _Line:
    """What `csv.writer` takes for a file: it hands the line back instead of keeping it."""

    @staticmethod
    def write(line: str) -> str:
        return line


def stream_csv(connection: Connection, wanted: ResultFilter) -> Iterator[bytes]:
    """Yield the CSV of what `wanted` finds: its header by itself, then some thousand lines at a time, in UTF-8.

    Each line ends in one line feed. Columns are those of `list_columns`, each as `to_text` writes it.

    Args:
        connection: for reading; it is busy until the last lines are taken. Where the iterator is closed before, the
            transaction has ended, too.
        wanted: which rows, and in which order.
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
        # Whoever reads the rows may take their time, and holds no lock that another waits for.
        connection.execute(text("SET LOCAL statement_timeout = '1h'"))
        with contextlib.closing(copy_out(connection, query)) as lines:
            while chunk := b"".join(islice(lines, _LINES_PER_CHUNK)):
                yield chunk
    else:
        with contextlib.closing(stream_raw(connection, query)) as rows:
            while part := list(islice(rows, _LINES_PER_CHUNK)):
                yield _write_lines(part)


def list_columns(wanted: ResultFilter) -> tuple[str, ...]:
    """Return the columns of the rows that leave Nightread: where decisions are derived anew, also at which point."""
    return COLUMNS if wanted.decided_at is None else (*COLUMNS, OPERATING_POINT)


def _write_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    written = file.getvalue()
    if "\r" in written:  # which `csv` takes for harmless then: with its own line end it quotes both characters
        writer = csv.writer(_Line())
        written = "".join(f"{str(writer.writerow(row)).removesuffix(_CSV_END)}\n" for row in rows)
    return written.encode()


def _write_in_sqlite(column: str) -> ColumnElement[Any]:
    """Return what SQLite makes of a column; `csv.writer` then writes a score by `repr`, as `to_text` does."""
    value = results.c[column]
    if column == "reused":
        return case((value, "true"), else_="false")
    if column == "time":
        return _drop_no_microseconds(func.replace(type_coerce(value, String), " ", "T"))
    return value


def _write_in_postgresql(column: str) -> ColumnElement[Any]:
    value = results.c[column]
    if column == "score":  # it writes the shortest digits that read back as the same number, but "1" for 1.0
        return case((value == 0, "0.0"), (value == 1, "1.0"), else_=cast(value, String))
    if column == "reused":
        return case((value, "true"), else_="false")
    if column == "time":
        utc = func.timezone("UTC", value)
        return _drop_no_microseconds(func.to_char(utc, 'YYYY-MM-DD"T"HH24:MI:SS.US'))
    return value


def _drop_no_microseconds(time: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.replace(time, ".000000", "", type_=String()) + literal("+00:00")
