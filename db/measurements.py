"""Measurements of scans: the input gate's verdict, and what drift is computed from."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Select, and_, select

from db.bulk import ROWS_PER_FETCH, insert_new
from db.dialects import allow_slow_reader
from db.tables import measurements, models, predictions, runs, scans
from db.types import ScanStatus


@dataclass(frozen=True, slots=True)
class NewMeasurement:
    """Measurements of one content under one model; a row of the table `measurements`."""

    sha256: str
    model_digest: str
    preprocessing: str
    gate_verdict: str | None
    distance: float | None
    components: list[float] | None
    brightness: float
    contrast: float
    darkest: float
    brightest: float
    detail: float
    symmetry: float


@dataclass(frozen=True, slots=True)
class MeasuredScan:
    """A terminal scan of a run with its measurements; None where it was not measured, not inferred or not scored.

    Attributes:
        score: score of the requested label.
    """

    status: ScanStatus
    reason_code: str | None
    gate_verdict: str | None
    score: float | None
    distance: float | None
    components: list[float] | None
    brightness: float | None
    contrast: float | None
    darkest: float | None
    brightest: float | None
    detail: float | None
    symmetry: float | None


_FIELDS = tuple(field.name for field in fields(NewMeasurement))


def store_measurements(connection: Connection, new_measurements: Sequence[NewMeasurement]) -> None:
    """Store measurements, sorted by key; existing ones are kept, and get the verdict that they lack."""
    rows = sorted(map(_to_row, new_measurements), key=itemgetter(0))
    insert_new(connection, measurements, _FIELDS, rows, completed="gate_verdict")


def _to_row(measurement: NewMeasurement) -> tuple[str | float | None, ...]:
    """Return a measurement as a row that begins with its digest."""
    return tuple(
        json.dumps(value) if isinstance(value := getattr(measurement, name), list) else value for name in _FIELDS
    )


def stream_measured(connection: Connection, run_id: str, label: str) -> Iterator[MeasuredScan]:
    """Yield the terminal scans of a run with their measurements under the run's model, in the order they were found.

    Args:
        connection: for reading.
        run_id: id of the run.
        label: label whose score is returned.
    """
    allow_slow_reader(connection)
    query: Select[tuple[Any, ...]] = (
        select(
            scans.c.status, scans.c.reason_code, measurements.c.gate_verdict, predictions.c.score,
            measurements.c.distance, measurements.c.components, measurements.c.brightness, measurements.c.contrast,
            measurements.c.darkest, measurements.c.brightest, measurements.c.detail, measurements.c.symmetry,
        )
        .join(runs, runs.c.id == scans.c.run_id)
        .join(models, models.c.digest == runs.c.model_digest)
        .outerjoin(
            measurements,
            and_(
                measurements.c.sha256 == scans.c.sha256,
                measurements.c.model_digest == runs.c.model_digest,
                measurements.c.preprocessing == models.c.preprocessing,
            ),
        )
        .outerjoin(
            predictions,
            and_(
                scans.c.status == ScanStatus.SCORED,
                predictions.c.sha256 == scans.c.sha256,
                predictions.c.model_digest == runs.c.model_digest,
                predictions.c.preprocessing == models.c.preprocessing,
                predictions.c.label == label,
            ),
        )
        .where(scans.c.run_id == run_id, scans.c.status != ScanStatus.QUEUED)
        .order_by(scans.c.id)
    )  # fmt: skip
    for row in connection.execute(query.execution_options(yield_per=ROWS_PER_FETCH)):
        yield MeasuredScan(*row)
