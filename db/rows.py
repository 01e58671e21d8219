"""Result rows as text: the columns that are handed out, and the CSV of them."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

#: The columns of a row that leaves Nightread, in this order; only ever added to.
COLUMNS = (
    "run_id", "run", "path", "study", "label", "score", "decision", "status", "reason", "reason_text", "model",
    "sha256", "reused", "provider", "time",
)  # fmt: skip
#: One more where the decisions were derived anew, so that a file tells by itself whose they are.
OPERATING_POINT = "operating_point"


class _Line:
    """What `csv.writer` takes for a file: it hands the line back instead of keeping it."""

    @staticmethod
    def write(line: str) -> str:
        return line


def format_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> Iterator[str]:
    """Yield the header and then one line a row, each with its line end."""
    writer = csv.writer(_Line(), lineterminator="\n")
    yield str(writer.writerow(columns))
    for row in rows:
        yield str(writer.writerow([to_text(row[column]) for column in columns]))


def to_text(value: Any) -> str:
    """Write a value so that it reads back as the same one: scores are never rounded, times are ISO 8601."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
