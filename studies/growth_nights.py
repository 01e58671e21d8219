"""Folders of tiny scans for `studies.growth`, and runs that are filled by SQL instead of workers."""

import random
import struct
import zlib
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from db.tallies import ScanOutcome, tally_scans
from db.types import ScanStatus
from nightread.scan.scan import MIN_SIDE_PX

_WARD = 1_000
#: The smallest that is scored.
_SIDE_PX = MIN_SIDE_PX


def draw_night(folder: Path, size: int) -> Path:
    """Return a folder of `size` scans, which contains the folders of the smaller sizes; missing scans are drawn."""
    smaller = [step for step in (1_000, 10_000, 100_000, 1_000_000) if step < size]
    night = folder / "scans"
    for _ in range(len(smaller), 3):
        night /= "night"
    first = 0
    if smaller:
        draw_night(folder, smaller[-1])
        first = smaller[-1]
    for ward in range(first // _WARD, -(-size // _WARD)):
        path = night / f"ward-{ward:04}"
        if path.exists():
            continue
        path.mkdir(parents=True)
        for number in range(ward * _WARD, min((ward + 1) * _WARD, size)):
            (path / f"scan-{number:07}.png").write_bytes(draw_scan(number))
    return night


def draw_scan(number: int) -> bytes:
    """Return a PNG of noise, 32 x 32 pixels of 8 bits."""
    noise = random.Random(number).randbytes(_SIDE_PX * _SIDE_PX)  # noqa: S311  # no secret
    rows = b"".join(b"\0" + noise[start : start + _SIDE_PX] for start in range(0, len(noise), _SIDE_PX))
    header = struct.pack(">IIBBBBB", _SIDE_PX, _SIDE_PX, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def fill_run(connection: Connection, run_id: str, *, also: str = "") -> None:
    """End all queued scans of a run with random contents and scores, in bulk.

    Args:
        connection: in a transaction.
        run_id: the run.
        also: further assignments of the same UPDATE of `scans`, which begin with a comma.
    """
    is_postgresql = connection.dialect.name == "postgresql"
    digest = "md5(random()::text) || md5(random()::text)" if is_postgresql else "lower(hex(randomblob(32)))"
    score = "random()" if is_postgresql else "abs(random() % 1000000007) / 1000000007.0"
    if is_postgresql:
        connection.execute(text("SET LOCAL statement_timeout = '1h'"))
    given = {"run": run_id}
    connection.execute(
        text(
            f"UPDATE scans SET status = 'scored', sha256 = {digest}, finished_at = created_at, attempts = 1{also} "  # noqa: S608
            "WHERE run_id = :run AND status = 'queued'"
        ),
        given,
    )
    connection.execute(
        text(
            "INSERT INTO predictions WITH drawn AS MATERIALIZED ("  # noqa: S608  # the two expressions above
            f"SELECT sha256, digest, preprocessing, scans.created_at AS created_at, {score} AS score "
            "FROM scans JOIN runs ON runs.id = scans.run_id JOIN models ON models.digest = runs.model_digest "
            "WHERE runs.id = :run AND scans.status = 'scored') "
            "SELECT sha256, digest, preprocessing, 'pneumonia', score, "
            "CASE WHEN score >= 0.6 THEN 'pneumonia' WHEN score < 0.4 THEN 'normal' ELSE 'uncertain' END, "
            "'onnxruntime', 'CPUExecutionProvider', 'cpu', 32, 'benchmark', created_at FROM drawn"
        ),
        given,
    )
    ended = [
        ScanOutcome(scan_id, ScanStatus.SCORED, sha256)
        for scan_id, sha256 in connection.execute(
            text("SELECT id, sha256 FROM scans WHERE run_id = :run AND status = 'scored' ORDER BY id"),
            given,
        )
    ]
    for start in range(0, len(ended), 5_000):
        tally_scans(connection, run_id, ended[start : start + 5_000])
    connection.execute(text("UPDATE jobs SET status = 'done', finished_at = created_at WHERE run_id = :run"), given)
    connection.execute(text("UPDATE runs SET status = 'finished', finished_at = created_at WHERE id = :run"), given)


def tidy(engine: Engine) -> None:
    """Update the database's statistics and visibility map, which it otherwise does in the background."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("VACUUM ANALYZE"))
