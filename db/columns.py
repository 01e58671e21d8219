"""The parts of tables: types of columns, and columns that are NOT NULL by default."""

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, String

from db.types import UtcDateTime

#: Maximum length of a note on a scan, in characters.
NOTE_LENGTH = 1000

DIGEST = String(64)
ID = String(32)
TIME = UtcDateTime()
SERIAL = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER keys autoincrement there


def column(name: str, *described: Any, nullable: bool = False, **options: Any) -> Column[Any]:
    """Return a column that is NOT NULL by default."""
    return Column(name, *described, nullable=nullable, **options)
