"""Reader of the tables of data sets: CSV files of unknown encoding, with required columns."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final

from nightread.regular_file import read_regular_file
from trainer.errors import DatasetError

#: Of which the first line holds most; spreadsheets of many countries write semicolons.
_DELIMITERS = ",;\t"
#: Tried in this order: UTF-8 text is often valid GB18030 too, but hardly ever the reverse.
ENCODINGS: Final = ("utf-8-sig", "gb18030")
_SHOWN: Final = {"utf-8-sig": "UTF-8", "gb18030": "GB18030"}
#: Of millions of rows.
_MOST_BYTES = 2**30


def read_table(
    path: Path, columns: Iterable[str], *, ignore_case: bool = False, encodings: Sequence[str] = ENCODINGS
) -> list[dict[str, str]]:
    """Read a CSV file with commas, semicolons or tabs and at least these columns.

    Args:
        path: of the file.
        columns: names that it must have.
        ignore_case: whether `Path` is `path`, too; the names returned are in small letters then.
        encodings: tried in this order.

    Returns:
        One mapping for each row that is not blank, from column names to stripped values; columns that a short row lacks
        are empty.

    Raises:
        DatasetError: the file is missing, is in none of the encodings, is no table, lacks a column, has one twice, or a
            row has more cells than the header.
    """
    try:
        content = read_regular_file(path, _MOST_BYTES)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = _decode(path, content, encodings).lstrip("\r\n")
        delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
        # `splitlines` would also end a line at characters that a file's name may hold, such as U+2028.
        header, *rows = csv.reader(io.StringIO(text or "\n", newline=""), delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise DatasetError(f"{path} is no table of comma-separated values: {error}") from None
    present = [name.strip().lower() if ignore_case else name.strip() for name in header]
    if missing := [name for name in columns if name not in present]:
        raise DatasetError(
            f"{path} has no column {', '.join(missing)}; it has: {', '.join(filter(None, present)) or 'none'}"
        )
    if twice := [name for name in columns if present.count(name) > 1]:
        raise DatasetError(f"{path} has the column {twice[0]} twice; leave one of them out")
    return list(_name_cells(path, present, rows))


def _name_cells(path: Path, names: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[dict[str, str]]:
    filled = ([cell.strip() for cell in row] for row in rows)
    for number, row in enumerate(filter(any, filled), start=1):
        if any(row[len(names) :]):
            raise DatasetError(
                f"{path}, row {number}: it has more cells than the header; write a text with a comma in quotes"
            )
        yield dict(zip_longest(names, row[: len(names)], fillvalue=""))


def _decode(path: Path, content: bytes, encodings: Sequence[str]) -> str:
    line = 1
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
    tried = " or ".join(_SHOWN.get(one, one) for one in encodings)
    raise DatasetError(f"{path} is not {tried} throughout (line {line}); save it as UTF-8")
