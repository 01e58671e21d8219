"""What a page of a worklist is asked for: its order, its position, and which scans it shows."""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, or_

from db.marks import Review
from db.tables import scans


@dataclass(frozen=True, slots=True)
class Position:
    """A row's position in a worklist; rows without a score have neither score nor label and come last.

    It includes the label, since a scan has one row per label, and two of them may have equal scores.
    """

    score: float | None
    scan_id: int
    label: str | None


class PageOrder(StrEnum):
    """Order of a worklist; by score, rows without one come last."""

    HIGHEST = "highest"
    LOWEST = "lowest"
    FOUND = "found"


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a page shows besides the rows of a `ResultFilter`; None means no restriction.

    Attributes:
        order: of the rows.
        backwards: whether the page ends before its position, instead of beginning after it.
        review: rows of scans that users have reviewed so.
        text: rows whose path holds it, in small or capital letters, or whose Study Instance UID begins with it.
        reason: rows with this reason code.
        folder: rows of scans below this folder, as paths are stored, without the last "/".
        manufacturer: rows of scans of a device of this manufacturer.
        station: rows of scans of this device.
        view_position: rows of scans in this view.
    """

    order: PageOrder = PageOrder.HIGHEST
    backwards: bool = False
    review: Review | None = None
    text: str | None = None
    reason: str | None = None
    folder: str | None = None
    manufacturer: str | None = None
    station: str | None = None
    view_position: str | None = None

    @property
    def begins_with_marks(self) -> bool:
        """Whether its rows are those of the scans that users have marked, which are few."""
        return self.review not in {None, Review.UNREVIEWED}

    @property
    def falls(self) -> bool:
        """Whether the indexes are read from their ends."""
        return (self.order is PageOrder.LOWEST) != self.backwards

    def list_conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions on `scans` that no index of the worklist knows."""
        row = scans.c
        equal = (
            (row.reason_code, self.reason), (row.manufacturer, self.manufacturer), (row.station, self.station),
            (row.view_position, self.view_position),
        )  # fmt: skip
        conditions = [column == value for column, value in equal if value is not None]
        if self.folder is not None:
            conditions.append(row.path.startswith(f"{self.folder}/", autoescape=True))
        if self.text is not None:
            text = self.text.replace("\\", "\\\\")  # as paths are stored, see `nightread.scan.files.encode_path`
            in_path = row.path.icontains(text, autoescape=True)
            conditions.append(or_(in_path, row.study_uid.startswith(self.text, autoescape=True)))
        return conditions
