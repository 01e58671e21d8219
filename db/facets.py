"""Folders, devices and views of a run's scans, with their counts."""

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import ColumnElement, Connection, case, func, null, select

from db.runs import RunInfo
from db.tables import scans

#: Scans that are counted, those that were found first; more would take longer than a page may.
MOST_COUNTED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Facets:
    """Values of a run's scans with their counts.

    Attributes:
        is_whole: whether all scans were counted.
        folders: by name: the folders that lie side by side below the sources of the run.
        parent: the folder in which these lie, as paths are stored.
        manufacturers: of the devices.
        stations: the devices.
        views: view positions.
    """

    is_whole: bool
    parent: str
    folders: Counter[str] = field(default_factory=Counter)
    manufacturers: Counter[str] = field(default_factory=Counter)
    stations: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)


def count_facets(connection: Connection, run: RunInfo) -> Facets:
    """Count the first scans of a run by folder, manufacturer, station and view.

    A folder that holds all scans tells nothing: then the folders in it are counted.
    """
    facets = _count(connection, run, _find_parent(run.sources))
    while len(facets.folders) == 1 and facets.folders.total() == run.found:
        facets = _count(connection, run, f"{facets.parent}/{next(iter(facets.folders))}")
    return facets


def _count(connection: Connection, run: RunInfo, parent: str) -> Facets:
    first = (
        select(scans.c.path, scans.c.manufacturer, scans.c.station, scans.c.view_position)
        .where(scans.c.run_id == run.id)
        .order_by(scans.c.id)
        .limit(MOST_COUNTED)
        .subquery()
    )
    folder = _name_folder(connection, first.c.path, parent).label("folder")
    inner = select(folder, first.c.manufacturer, first.c.station, first.c.view_position).subquery()
    facets = Facets(run.found <= MOST_COUNTED, parent)
    by = (facets.folders, facets.manufacturers, facets.stations, facets.views)
    for *values, count in connection.execute(select(*inner.c, func.count()).group_by(*inner.c)):
        for counter, value in zip(by, values, strict=True):
            if value:
                counter[value] += count
    return facets


def _find_parent(sources: Sequence[str]) -> str:
    try:
        return posixpath.commonpath(sources).rstrip("/")
    except ValueError:  # none, or relative ones beside absolute ones
        return ""


def _name_folder(connection: Connection, path: ColumnElement[str], parent: str) -> ColumnElement[str | None]:
    """Return the name of the folder below `parent` in which a path lies; NULL for none."""
    find = func.instr if connection.dialect.name == "sqlite" else func.strpos
    rest = func.substr(path, len(parent) + 2)
    end = find(rest, "/")
    below = path.startswith(f"{parent}/", autoescape=True)
    return case((below & (end > 0), func.substr(rest, 1, end - 1)), else_=null())
