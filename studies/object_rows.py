"""Score one night from a folder and from a bucket, and compare the rows; a part of `studies.object_storage`."""

import csv
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moto.s3.models import s3_backends
from sqlalchemy import func, select

from db.engine import reading
from db.tables import scans
from studies.growth import Site, follow, make_site, read_memory_mb
from studies.growth_nights import draw_scan
from tests.object_store import ObjectServer

#: Owner of the buckets of moto.
_ACCOUNT = "123456789012"
_COLUMNS = ("path", "status", "reason", "sha256", "label", "score", "decision", "size_bytes")
_WORKERS = 2


def fill_bucket(server: ObjectServer, bucket: str, size: int, folder: Path | None = None) -> None:
    """Make a bucket of `size` distinct tiny scans, 1,000 below each prefix, and the same files in a folder."""
    server.put(bucket)
    for place in range(size):
        key, data = f"ward-{place // 1000:04}/scan-{place:07}.png", draw_scan(place)
        # Past HTTP and, when they are read, past moto: each would take some milliseconds of the cores.
        s3_backends[_ACCOUNT]["aws"].put_object(bucket, key, data)
        server.held[f"/{bucket}/{key}"] = data
        if folder and not (folder / key).exists():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(data)


def compare_rows(server: ObjectServer, size: int, folder: Path, *, by_workers: bool) -> list[dict[str, Any]]:
    """Score a folder and a bucket of the same scans, each into an SQLite file of its own, and compare the rows.

    Args:
        server: holds the bucket.
        size: number of scans.
        folder: receives the scans.
        by_workers: by `enqueue` and two workers, not by `score`.

    Returns:
        A measurement for each source; that of the bucket tells how many rows differ.
    """
    bucket, night = f"rows-{size}", folder / f"rows-{size}"
    fill_bucket(server, bucket, size, night)
    measured, rows = [], []
    for source, name in ((str(night), "files"), (f"s3://{bucket}", "objects")):
        server.asked.clear()
        with make_site("sqlite", folder) as site:
            site.environment |= {name: value for name, value in server.env.items() if "AWS" in name}
            load = os.getloadavg()[0]
            how = "workers" if by_workers else "score"
            found = run_workers(site, source, size) if by_workers else run_score(site, source)
            rows.append(read_rows(site, source))
            with reading(site.engine) as connection:
                tried_again = connection.scalar(select(func.count()).where(scans.c.attempts > 1)) or 0
        asked = Counter(path for method, path in server.asked if method == "GET" and path.endswith(".png"))
        measured.append(
            {
                "part": "rows", "how": how, "source": name, "scans": size, "load": round(load, 1), **found,
                "scored": sum(row["status"] == "scored" for row in rows[-1].values()),
                "again": sum(asked.values()) - len(asked) + tried_again,
            }
        )  # fmt: skip
    of_files, of_objects = rows
    different = [path for path in of_files.keys() | of_objects.keys() if of_files.get(path) != of_objects.get(path)]
    for path in sorted(different)[:10]:
        print(json.dumps([path, of_files.get(path), of_objects.get(path)]), flush=True)
    measured[1] |= {"rows": len(of_objects), "different": len(different)}
    return measured


def run_score(site: Site, source: str) -> dict[str, Any]:
    """Run `score` to its end; returns seconds, its start and the walk included, and peak memory."""
    started = time.perf_counter()
    with (site.folder / "said").open("wb") as said:
        process = site.start("score", source, "--json", output=said, talk=subprocess.DEVNULL)
        peak_mb = 0.0
        while process.poll() is None:
            peak_mb = max(peak_mb, read_memory_mb(process.pid))
            time.sleep(0.1)
    return {"exit": process.returncode, "seconds": time.perf_counter() - started, "peak_mb": peak_mb}


def run_workers(site: Site, source: str, size: int) -> dict[str, Any]:
    """Enqueue a source and have two workers of one process each score it; seconds and memory are those of both."""
    started = time.perf_counter()
    run_id = json.loads(site.run("enqueue", source, "--json").said.splitlines()[-1])["run"]
    with (site.folder / "worker.log").open("wb") as log:
        workers = [site.start("worker", "--concurrency=1", output=log, talk=log) for _ in range(_WORKERS)]
        try:
            samples = follow(site.engine, run_id, size, *workers)
        finally:
            for worker in workers:
                worker.terminate()
            ends = [worker.wait() for worker in workers]
    return {"exit": max(ends), "seconds": samples[-1][0] - started, "peak_mb": max(mb for _, _, mb in samples)}


def read_rows(site: Site, source: str) -> dict[str, dict[str, str]]:
    """Return the rows of the only run by the path relative to its source."""
    out = site.folder / "rows.csv"
    site.run("results", "--format", "csv", "--columns", ",".join(_COLUMNS), "--out", str(out))
    with out.open(newline="") as file:
        return {row.pop("path").removeprefix(f"{source}/"): row for row in csv.DictReader(file)}


def make_table(measured: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table, and a sentence on the rows of each bucket."""
    rows = [row for row in measured if row["part"] == "rows"]
    if not rows:
        return []
    lines = [
        "",
        "| one night | by | scans | scored | s | scans/s | peak memory, MB | tried again | load before |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        by = "`score`" if row["how"] == "score" else f"`enqueue` and {_WORKERS} workers"
        lines.append(
            f"| {row['source']} | {by} | {row['scans']:,} | {row['scored']:,} | {row['seconds']:.0f} | "
            f"{row['scans'] / row['seconds']:,.0f} | {row['peak_mb']:.0f} | "
            f"{row['again']:,} | {row['load']:.1f} |"
        )
    compared = "; ".join(f"{row['different']:,} of {row['rows']:,} differ" for row in rows if "rows" in row)
    of = "path below the source, status, reason, SHA-256, label, score, decision, size"
    return [*lines, "", f"Rows of the bucket beside those of the folder ({of}): {compared}."]
