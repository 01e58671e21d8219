"""Reader of the tables of data sets: CSV files of unknown encoding, with required columns."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from nightread.regular_file import read_regular_file
from trainer.errors import DatasetError

#: Of which the first line holds most; spreadsheets of many countries write semicolons.
_DELIMITERS = ",;\t"
#: Tried in this order: UTF-8 text is often valid GB18030 too, but hardly ever the reverse.
_ENCODINGS = ("utf-8-sig", "gb18030")
#: Of millions of rows.
_MOST_BYTES = 2**30


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Read a CSV file in UTF-8 or GB18030, with commas, semicolons or tabs and at least these columns.

    Returns:
        One mapping for each row, from column names to stripped values; columns that a short row lacks are empty.

    Raises:
        DatasetError: the file is missing, is in neither encoding, is no table, or lacks a column.
    """
    try:
        content = read_regular_file(path, _MOST_BYTES)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = _decode(path, content)
        delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
        # `splitlines` would also end a line at characters that a file's name may hold, such as U+2028.
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="", strict=True)
        rows = [{name: value.strip() for name, value in row.items() if isinstance(value, str)} for row in reader]
    except csv.Error as error:
        raise DatasetError(f"{path} is no table of comma-separated values: {error}") from None
    present = reader.fieldnames or ()
    missing = [name for name in columns if name not in present]
    if missing:
        raise DatasetError(
            f"{path} has no column {', '.join(missing)}; it has: {', '.join(present) if present else 'none'}"
        )
    return rows


def _decode(path: Path, content: bytes) -> str:
    for encoding in _ENCODINGS:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
    raise DatasetError(
        f"{path} is neither UTF-8 nor GB18030 throughout (line {line}); save it in one of the two encodings"
    )
