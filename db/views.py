"""The views that people query, as the migrations create them; they are not part of the tables' metadata."""

from typing import Any

import sqlalchemy
from sqlalchemy import BigInteger, Boolean, DateTime, Double, String, Text

from db.tables import runs, scans
from db.types import UtcDateTime

_DIGEST = String(64)
_ID = String(32)
_ROW: tuple[tuple[str, Any], ...] = (
    ("scan_id", BigInteger()), ("run_id", _ID), ("run", String()), ("path", Text()), ("study", String()),
    ("label", String()), ("score", Double()), ("decision", String()), ("status", scans.c.status.type),
    ("reason", String()), ("reason_text", String()), ("model", String()), ("sha256", _DIGEST),
    ("reused", Boolean()), ("provider", String()), ("time", UtcDateTime()), ("series", String()),
    ("instance", String()), ("body_part", String()), ("view_position", String()), ("laterality", String()),
    ("acquired_at", DateTime()), ("manufacturer", String()), ("station", String()), ("accession_hash", _DIGEST),
    ("brightness_rule", String()), ("contradictions", String()), ("size_bytes", BigInteger()), ("worker", String()),
    ("gate_verdict", String()), ("gate_distance", Double()), ("run_created", UtcDateTime()),
)  # fmt: skip


def _view(name: str, columns: tuple[tuple[str, Any], ...]) -> sqlalchemy.TableClause:
    return sqlalchemy.table(name, *(sqlalchemy.column(column, kind) for column, kind in columns))


#: One row for each label of a scored scan, and one for each other scan.
results = _view("results", _ROW)
#: The rows of `results` for each file's newest run in which it has ended.
latest_results = _view("latest_results", _ROW)
#: One row for each study, model and label.
studies = _view(
    "studies",
    (
        ("study", String()), ("model", String()), ("label", String()), ("score", Double()), ("decision", String()),
        ("path", Text()), ("scan_id", BigInteger()), ("scored", BigInteger()), ("rejected", BigInteger()),
        ("failed", BigInteger()), ("time", UtcDateTime()),
    ),
)  # fmt: skip
#: One row for each run.
nights = _view(
    "nights",
    (
        ("run_id", _ID), ("run", String()), ("status", runs.c.status.type), ("model", String()),
        ("created", UtcDateTime()), ("finished", UtcDateTime()), ("seconds", Double()), ("found", BigInteger()),
        ("scored", BigInteger()), ("rejected", BigInteger()), ("failed", BigInteger()), ("queued", BigInteger()),
        ("reused", BigInteger()), ("positive", BigInteger()), ("uncertain", BigInteger()),
        ("scans_per_second", Double()), ("schedule", String()), ("night", String()), ("priority", String()),
        ("guard", String()), ("guard_text", String()),
    ),
)  # fmt: skip
#: One row for each run, folder, day, label and decision.
folders = _view(
    "folders",
    (
        ("run_id", _ID), ("run", String()), ("model", String()), ("created", UtcDateTime()), ("folder", Text()),
        ("day", String()), ("label", String()), ("decision", String()), ("scans", BigInteger()),
    ),
)  # fmt: skip
