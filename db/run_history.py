"""Earlier runs like a run: of the same model, and of the same schedule, folders or name; the newest of a model."""

from collections import Counter
from pathlib import PurePosixPath
from typing import Final

from sqlalchemy import Connection, select

from db.runs import RunInfo, find_run
from db.tables import runs, scans
from db.types import RunStatus, ScanStatus

_LOOKED_AT: Final = 200
_SAME: Final = {".jpg": ".jpeg", ".tif": ".tiff"}


def list_earlier(connection: Connection, run: RunInfo) -> list[str]:
    """Return the ids of the finished runs like `run` that began before it, oldest first."""
    query = (
        select(runs.c.id, runs.c.name, runs.c.schedule, runs.c.sources)
        .where(
            runs.c.model_digest == run.model_digest,
            runs.c.status == RunStatus.FINISHED,
            runs.c.created_at < run.created_at,
            runs.c.id != run.id,
        )
        .order_by(runs.c.created_at, runs.c.id)
    )
    return [
        row.id
        for row in connection.execute(query)
        if (run.schedule is not None and row.schedule == run.schedule)
        or row.sources == run.sources
        or row.name == run.name
    ]


def find_kind(connection: Connection, run_id: str) -> str | None:
    """Return the kind of most files of a run, by its first scored scans; None if nothing was scored.

    It is "DICOM", or "JPEG" and the like by the files' names.
    """
    query = (
        select(scans.c.path, scans.c.instance_uid)
        .where(scans.c.run_id == run_id, scans.c.status == ScanStatus.SCORED)
        .order_by(scans.c.reused, scans.c.id)
        .limit(_LOOKED_AT)
    )
    kinds = Counter("DICOM" if uid else _name_kind(path) for path, uid in connection.execute(query))
    return kinds.most_common(1)[0][0] if kinds else None


def _name_kind(path: str) -> str:
    suffix = PurePosixPath(path).suffix.lower()
    return _SAME.get(suffix, suffix).removeprefix(".").upper()


def find_newest_of(connection: Connection, model_digest: str) -> RunInfo | None:
    """Return the newest finished run of a model; None if there is none."""
    query = select(runs.c.id).where(runs.c.model_digest == model_digest, runs.c.status == RunStatus.FINISHED)
    run_id = connection.execute(query.order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(1)).scalar()
    return None if run_id is None else find_run(connection, run_id)
