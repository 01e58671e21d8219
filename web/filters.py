"""Filters and positions in the URL of a worklist: strict parsing, and formatting."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from db.marks import Review
from db.results import Order, ResultFilter, to_text
from db.types import RunStatus, ScanStatus
from db.worklist_request import PageOrder, PageRequest, Position

#: Maximum length of a label or decision in a card.
_NAME_LENGTH = 64
#: Maximum length of a text that is searched for.
_TEXT_LENGTH = 200
#: Maximum length of the path of a folder, as it is stored.
_FOLDER_LENGTH = 2_000
#: No page begins after more rows than this.
_MOST_PLACES = 10**9
_SCAN_ID = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class WorklistFilter:
    """The filter of a request, and the order of its rows; None means no restriction."""

    status: ScanStatus | None = None
    decision: str | None = None
    label: str | None = None
    min_score: float | None = None
    reason: str | None = None
    text: str | None = None
    review: Review | None = None
    folder: str | None = None
    manufacturer: str | None = None
    station: str | None = None
    view: str | None = None
    order: PageOrder = PageOrder.HIGHEST

    @property
    def is_set(self) -> bool:
        """Whether the filter restricts the rows."""
        return self != WorklistFilter(order=self.order)

    def count_chosen(self) -> int:
        """Return how many fields restrict the rows."""
        return sum(getattr(self, one.name) is not None for one in fields(self) if one.name != "order")

    @property
    def fits_csv(self) -> bool:
        """Whether the CSV can have the same rows."""
        return self == WorklistFilter(self.status, self.decision, self.label, self.min_score, order=self.order)

    def to_request(self, *, backwards: bool = False) -> PageRequest:
        """Return what a page shows besides the database filter."""
        return PageRequest(
            self.order, backwards, self.review, text=self.text, reason=self.reason, folder=self.folder,
            manufacturer=self.manufacturer, station=self.station, view_position=self.view,
        )  # fmt: skip

    def of_run(self, run_id: str) -> ResultFilter:
        """Return the database filter for a run, in the order of the page."""
        return ResultFilter(
            run_id, [self.status] if self.status else [], self.label, self.min_score, decision=self.decision,
            order=Order.SCORE,
        )  # fmt: skip

    def to_query(self, **extra: str | None) -> str:
        """Return the URL query for this filter and further parameters, including "?"; "" without any."""
        parameters = {
            "status": self.status, "decision": self.decision, "label": self.label,
            "min_score": None if self.min_score is None else to_text(self.min_score),
            "reason": self.reason, "text": self.text, "review": self.review, "folder": self.folder,
            "manufacturer": self.manufacturer, "station": self.station, "view": self.view,
            "order": None if self.order is PageOrder.HIGHEST else self.order, **extra,
        }  # fmt: skip
        return _write_query(parameters)


def _write_query(parameters: Mapping[str, str | None]) -> str:
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    return f"?{query}" if query else ""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """The filter of the list of runs; None means no restriction."""

    name: str | None = None
    status: RunStatus | None = None
    model: str | None = None

    def to_query(self, **extra: str | None) -> str:
        """Return the URL query for this filter and further parameters, including "?"; "" without any."""
        return _write_query({"name": self.name, "status": self.status, "model": self.model, **extra})


def read_run_filter(parameters: QueryParams) -> RunFilter:
    """Return the filter of runs in the parameters of a URL; an empty parameter counts as missing.

    Raises:
        HTTPException: 400, with what was found and what is allowed.
    """
    status = parameters.get("status")
    try:
        found = RunStatus(status) if status else None
    except ValueError:
        raise HTTPException(400, f"The status is “{status}”; allowed are {', '.join(RunStatus)}.") from None
    return RunFilter(
        _read_name("name", parameters.get("name"), _TEXT_LENGTH), found,
        _read_name("model", parameters.get("model"), _TEXT_LENGTH),
    )  # fmt: skip


def read_filter(parameters: QueryParams) -> WorklistFilter:
    """Return the filter in the parameters of a URL; an empty parameter counts as missing.

    Raises:
        HTTPException: 400, with what was found and what is allowed.
    """
    return WorklistFilter(
        status=_read_status(parameters.get("status")),
        decision=_read_name("decision", parameters.get("decision")),
        label=_read_name("label", parameters.get("label")),
        min_score=_read_score(parameters.get("min_score")),
        reason=_read_name("reason", parameters.get("reason")),
        text=_read_name("text", parameters.get("text"), _TEXT_LENGTH),
        review=_read_review(parameters.get("review")),
        folder=_read_name("folder", parameters.get("folder"), _FOLDER_LENGTH),
        manufacturer=_read_name("manufacturer", parameters.get("manufacturer")),
        station=_read_name("station", parameters.get("station")),
        view=_read_name("view", parameters.get("view")),
        order=_read_order(parameters.get("order")),
    )


def write_position(place: Position) -> str:
    """Format a position as SCORE:SCAN:LABEL; score and label may be empty."""
    return f"{to_text(place.score)}:{place.scan_id}:{place.label or ''}"


def read_position(text: str | None) -> Position | None:
    """Parse a position that `write_position` formatted.

    Raises:
        HTTPException: 400, the text is malformed.
    """
    if not text:
        return None
    score, _, rest = text.partition(":")
    scan_id, _, label = rest.partition(":")
    if not _SCAN_ID.fullmatch(scan_id) or bool(score) != bool(label):
        raise HTTPException(400, "The position in the address is not valid: begin at the first page.")
    return Position(_read_score(score), int(scan_id), _read_name("label", label))


def read_place(text: str | None) -> int:
    """Return how many rows come before the page, as the link to it says.

    Raises:
        HTTPException: 400, the text is malformed.
    """
    if not text:
        return 0
    if not _SCAN_ID.fullmatch(text) or int(text) > _MOST_PLACES:
        raise HTTPException(400, "The place in the address is not valid: begin at the first page.")
    return int(text)


def read_run_id(text: str | None) -> str | None:
    """Parse the id of the run after which a page begins.

    Raises:
        HTTPException: 400, the text is malformed.
    """
    if not text:
        return None
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise HTTPException(400, "The run id in the address is not valid: begin at the first page.")
    return text


def _read_status(text: str | None) -> ScanStatus | None:
    try:
        return ScanStatus(text) if text else None
    except ValueError:
        allowed = ", ".join(ScanStatus)
        raise HTTPException(400, f"The status is “{text}”; allowed are {allowed}.") from None


def _read_review(text: str | None) -> Review | None:
    try:
        return Review(text) if text else None
    except ValueError:
        raise HTTPException(400, f"The review is “{text}”; allowed are {', '.join(Review)}.") from None


def _read_order(text: str | None) -> PageOrder:
    try:
        return PageOrder(text) if text else PageOrder.HIGHEST
    except ValueError:
        raise HTTPException(400, f"The order is “{text}”; allowed are {', '.join(PageOrder)}.") from None


def _read_name(name: str, text: str | None, most: int = _NAME_LENGTH) -> str | None:
    # PostgreSQL text can hold neither NUL nor half of a surrogate pair.
    if text and (len(text) > most or "\0" in text or any("\ud800" <= char <= "\udfff" for char in text)):
        raise HTTPException(400, f"The {name} is not valid; allowed are up to {most} characters.")
    return text or None


def _read_score(text: str | None) -> float | None:
    if not text or not text.strip():
        return None
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise HTTPException(400, f"The score is “{text}”; allowed is a number from 0 to 1, such as 0.5.")
    return score
