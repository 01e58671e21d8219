"""Measure scoring and listing of objects beside files, on a local S3 server.

    uv run --group test python -m studies.object_storage --folder /tmp/objects --real SCANS --into objects.jsonl
    uv run --group test python -m studies.object_storage --into objects.jsonl --table docs/how-to/object-storage.md

The server (moto) runs in this process, on the same cores as the program, and takes some milliseconds of them for each
request: a real store is farther away and costs nothing here. Drawn objects it answers itself, past moto.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from studies.growth import read_memory_mb
from studies.object_rows import compare_rows, fill_bucket
from studies.object_rows import make_table as make_rows_table
from studies.page_part import write_part
from tests.object_store import ObjectServer, run_object_server
from tests.program import PROGRAM, make_environment

_LIST = """
import json, resource, sys, time
from pathlib import Path
from nightread.scan.walk import Walk, find_scans
start = time.perf_counter()
roots = [Path(sys.argv[1])]
count = sum(1 for _ in find_scans(roots, Walk(), roots=roots))
print(json.dumps([count, time.perf_counter() - start]))
"""


def main() -> None:
    """Measure and append to a JSON Lines file, or write the table of such a file into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="JSON Lines file")
    parser.add_argument("--folder", type=Path, help="empty folder for databases and drawn objects")
    parser.add_argument("--real", type=Path, help="folder of real scans")
    parser.add_argument("--listed", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--compared", type=int, nargs="*", default=[100_000], help="sizes whose rows are compared")
    parser.add_argument("--compared-by-workers", type=int, nargs="*", default=[10_000], help="the same by two workers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", type=Path, help="write the table of --into into this page without measuring")
    arguments = parser.parse_args()
    if arguments.table:
        measured = [json.loads(line) for line in arguments.into.read_text().splitlines()]
        write_part(arguments.table, "studies/object_storage.py", make_table(measured))
        return
    if arguments.folder is None or arguments.real is None:
        parser.error("name a --folder and --real scans")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with run_object_server() as server:
        server.put_folder("real", arguments.real)
        for number in range(arguments.rounds):
            for source in (str(arguments.real), "s3://real"):
                keep(arguments, measure_score(server, source, arguments.folder / f"{number}"))
        for size in arguments.listed:
            bucket = f"listed-{size}"
            fill_bucket(server, bucket, size)
            keep(arguments, measure_list(server, bucket, size))
        for by_workers, sizes in ((False, arguments.compared), (True, arguments.compared_by_workers)):
            for size in sizes:
                for measured in compare_rows(server, size, arguments.folder, by_workers=by_workers):
                    keep(arguments, measured)


def keep(arguments: argparse.Namespace, measured: dict[str, Any]) -> None:
    """Append a measurement to the file."""
    with arguments.into.open("a") as file:
        file.write(json.dumps(measured) + "\n")
    print(json.dumps(measured), flush=True)


def measure_score(server: ObjectServer, source: str, folder: Path) -> dict[str, Any]:
    """Score a source with a new database; the seconds are those that the program tells, without its start."""
    place = folder / source.replace("/", "-")
    place.mkdir(parents=True)
    load = os.getloadavg()[0]
    env = make_environment(place, model="") | {name: value for name, value in server.env.items() if "AWS" in name}
    done = subprocess.run([PROGRAM, "score", source, "--json"], env=env, cwd=place, capture_output=True, check=False)  # noqa: S603
    said = json.loads(done.stdout.splitlines()[-1])
    return {
        "part": "score", "source": "objects" if "://" in source else "files", "found": said["found"],
        "scored": said["scored"], "scans_per_s": said["scans_per_second"], "load": round(load, 1),
    }  # fmt: skip


def measure_list(server: ObjectServer, bucket: str, size: int) -> dict[str, Any]:
    """List a bucket, and sample the memory of the process that lists and of the one that asks it."""
    load, peak_mb = os.getloadavg()[0], 0.0
    process = subprocess.Popen(  # noqa: S603  # the measured program
        [sys.executable, "-c", _LIST, f"s3://{bucket}"], env=server.env, stdout=subprocess.PIPE
    )
    while process.poll() is None:
        peak_mb = max(peak_mb, read_memory_mb(process.pid))
        time.sleep(0.02)
    assert process.stdout is not None  # noqa: S101  # a pipe, as asked for
    count, seconds = json.loads(process.stdout.read())
    if count != size:
        raise RuntimeError(f"{count} objects were listed; expected are {size}")
    return {"part": "list", "objects": size, "seconds": seconds, "peak_mb": peak_mb, "load": round(load, 1)}


def make_table(measured: list[dict[str, Any]]) -> str:
    """Return Markdown: scoring from both sources, lists, and rows that are compared."""
    lines = [
        "| `score` of real scans from | scans | scored | scans/s, median | rounds | load before |",
        "|---|---|---|---|---|---|",
    ]
    for source in ("files", "objects"):
        rows = [row for row in measured if row["part"] == "score" and row["source"] == source]
        speed = statistics.median(row["scans_per_s"] for row in rows)
        loads = ", ".join(f"{row['load']:.1f}" for row in rows)
        lines.append(f"| {source} | {rows[0]['found']} | {rows[0]['scored']} | {speed:.0f} | {len(rows)} | {loads} |")
    lines += [
        "",
        "| objects listed | s | objects/s | memory of both processes, MB | load before |",
        "|---|---|---|---|---|",
    ]
    for row in measured:
        if row["part"] == "list":
            size, seconds = row["objects"], row["seconds"]
            lines.append(
                f"| {size:,} | {seconds:.1f} | {size / seconds:,.0f} | {row['peak_mb']:.0f} | {row['load']:.1f} |"
            )
    return "\n".join([*lines, *make_rows_table(measured)])


if __name__ == "__main__":
    main()
