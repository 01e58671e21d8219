"""Measure what partitions cost a worker's transactions and spare `prune`, over a ledger that holds runs already.

    uv run --group test python -m studies.partition_price --folder /tmp --stored 1000000 --into partitions.jsonl
    uv run --group test python -m studies.partition_price --into partitions.jsonl --table docs/scaling.md

One PostgreSQL server has two databases with the same rows, one of them in partitions. Played workers, as in
`studies.scaling`, do jobs of 64 scans in each of them in turn. Then the stored runs are pruned.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from sqlalchemy import text, update

from db.engine import make_engine, reading, write
from db.partition_change import partition
from db.retention import find_cutoff, prune
from db.runs import create_run
from db.tables import runs
from db.types import database_now
from studies.growth import Site, make_site
from studies.growth_nights import tidy
from studies.page_part import write_part
from studies.played_workers import read_server_cpu_s
from studies.scaling import fill, keep, measure_played
from tests.db_factories import new_run, new_scans

_RUN = 1_000_000  # scans of a stored run, at most


def main() -> None:
    """Measure and append to a JSON Lines file, or write the tables of such a file into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="JSON Lines file, one line per measurement")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="folder of the server")  # noqa: S108
    parser.add_argument("--stored", type=int, default=1_000_000, help="scans of earlier runs in the ledger")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4], help="connections at work")
    parser.add_argument("--rounds", type=int, default=3, help="how often both are measured in turn")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a measurement")
    parser.add_argument("--most", type=int, default=6_000, help="scans/s that are never reached: size of the runs")
    parser.add_argument("--processes", type=int, default=4, help="processes that play workers")
    parser.add_argument("--no-prune", action="store_true", help="leave out `prune`, which takes longest")
    parser.add_argument("--table", type=Path, help="write the tables of --into into this page without measuring")
    arguments = parser.parse_args()
    if arguments.table:
        measured = [json.loads(line) for line in arguments.into.read_text().splitlines()]
        write_part(arguments.table, "studies/partition_price.py", make_tables(measured))
        return
    with make_site("postgresql", arguments.folder) as site:
        for start in range(0, arguments.stored, _RUN):
            fill(site, min(_RUN, arguments.stored - start))
        keep(arguments, measure_change(twin := _make_twin(site), arguments))
        for _ in range(arguments.rounds):
            for connections in arguments.connections:
                for one in (site, twin):
                    played = measure_played(one, arguments, connections, 0.0)
                    keep(arguments, played | {"part": "ledger", "partitions": one is twin})
        for one in () if arguments.no_prune else (site, twin):
            keep(arguments, measure_prune(one, arguments) | {"partitions": one is twin})
        twin.engine.dispose()


def _make_twin(site: Site) -> Site:
    """Return the same site with a copy of the database."""
    site.engine.dispose()
    url = site.engine.url
    admin = make_engine(url.set(database="template1").render_as_string(hide_password=False))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text(f"CREATE DATABASE twin TEMPLATE {url.database}"))
    admin.dispose()
    of_twin = url.set(database="twin").render_as_string(hide_password=False)
    folder = site.folder / "twin"
    folder.mkdir()
    return Site(folder, of_twin, site.environment["NIGHTREAD_BROKER_URL"])


def measure_change(twin: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """Partition the twin; returns seconds and processor time of the server."""
    load, before, start = os.getloadavg()[0], read_server_cpu_s(twin.engine), time.perf_counter()
    done = partition(twin.engine)
    return {
        "part": "change", "stored": arguments.stored, "copied": done.copied, "seconds": time.perf_counter() - start,
        "server_cpu_s": read_server_cpu_s(twin.engine) - before, "load": round(load, 1),
    }  # fmt: skip


def measure_prune(site: Site, arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune the stored runs, which all ended long ago."""
    long_ago = update(runs).where(runs.c.name == "before").values(finished_at=database_now(-1e7))
    write(site.engine, lambda connection: connection.execute(long_ago))
    write(site.engine, lambda connection: create_run(connection, new_run(), new_scans(1)))  # a later month has begun
    tidy(site.engine)
    with reading(site.engine) as connection:
        cutoff = find_cutoff(connection, 5e6)
    load, before, start = os.getloadavg()[0], read_server_cpu_s(site.engine), time.perf_counter()
    of_scans: list[float] = []
    pruned = prune(
        site.engine,
        cutoff,
        keep_positives=False,
        on_progress=lambda done, every: of_scans.append(time.perf_counter() - start) if done == every else None,
    )
    return {
        "part": "prune", "stored": arguments.stored, "scans": pruned.scans, "seconds": time.perf_counter() - start,
        "scans_s": of_scans[0], "server_cpu_s": read_server_cpu_s(site.engine) - before, "load": round(load, 1),
    }  # fmt: skip


def make_tables(measured: list[dict[str, Any]]) -> str:
    """Return Markdown: a table of jobs, one of the change, one of `prune`."""
    lines = [
        "**A job of 64 scans: processor time, median of the rounds, and the least and most**",
        "",
        "| scans stored before | connections at work | tables | server, ms | worker, ms | rounds | load before |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    ledger = [row for row in measured if row["part"] == "ledger"]
    for stored, workers, divided in sorted({(row["stored"], row["workers"], row["partitions"]) for row in ledger}):
        of_kind = [
            row for row in ledger if (row["stored"], row["workers"], row["partitions"]) == (stored, workers, divided)
        ]
        spans = []
        for name in ("server_cpu_ms", "client_cpu_ms"):
            values = [row[name] for row in of_kind]
            spans.append(f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        loads = sorted(row["load"] for row in of_kind)
        tables = "partitions" if divided else "whole"
        lines.append(
            f"| {stored:,} | {workers} | {tables} | {' | '.join(spans)} | {len(of_kind)} | {loads[0]} to {loads[-1]} |"
        )
    lines += [
        "",
        "**The change, and `prune` of all stored scans**",
        "",
        "| what | scans | seconds | of them for scans | CPU s of the server | load before |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in measured:
        if row["part"] == "ledger":
            continue
        names = {None: "`db partition`", False: "`prune`, whole tables", True: "`prune`, partitions"}
        of_scans = f"{row['scans_s']:.1f}" if "scans_s" in row else ""
        lines.append(
            f"| {names[row.get('partitions')]} | {row['stored']:,} | {row['seconds']:.0f} | {of_scans} | "
            f"{row['server_cpu_s']:.0f} | {row['load']} |"
        )
    return "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
