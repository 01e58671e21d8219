"""Files that a model has come across before."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from db.tables import runs, scans
from db.types import ScanStatus


@dataclass(frozen=True, slots=True)
class KnownScan:
    """A row of a file in an earlier run; as listed then."""

    status: ScanStatus
    size_bytes: int
    modified_ns: int | None
    sha256: str | None


def find_known(connection: Connection, model_digest: str, paths: Sequence[str]) -> dict[str, list[KnownScan]]:
    """Return the rows of files in all runs of one model that are not `failed`, by path.

    Args:
        connection: for reading.
        model_digest: of the model.
        paths: as stored; some hundred, since each is a parameter.
    """
    query = (
        select(scans.c.path, scans.c.status, scans.c.size_bytes, scans.c.modified_ns, scans.c.sha256)
        .join(runs, runs.c.id == scans.c.run_id)
        .where(scans.c.path.in_(paths), runs.c.model_digest == model_digest, scans.c.status != ScanStatus.FAILED)
    )
    return _group(connection.execute(query))


def _group(rows: Iterable[tuple[str, ScanStatus, int, int | None, str | None]]) -> dict[str, list[KnownScan]]:
    known: dict[str, list[KnownScan]] = {}
    for path, status, size_bytes, modified_ns, sha256 in rows:
        known.setdefault(path, []).append(KnownScan(status, size_bytes, modified_ns, sha256))
    return known
