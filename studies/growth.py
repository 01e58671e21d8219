"""Measure time and memory for runs of 1,000 to 1,000,000 scans, on SQLite and PostgreSQL.

    uv run --group test python -m studies.growth --folder /tmp/growth --sizes 1000 10000 --into growth.jsonl
    uv run --group test python -m studies.growth --into growth.jsonl --table docs/growth.md

Scans are distinct PNG files of 32 x 32 pixels, 1,000 per folder; the network has one layer. Each size has a database of
its own on a server of its own. Workers score runs of up to --scored scans; larger ones are filled with random scores by
SQL. The program is timed as a subprocess.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from db.due_jobs import count_leases, take_due_jobs
from db.engine import make_engine, read_clock, reading, write
from db.results import ResultFilter
from db.runs import close_finished_runs, find_run, list_runs
from db.schema import upgrade
from db.tables import jobs
from db.tallies import read_tallies
from db.types import UtcDateTime
from db.worklist import read_page
from db.worklist_request import Position
from nightread.machine import end_in_order
from nightread.scan.walk import Walk, find_scans
from studies.growth_nights import draw_night, fill_run, tidy
from studies.page_part import write_part
from tests.onnx_factories import write_tiny_bundle
from tests.services import run_postgres, run_redis

_PROGRAM = Path(sys.executable).with_name("nightread")
_JOB = 64
_EARLY, _LATE = 10_000, 100_000


def main() -> None:
    """Measure and append to a JSON Lines file, or write the table of such a file into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="JSON Lines file, one line per database and size")
    parser.add_argument("--folder", type=Path, help="folder of the scans; missing ones are drawn")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--scored", type=int, default=100_000, help="size of the largest run that workers score")
    parser.add_argument("--workers", type=int, default=1, help="number of worker processes")
    parser.add_argument("--embedded", action="store_true", help="measure `score` only: one process for all scans")
    parser.add_argument("--draw", action="store_true", help="draw the scans without measuring")
    parser.add_argument("--table", type=Path, help="write the table of --into into this page without measuring")
    arguments = parser.parse_args()
    if arguments.table:
        write_table(arguments.into, arguments.table)
        return
    if arguments.folder is None:
        parser.error("name a --folder for the scans")
    for size in sorted(arguments.sizes):
        night = draw_night(arguments.folder, size)
        for database in [] if arguments.draw else arguments.databases:
            warm(night)
            measured = {"database": database, "scans": size, "load": round(os.getloadavg()[0], 1)}
            with make_site(database, arguments.folder) as site:
                measured |= measure_score(site, night) if arguments.embedded else measure_night(site, night, arguments)
            with arguments.into.open("a") as file:
                file.write(json.dumps(measured) + "\n")
            print(json.dumps(measured), flush=True)


def warm(night: Path) -> None:
    """Read all files into the page cache, so that Nightread is measured and not the disk."""
    for scan in find_scans([night.resolve()], Walk(), roots=[night.resolve()]):
        Path(scan.path).read_bytes()


class Site:
    """Database, broker and environment of one measurement."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        write_tiny_bundle(folder / "models")
        self.folder = folder
        self.engine: Engine = make_engine(database_url)
        upgrade(self.engine)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTREAD_")} | {
            "NIGHTREAD_DATABASE_URL": database_url, "NIGHTREAD_BROKER_URL": broker_url, "NIGHTREAD_MODEL": "tiny@1",
            "NIGHTREAD_MODELS_DIR": str(folder / "models"), "NIGHTREAD_DEVICE": "cpu", "NIGHTREAD_THREADS": "1",
            "XDG_DATA_HOME": str(folder), "COLUMNS": "200",
        }  # fmt: skip

    def start(self, *arguments: str, output: Any, talk: Any = None) -> subprocess.Popen[bytes]:
        """Start the program; `output` receives its stdout, `talk` its stderr."""
        return subprocess.Popen(  # noqa: S603  # the measured program
            [_PROGRAM, *arguments], env=self.environment, cwd=self.folder, stdout=output, stderr=talk
        )

    def run(self, *arguments: str) -> "Done":
        """Run the program to its end."""
        started, before, peak_mb = time.perf_counter(), os.times(), 0.0
        with (self.folder / "output").open("w+b") as output:
            process = self.start(*arguments, output=output)
            # Polled, since the kernel's final figure includes the memory of this process at the fork.
            while process.poll() is None:
                peak_mb = max(peak_mb, read_peak_mb(process.pid))
                time.sleep(0.01)
            seconds = time.perf_counter() - started
            if process.returncode:
                raise RuntimeError(f"nightread {arguments} ended with {process.returncode}")
            after = os.times()
            cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
            output.seek(0)
            return Done(output.read().decode(), seconds, cpu_s, peak_mb)


@dataclass(frozen=True, slots=True)
class Done:
    """Output, time, CPU time and peak memory in MB of a finished command."""

    said: str
    seconds: float
    cpu_s: float
    peak_mb: float

    def describe(self, name: str) -> dict[str, float]:
        """Return its figures, with names that begin with the command's."""
        return {f"{name}_s": self.seconds, f"{name}_cpu_s": self.cpu_s, f"{name}_mb": self.peak_mb}


