"""The page of a run's drift: whether its scans look like the training data, and how that went over nights."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response

from db.run_history import list_earlier
from db.runs import RunInfo, find_run
from db.tallies import read_tallies
from nightread.errors import DatabaseError, NightreadError
from web.lookup import find_requested_run, reading_request
from web.recent import Recent
from web.showing import render
from worker.report.charts import draw_shares, draw_trend
from worker.runs.drift import describe_drift, find_farthest, measure_drift
from worker.runs.drift_histogram import Histogram, make_histograms

#: Earlier nights that are shown.
_NIGHTS: Final = 6
#: A run with more scans is measured by `nightread drift`, which has more time than a page.
_MOST_SCANS: Final = 100_000
_MOST_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class NightDrift:
    """What a page shows of one run's drift.

    Attributes:
        run_id: the run.
        name: of the run.
        created_at: when it was made.
        sentence: whether it looks like the training data; or why it cannot be compared.
        looks_alike: None: there are too few scans, or nothing to compare with.
        measured: scans that were measured.
        histograms: at most three.
        distances: Kolmogorov-Smirnov distance by measurement.
        farthest: the measurement that differs most; None: there is none.
        critical: distance of it that chance alone would exceed.
    """

    run_id: str
    name: str
    created_at: datetime
    sentence: str
    looks_alike: bool | None
    measured: int
    histograms: list[Histogram]
    distances: dict[str, float]
    farthest: str | None
    critical: float


def make_drifts() -> Recent[NightDrift]:
    """Return a place for the runs that were measured lately."""
    return Recent(_MOST_KEPT)


def show_drift(request: Request) -> Response:
    """Show whether a run looks like the training data, its histograms, and the nights before it."""
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
        earlier = [find_run(connection, run_id) for run_id in list_earlier(connection, run)[-_NIGHTS:]]
        tallies = read_tallies(connection, [one.id for one in (*earlier, run)])
    drifts: Recent[NightDrift] = request.app.state.drifts
    engine: Engine = request.app.state.engine
    nights = [
        drifts.find((one.id, tallies[one.id].changed_at), lambda one=one: _measure(engine, one))  # type: ignore[misc]
        for one in (*earlier, run)
    ]
    drawn = [night for night in nights if night.distances]
    return render(
        request, "drift.html", run=run, night=nights[-1], nights=nights[::-1], trend=_draw_trend(drawn),
        draw_shares=draw_shares,
    )  # fmt: skip


def _measure(engine: Engine, run: RunInfo) -> NightDrift:
    def tell(sentence: str, **told: Any) -> NightDrift:
        nothing: dict[str, Any] = {
            "looks_alike": None, "measured": 0, "histograms": [], "distances": {}, "farthest": None, "critical": 0.0
        }  # fmt: skip
        return NightDrift(run.id, run.name, run.created_at, sentence, **(nothing | told))

    if run.found > _MOST_SCANS:
        return tell(f"a run of {run.found:,} scans is measured by `nightread drift {run.id[:8]}`")
    try:
        measured = measure_drift(engine, run.id)
    except DatabaseError:
        raise
    except NightreadError as error:
        return tell(str(error))
    farthest = find_farthest(measured)
    return tell(
        describe_drift(measured),
        looks_alike=measured.drift.looks_alike,
        measured=measured.night.measured,
        histograms=make_histograms(measured),
        distances={shift.name: shift.ks for shift in measured.drift.shifts},
        farthest=farthest and farthest.name,
        critical=farthest.critical_ks if farthest else 0.0,
    )


def _draw_trend(nights: list[NightDrift]) -> Any:
    """Draw the distances of the last night's histograms over the nights; None: there are fewer than two."""
    if len(nights) < 2:
        return None
    distances = {
        histogram.name: [night.distances.get(histogram.name, 0.0) for night in nights]
        for histogram in nights[-1].histograms
    }
    names = [f"{night.created_at.astimezone():%m-%d}" for night in nights]
    return draw_trend(names, distances, nights[-1].critical, "distance from the training data, night by night")
