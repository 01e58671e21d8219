"""Facets of a worklist: values with their counts in the run, and the queries that choose them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from db.facets import Facets
from db.marks import Review
from db.tallies import RunTally
from db.types import ScanStatus
from web.filters import WorklistFilter

#: Values of a facet that are listed, the most frequent ones.
_MOST_VALUES: Final = 12


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A value of a facet.

    Attributes:
        name: for people.
        count: of the run's scans or rows; None: not all were counted.
        query: URL query that chooses it, or chooses it no more.
        is_chosen: whether the filter has it.
    """

    name: str
    count: int | None
    query: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Facet:
    """A facet: a parameter of the filter and the values that it may have."""

    title: str
    values: list[FacetValue] = field(default_factory=list)


def list_facets(asked: WorklistFilter, tally: RunTally, reviews: dict[str, int], found: Facets) -> list[Facet]:
    """Return the facets of a worklist that have values."""
    statuses = [(status.value, getattr(tally.counts, status.value)) for status in ScanStatus]
    reasons = [pair for counted in tally.reasons.values() for pair in _by_count(counted)]
    reviewed = sum(reviews.values())
    ended = tally.counts.scored + tally.counts.rejected + tally.counts.failed
    reviewing = {Review.UNREVIEWED.value: ended - reviewed, Review.REVIEWED.value: reviewed, **reviews} if ended else {}
    folders = {f"{found.parent}/{name}": count for name, count in found.folders.items()}
    listed = [
        _list(asked, "Decision", "decision", _by_count(tally.decisions)),
        _list(asked, "Status", "status", [pair for pair in statuses if pair[1]]),
        _list(asked, "Reason", "reason", reasons),
        _list(asked, "Review", "review", [pair for pair in reviewing.items() if pair[1]]),
    ]
    # One value alone restricts nothing.
    for title, name, counts in (
        ("Folder", "folder", folders), ("Manufacturer", "manufacturer", found.manufacturers),
        ("Station", "station", found.stations), ("View", "view", found.views),
    ):  # fmt: skip
        told = _by_count(counts)[:_MOST_VALUES] if len(counts) > 1 else []
        listed.append(_list(asked, title, name, [(value, count if found.is_whole else None) for value, count in told]))
    return [facet for facet in listed if facet.values]


def _list(asked: WorklistFilter, title: str, name: str, counts: Iterable[tuple[str, int | None]]) -> Facet:
    chosen = getattr(asked, name)

    def query_of(value: str | None) -> str:
        changed: Any = {name: value}
        return replace(asked, **changed).to_query()

    known = dict(counts)
    if chosen and chosen not in known:
        known[chosen] = None
    return Facet(
        title,
        [
            FacetValue(
                value.rpartition("/")[2] if name == "folder" else value, count,
                query_of(None if value == chosen else value), value == chosen,
            )
            for value, count in known.items()
        ],
    )  # fmt: skip


def _by_count(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