@contextlib.contextmanager
def make_site(database: str, folder: Path) -> Iterator[Site]:
    """Start servers with default settings, including durable commits; everything is deleted afterwards."""
    end_in_order()
    with contextlib.ExitStack() as stack:
        own = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        redis = stack.enter_context(run_redis(own))
        url = stack.enter_context(run_postgres()) if database == "postgresql" else f"sqlite:///{own / 'nightread.db'}"
        site = Site(own, url, redis.url)
        stack.callback(site.engine.dispose)
        yield site


def measure_night(site: Site, night: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the commands of a run in their usual order."""
    enqueued = site.run("enqueue", str(night), "--json")
    run_id, size = (json.loads(enqueued.said)[name] for name in ("run", "found"))
    measured: dict[str, Any] = enqueued.describe("enqueue")
    measured["sweep_ms"] = measure_ms(lambda: sweep_and_forget(site.engine))
    if size <= arguments.scored:
        measured |= measure_workers(site, run_id, size, arguments.workers)
    else:
        write(site.engine, lambda connection: fill_run(connection, run_id))
    tidy(site.engine)
    return measured | measure_looking(site, run_id, size)


def measure_workers(site: Site, run_id: str, size: int, processes: int) -> dict[str, Any]:
    """Score a run with a worker, and sample its memory."""
    with (site.folder / "worker.log").open("wb") as log:
        worker = site.start("worker", f"--concurrency={processes}", output=log, talk=log)
        try:
            samples = follow(site.engine, run_id, size, worker)
        finally:
            worker.terminate()
            worker.wait()
    with reading(site.engine) as connection:
        ends = (of(jobs.c.finished_at, type_=UtcDateTime()) for of in (func.min, func.max))
        first, last = connection.execute(select(*ends).where(jobs.c.run_id == run_id)).one()
    # From the end of the first job, which excludes the start of the worker.
    score_s = (last - first).total_seconds() * size / (size - _JOB)
    return {"score_s": score_s, "workers": processes, **describe_memory(samples, "worker")}


def measure_score(site: Site, night: Path) -> dict[str, Any]:
    """Score a run in one process that is never replaced, and sample its memory."""
    process = site.start("score", str(night), "--json", output=subprocess.DEVNULL, talk=subprocess.DEVNULL)
    run = None
    while run is None:
        if process.poll() is not None:
            raise RuntimeError("`score` has ended without a run")
        time.sleep(0.2)
        with reading(site.engine) as connection:
            run = next(iter(list_runs(connection, 1)), None)
    samples = follow(site.engine, run.id, run.found, process)
    process.wait()
    return {"embedded_s": samples[-1][0] - samples[0][0], **describe_memory(samples, "score")}


def follow(
    engine: Engine, run_id: str, size: int, *processes: subprocess.Popen[bytes]
) -> list[tuple[float, int, float]]:
    """Return samples (seconds, scans done, MB of processes and their children), two per second until the run ends."""
    samples: list[tuple[float, int, float]] = []
    while not samples or samples[-1][1] < size:
        if any(process.poll() is not None for process in processes):
            raise RuntimeError(f"a process has ended before its run: {[one.returncode for one in processes]}")
        time.sleep(0.5)
        with reading(engine) as connection:
            counts = read_tallies(connection, [run_id])[run_id].counts
        if counts.terminal > counts.scored:  # nothing of a scan that is refused is measured
            raise RuntimeError(f"{counts.terminal - counts.scored} scans were not scored")
        memory_mb = sum(read_memory_mb(process.pid) for process in processes)
        samples.append((time.perf_counter(), counts.scored, memory_mb))
    return samples


def describe_memory(samples: list[tuple[float, int, float]], name: str) -> dict[str, float]:
    """Return the memory after `_EARLY` and `_LATE` scans, as means of the samples around them."""
    described = {}
    for count in (_EARLY, _LATE):
        around = [mb for _, done, mb in samples if 0.9 * count <= done <= 1.1 * count]
        if around and samples[-1][1] >= count:
            described[f"{name}_mb_after_{count}"] = statistics.mean(around)
    return described


def read_memory_mb(pid: int) -> float:
    """Return the resident memory of a process and its children (Linux only)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0  # it has just ended
    return resident + sum(read_memory_mb(int(child)) for child in children)


def read_peak_mb(pid: int) -> float:
    """Return the peak resident memory of a process (Linux only)."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6
    return 0.0  # it has just ended


def measure_looking(site: Site, run_id: str, size: int) -> dict[str, Any]:
    """Measure the queries and exports of a finished run."""
    out = site.folder / "results.csv"
    handed_out = site.run("results", run_id, "--format", "csv", "--out", str(out))
    with out.open("rb") as file:
        lines = sum(1 for _ in file)
    if lines != size + 1:
        raise RuntimeError(f"the CSV has {lines} lines; expected are {size + 1}")
    looked = site.run("status", run_id, "--json")

    def look(connection: Connection) -> None:
        find_run(connection, run_id)
        read_tallies(connection, [run_id])
        count_leases(connection, run_id)
        read_clock(connection)

    middle = Position(0.5, 0, "pneumonia")  # scores lie on both sides of it

    def turn_page(connection: Connection, place: Position | None) -> None:
        tally = read_tallies(connection, [run_id])[run_id]
        if len(read_page(connection, ResultFilter(run_id), 50, place, tally).rows) != 50:
            raise RuntimeError("a page without its rows")

    return {
        **handed_out.describe("results"), "results_mb_of_csv": out.stat().st_size / 1e6, **looked.describe("status"),
        "status_ms": measure_ms(lambda: read(site.engine, look)),
        "first_page_ms": measure_ms(lambda: read(site.engine, lambda connection: turn_page(connection, None))),
        "middle_page_ms": measure_ms(lambda: read(site.engine, lambda connection: turn_page(connection, middle))),
    }  # fmt: skip


def read(engine: Engine, work: Callable[[Connection], None]) -> None:
    """Do something in a read-only transaction."""
    with reading(engine) as connection:
        work(connection)


def sweep_and_forget(engine: Engine) -> None:
    """Do in the database what a sweep does there, and take it back."""
    with engine.connect() as connection, connection.begin() as transaction:
        close_finished_runs(connection)
        take_due_jobs(connection, 64, 60.0)
        transaction.rollback()


def measure_ms(call: Callable[[], None]) -> float:
    """Return the median of the milliseconds that a call takes."""
    times = []
    for _ in range(21):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def write_table(source: Path, page: Path) -> None:
    """Put the tables of what was measured between their marks in a page."""
    measured = merge_repeats([json.loads(line) for line in source.read_text().splitlines()])
    write_part(page, "studies/growth.py", make_tables(measured))


def merge_repeats(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge repeated measurements into one row of medians with their number as `n`."""
    repeats: dict[tuple[str, int, bool], list[dict[str, Any]]] = {}
    for row in measured:
        repeats.setdefault((row["database"], row["scans"], "embedded_s" in row), []).append(row)
    return [
        {
            name: value if isinstance(value, str) else statistics.median(row[name] for row in rows if name in row)
            for name, value in rows[0].items()
        }
        | {"n": len(rows)}
        for rows in repeats.values()
    ]


def make_tables(measured: list[dict[str, Any]]) -> str:
    """Return Markdown: a table for each database, then one of the memory of processes."""
    parts = []
    for database in dict.fromkeys(row["database"] for row in measured):
        nights = sorted(
            (row for row in measured if row["database"] == database and "enqueue_s" in row),
            key=lambda row: int(row["scans"]),
        )
        if nights:
            parts.append(make_table(database, [describe_night(night) for night in nights]))
    memory = [row for row in measured if any("mb_after" in name for name in row)]
    if memory:
        parts.append(make_table("memory of a process, MB", [describe_process(row) for row in memory]))
    return "\n".join(parts)


def make_table(title: str, rows: list[dict[str, str]]) -> str:
    """Return a Markdown table with the columns of its first row."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return f"\n**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def describe_night(night: dict[str, Any]) -> dict[str, str]:
    """Return one row of a database's table."""
    size = int(night["scans"])
    scored = f"{night['score_s']:.1f} ({size / night['score_s']:,.0f} /s)" if "score_s" in night else "filled by SQL"
    return {
        "scans": f"{size:,}",
        "`enqueue`, s": f"{night['enqueue_s']:.1f}",
        "its CPU s": f"{night['enqueue_cpu_s']:.1f}",
        "its MB": f"{night['enqueue_mb']:.0f}",
        "sweep, ms": f"{night['sweep_ms']:.1f}",
        "scored, s": scored,
        "`results`, s": f"{night['results_s']:.1f} ({size / night['results_s']:,.0f} rows/s)",
        "its CPU s ": f"{night['results_cpu_s']:.1f}",
        "its MB ": f"{night['results_mb']:.0f}",
        "`status`: query, ms": f"{night['status_ms']:.1f}",
        "command, s": f"{night['status_s']:.2f}",
        "first page, ms": f"{night['first_page_ms']:.1f}",
        "a middle page, ms": f"{night['middle_page_ms']:.1f}",
        "load": f"{night['load']:.1f}",
        "n": str(night["n"]),
    }


def describe_process(row: dict[str, Any]) -> dict[str, str]:
    """Return one row of the memory table: after few scans, after many, and the increase."""
    name = "score" if f"score_mb_after_{_EARLY}" in row else "worker"
    early, late = row.get(f"{name}_mb_after_{_EARLY}"), row.get(f"{name}_mb_after_{_LATE}")
    return {
        "process": f"`{name}`",
        "database": row["database"],
        "scans": f"{int(row['scans']):,}",
        f"after {_EARLY:,}": "" if early is None else f"{early:.1f}",
        f"after {_LATE:,}": "" if late is None else f"{late:.1f}",
        "more": "" if early is None or late is None else f"{100 * (late / early - 1):+.1f} %",
        "load": f"{row['load']:.1f}",
        "n": str(row["n"]),
    }


if __name__ == "__main__":
    main()
