"""Measure how workers add up, and how many of them one PostgreSQL carries.

    uv run --group test python -m studies.scaling --folder /tmp/scaling --into scaling.jsonl
    uv run --group test python -m studies.scaling --into scaling.jsonl --table docs/scaling.md

Three parts: real workers over scans that wait (each read takes 0.5 s, so two cores are no limit) and over scans that
compute; the ledger alone, by processes that do a worker's transactions without files or a model; thousands of simulated
workers, each of which thinks for some seconds between claim and commit.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from db.engine import reading, write
from db.runs import create_run, find_run
from db.tallies import read_tallies
from studies.growth import Site, make_site, measure_workers
from studies.growth_nights import draw_scan, fill_run, tidy
from studies.page_part import write_part
from studies.played_workers import JOB, TABLES, measure_size, play, read_server_cpu_s
from tests.db_factories import (
    new_run,
    new_scans,
)
from tests.program import hook_reading

#: Long beside what a scan costs, so that other load on the machine hides nothing.
_WAIT_S: Final = 0.5
_WAITING: Final = 240


def main() -> None:
    """Measure and append to a JSON Lines file, or write the tables of such a file into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="JSON Lines file, one line per measurement")
    parser.add_argument("--folder", type=Path, help="folder of the scans; missing ones are drawn")
    parser.add_argument("--real", type=Path, help="folder of real scans")
    parser.add_argument("--parts", nargs="+", default=["waiting", "computing", "ledger", "simulated"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--simulated", type=int, nargs="+", default=[250, 500, 1_000, 2_000, 4_000])
    parser.add_argument("--think", type=float, default=20.0, help="seconds of a simulated worker for a job of 64 scans")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a measurement of the ledger")
    parser.add_argument("--most", type=int, default=15_000, help="scans/s that are never reached: size of the runs")
    parser.add_argument("--stored", type=int, default=0, help="scans of an earlier run in the ledger")
    parser.add_argument("--processes", type=int, default=4, help="processes that play workers")
    parser.add_argument("--table", type=Path, help="write the tables of --into into this page without measuring")
    arguments = parser.parse_args()
    if arguments.table:
        measured = [json.loads(line) for line in arguments.into.read_text().splitlines()]
        write_part(arguments.table, "studies/scaling.py", make_tables(measured))
        return
    if arguments.folder is None:
        parser.error("name a --folder for the scans")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        if part in {"waiting", "computing"}:
            for workers in arguments.workers:
                keep(arguments, measure_fleet(part, workers, arguments))
        else:
            measure_ledger(part, arguments)


def keep(arguments: argparse.Namespace, measured: dict[str, Any]) -> None:
    """Append a measurement to the file."""
    with arguments.into.open("a") as file:
        file.write(json.dumps(measured) + "\n")
    print(json.dumps(measured), flush=True)


def measure_fleet(part: str, workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure real workers of one thread each, over a new run on new servers."""
    load = os.getloadavg()[0]
    with make_site("postgresql", arguments.folder) as site:
        job = 4 if part == "waiting" else 16
        site.environment |= {"NIGHTREAD_JOB_SIZE": str(job)}
        if part == "waiting":
            night = arguments.folder / "waiting"
            night.mkdir(exist_ok=True)
            for number in range(_WAITING):
                (night / f"scan-{number:03}.png").write_bytes(draw_scan(number))
            site.environment |= hook_reading(site.folder, f"time.sleep({_WAIT_S})")
        else:
            site.environment |= {"NIGHTREAD_MODEL": "pneumonia-lite0@5"}
            night = arguments.real
        said = json.loads(site.run("enqueue", str(night), "--json").said)
        found = said["found"]
        # From the end of the first job to that of the last, which `measure_workers` extends by a job of 64.
        seconds = measure_workers(site, said["run"], found, workers)["score_s"] * (found - JOB) / found
    return {
        "part": part, "workers": workers, "scans": found, "load": round(load, 1),
        "scans_per_s": (found - workers * job) / seconds,
    }  # fmt: skip


def measure_ledger(part: str, arguments: argparse.Namespace) -> None:
    """Measure a worker's transactions, without files and model, on one new server."""
    with make_site("postgresql", arguments.folder) as site:
        if arguments.stored:
            fill(site, arguments.stored)
        if part == "ledger":
            for connections in (1, 2, 4, 8, 16):
                keep(arguments, measure_played(site, arguments, connections, 0.0))
        else:
            for workers in arguments.simulated:
                keep(arguments, measure_played(site, arguments, workers, arguments.think))
        keep(arguments, {"part": "size"} | measure_size(site.engine) | {"stored": arguments.stored})


def fill(site: Site, scans: int) -> None:
    """Store an ended run."""
    run_id = write(site.engine, lambda connection: create_run(connection, new_run(name="before"), new_scans(scans)))
    write(site.engine, lambda connection: fill_run(connection, run_id))
    tidy(site.engine)


def measure_played(site: Site, arguments: argparse.Namespace, workers: int, think_s: float) -> dict[str, Any]:
    """Let processes play `workers` workers for a while, over a run of their own."""
    load, seconds = os.getloadavg()[0], arguments.seconds
    most = arguments.most if think_s == 0 else min(arguments.most, int(workers * JOB / think_s * 1.5))
    scans = workers * JOB + int(most * (seconds + think_s))
    run_id = write(site.engine, lambda connection: create_run(connection, new_run(), new_scans(scans)))
    tidy(site.engine)
    url = site.environment["NIGHTREAD_DATABASE_URL"]
    processes = min(arguments.processes, workers)
    shares = [workers // processes + (number < workers % processes) for number in range(processes)]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    begin = time.time() + 10.0  # after all have started
    plays = [
        context.Process(target=play, args=(url, run_id, share, think_s, begin, seconds, number, answers))
        for number, share in enumerate(shares)
    ]
    for one in plays:
        one.start()
    time.sleep(max(0.0, begin + think_s - time.time()))
    before = read_server_cpu_s(site.engine)
    time.sleep(seconds)
    server_s = read_server_cpu_s(site.engine) - before
    played = [answers.get(timeout=seconds + 10 * think_s + 120) for _ in plays]
    for one in plays:
        one.join()
    jobs, late = sum(one.jobs for one in played), [value for one in played for value in one.late_s]
    with reading(site.engine) as connection:
        done = read_tallies(connection, [run_id])[run_id].counts.terminal
        assert find_run(connection, run_id).found == scans  # noqa: S101  # the run is whole
    return {
        "part": "simulated" if think_s else "ledger", "workers": workers, "think_s": think_s,
        "stored": arguments.stored,
        "jobs_per_s": jobs / seconds, "scans_per_s": jobs * JOB / seconds,
        "asked_per_s": workers * JOB / think_s if think_s else None,
        "late_ms": 1e3 * statistics.median(late) if late else 0.0,
        "late_p99_ms": 1e3 * sorted(late)[int(0.99 * len(late))] if late else 0.0,
        "terminal": done, "server_cpu_ms": 1e3 * server_s / max(jobs, 1),
        "client_cpu_ms": 1e3 * sum(one.cpu_s for one in played) / max(jobs, 1),
        "load": round(load, 1),
    }  # fmt: skip


def make_tables(measured: list[dict[str, Any]]) -> str:
    """Return Markdown: a table for each part."""
    return "\n".join(
        [
            _make_fleet_table(measured),
            _make_ledger_table([row for row in measured if row["part"] == "ledger"]),
            _make_simulated_table([row for row in measured if row["part"] == "simulated"]),
            _make_size_table([row for row in measured if row["part"] == "size"]),
        ]
    )


def _make_table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return f"\n**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _make_fleet_table(measured: list[dict[str, Any]]) -> str:
    rows = []
    for part, name in (("waiting", f"each read waits {_WAIT_S} s"), ("computing", "real scans")):
        of_part = [row for row in measured if row["part"] == part]
        for row in of_part:
            once = row["scans_per_s"] / of_part[0]["scans_per_s"]
            rows.append(
                [
                    name,
                    str(row["workers"]),
                    f"{row['scans_per_s']:,.1f}",
                    f"{once:.2f}",
                    str(row["scans"]),
                    f"{row['load']:.1f}",
                ]
            )
    names = ["scans", "workers of one thread", "scans/s", "times one worker", "of how many", "load before"]
    return _make_table("Workers", names, rows)


def _make_ledger_table(measured: list[dict[str, Any]]) -> str:
    names = [
        "scans stored before", "connections at work", "jobs/s", "scans/s", "CPU ms a job: server", "worker",
        "two cores carry, scans/s", "load before",
    ]  # fmt: skip
    rows = [
        [
            f"{row['stored']:,}", str(row["workers"]), f"{row['jobs_per_s']:.0f}", f"{row['scans_per_s']:,.0f}",
            f"{row['server_cpu_ms']:.1f}", f"{row['client_cpu_ms']:.1f}",
            f"{2 * JOB * 1e3 / (row['server_cpu_ms'] + row['client_cpu_ms']):,.0f}", f"{row['load']:.1f}",
        ]
        for row in measured
    ]  # fmt: skip
    return _make_table("The ledger alone, jobs of 64 scans without a pause", names, rows)


def _make_simulated_table(measured: list[dict[str, Any]]) -> str:
    names = [
        "simulated workers", "scans/s that they ask for", "scans/s done", "share", "a commit waits, median ms",
        "99 % below, ms", "load before",
    ]  # fmt: skip
    rows = [
        [
            f"{row['workers']:,}", f"{row['asked_per_s']:,.0f}", f"{row['scans_per_s']:,.0f}",
            f"{row['scans_per_s'] / row['asked_per_s']:.0%}", f"{row['late_ms']:.0f}", f"{row['late_p99_ms']:.0f}",
            f"{row['load']:.1f}",
        ]
        for row in measured
    ]  # fmt: skip
    think_s = measured[0]["think_s"] if measured else 0
    return _make_table(f"Simulated workers, {think_s:g} s for a job of 64 scans", names, rows)


def _make_size_table(measured: list[dict[str, Any]]) -> str:
    names = ["scans", *(f"`{table}`" for table in TABLES), "all, bytes a scan", "10^8 scans, GB", "10^9 scans, TB"]
    rows = []
    for row in measured:
        total = sum(row["bytes"].values())
        rows.append(
            [
                f"{row['scans']:,}", *(f"{row['bytes'][table]:.0f}" for table in TABLES), f"{total:.0f}",
                f"{total * 1e8 / 1e9:,.0f}", f"{total * 1e9 / 1e12:,.2f}",
            ]
        )  # fmt: skip
    return _make_table("Bytes of a scan, with indexes", names, rows)


if __name__ == "__main__":
    main()
