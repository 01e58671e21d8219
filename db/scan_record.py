"""All that is stored of one scan: its row, scores and measurements, other models' scores, other runs, its study."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, and_, select

from db.tables import measurements, models, predictions, runs, scans
from db.types import ScanStatus

#: Most rows of each list.
MOST_LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class ScanFile:
    """Where the file of a scan lies, and which bytes were scored.

    Attributes:
        path: as stored; see `nightread.scan.files.encode_path`.
        sha256: of the bytes that were decoded; None where the file was never read.
        sources: of its run, as stored.
        archives: whether its run reads archives.
        model: NAME@VERSION of its run.
        model_digest: digest of that model.
    """

    id: int
    path: str
    sha256: str | None
    status: ScanStatus
    reason_text: str | None
    sources: list[str]
    archives: bool
    model: str
    model_digest: str


@dataclass(frozen=True, slots=True)
class ScanRecord:
    """What is stored of one scan; rows are mappings by column.

    Attributes:
        scan: its row of `scans`.
        scores: rows of `predictions` under the model of its run, by label.
        measured: its row of `measurements`; None if there is none.
        others: scores of the same content by other models, newest first: `model`, `label`, `score`, `decision`,
            `created_at`.
        runs: other scans with the same content or the same path, newest first: `id`, `run_id`, `run`, `path`, `sha256`,
            `status`, `reason_code`, `model`, `finished_at`.
        study: other scans of its study in its run: `id`, `path`, `status`, `view_position`.
    """

    scan: dict[str, Any]
    scores: list[dict[str, Any]]
    measured: dict[str, Any] | None
    others: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    study: list[dict[str, Any]]


def find_scan_file(connection: Connection, scan_id: int) -> ScanFile | None:
    """Return where the file of a scan lies; None if there is no such scan."""
    query = (
        select(
            scans.c.id, scans.c.path, scans.c.sha256, scans.c.status, scans.c.reason_text, runs.c.sources,
            runs.c.settings, models.c.name, models.c.version, models.c.digest,
        )
        .join(runs, runs.c.id == scans.c.run_id)
        .join(models, models.c.digest == runs.c.model_digest)
        .where(scans.c.id == scan_id)
    )  # fmt: skip
    row = connection.execute(query).first()
    if row is None:
        return None
    return ScanFile(
        row.id, row.path, row.sha256, row.status, row.reason_text, list(row.sources),
        bool(row.settings.get("archives")), f"{row.name}@{row.version}", row.digest,
    )  # fmt: skip


def read_scan_record(connection: Connection, scan_id: int) -> ScanRecord | None:
    """Return all that is stored of a scan; None if there is no such scan."""
    query = (
        select(scans, runs.c.model_digest, models.c.preprocessing)
        .join(runs, runs.c.id == scans.c.run_id)
        .join(models, models.c.digest == runs.c.model_digest)
        .where(scans.c.id == scan_id)
    )
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    scan = dict(row)
    content = (scan["sha256"], scan["model_digest"], scan["preprocessing"])
    measured = connection.execute(select(measurements).where(_is_content(measurements, *content))).mappings().first()
    return ScanRecord(
        scan=scan,
        scores=_fetch(
            connection, select(predictions).where(_is_content(predictions, *content)).order_by(predictions.c.label)
        ),
        measured=None if measured is None else dict(measured),
        others=_list_others(connection, scan),
        runs=_list_runs(connection, scan),
        study=_list_study(connection, scan),
    )


def _is_content(table: Any, sha256: str | None, model_digest: str, preprocessing: str) -> Any:
    return and_(table.c.sha256 == sha256, table.c.model_digest == model_digest, table.c.preprocessing == preprocessing)


def _list_others(connection: Connection, scan: dict[str, Any]) -> list[dict[str, Any]]:
    query = (
        select(
            (models.c.name + "@" + models.c.version).label("model"), predictions.c.label, predictions.c.score,
            predictions.c.decision, predictions.c.created_at,
        )
        .join(models, models.c.digest == predictions.c.model_digest)
        .where(predictions.c.sha256 == scan["sha256"], predictions.c.model_digest != scan["model_digest"])
        .order_by(predictions.c.created_at.desc(), predictions.c.label)
        .limit(MOST_LISTED)
    )  # fmt: skip
    return _fetch(connection, query)


def _list_runs(connection: Connection, scan: dict[str, Any]) -> list[dict[str, Any]]:
    """List the scans of other runs with this content or this path; each of the two is an index range of its own."""
    found: dict[int, dict[str, Any]] = {}
    for condition in (scans.c.sha256 == scan["sha256"], scans.c.path == scan["path"]):
        query = (
            select(
                scans.c.id, scans.c.run_id, runs.c.name.label("run"), scans.c.path, scans.c.sha256, scans.c.status,
                scans.c.reason_code, scans.c.finished_at, (models.c.name + "@" + models.c.version).label("model"),
            )
            .join(runs, runs.c.id == scans.c.run_id)
            .join(models, models.c.digest == runs.c.model_digest)
            .where(condition, scans.c.id != scan["id"])
            .order_by(scans.c.id.desc())
            .limit(MOST_LISTED)
        )  # fmt: skip
        found |= {row["id"]: row for row in _fetch(connection, query)}
    return [found[scan_id] for scan_id in sorted(found, reverse=True)][:MOST_LISTED]


def _list_study(connection: Connection, scan: dict[str, Any]) -> list[dict[str, Any]]:
    if scan["study_uid"] is None:
        return []
    query = (
        select(scans.c.id, scans.c.path, scans.c.status, scans.c.view_position)
        .where(scans.c.study_uid == scan["study_uid"], scans.c.run_id == scan["run_id"], scans.c.id != scan["id"])
        .order_by(scans.c.id)
        .limit(MOST_LISTED)
    )
    return _fetch(connection, query)


def _fetch(connection: Connection, query: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]
