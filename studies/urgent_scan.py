"""One urgent scan behind a large night: when it has a message, when a worker claims it, when it is scored.

    uv run --group test python -m studies.urgent_scan --scans 100000 --workers 2

It starts a Redis and a PostgreSQL of its own. With `--to-the-end` it waits for the night, and plays it once more
without the urgent run, for the difference.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import Engine, select

from bench.servers import open_servers
from db.engine import make_engine, reading
from db.runs import find_run
from db.schema import upgrade
from db.tables import jobs, scans
from db.tallies import read_tallies
from nightread.settings import read_settings

_PROGRAM = (sys.executable, "-P", "-c", "from cli.main import run; run()")
_PER_FOLDER = 1_000
_POLL_S = 0.05
_WARM_SCANS = 64


def draw_night(folder: Path, count: int) -> Path:
    """Write `count` small scans: a thousand contents under many names."""
    chooser = np.random.default_rng(1)
    drawn: list[Path] = []
    for number in range(count):
        file = folder / f"{number // _PER_FOLDER:03}" / f"{number:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if number < _PER_FOLDER:
            Image.fromarray(chooser.integers(0, 255, (48, 48), np.uint8)).save(file, compress_level=1)
            drawn.append(file)
        else:
            file.hardlink_to(drawn[number % _PER_FOLDER])
    return folder


@contextlib.contextmanager
def run_workers(environment: dict[str, str], count: int, folder: Path) -> Iterator[None]:
    """Run workers of the real program."""
    with (folder / "workers.log").open("ab") as log:
        started = [
            subprocess.Popen(  # noqa: S603  # this very program
                [*_PROGRAM, "worker"], env=environment, cwd=folder, stdout=log, stderr=log
            )
            for _ in range(count)
        ]
        try:
            yield
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(120)


def enqueue(environment: dict[str, str], folder: Path, *options: str) -> str:
    """Enqueue a folder by the command line; returns the run's id."""
    done = subprocess.run(  # noqa: S603  # this very program
        [*_PROGRAM, "enqueue", str(folder), "--no-gate", *options],
        env=environment, cwd=folder.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def wait_until_ended(engine: Engine, run_id: str) -> float:
    """Return how long a run took, in seconds by the database's clock."""
    while True:
        with reading(engine) as connection:
            run = find_run(connection, run_id)
        if run.finished_at is not None:
            return (run.finished_at - run.created_at).total_seconds()
        time.sleep(1)


def time_urgent(environment: dict[str, str], engine: Engine, folder: Path) -> dict[str, float]:
    """Enqueue one urgent scan; returns the seconds since the command was given."""
    began = time.monotonic()
    run_id = enqueue(environment, draw_night(folder, 1), "--priority", "urgent")
    seconds = {"command ended": time.monotonic() - began}
    query = (
        select(jobs.c.published_at, jobs.c.attempts, scans.c.finished_at)
        .join(scans, scans.c.job_id == jobs.c.id)
        .where(jobs.c.run_id == run_id)
    )
    while "scored" not in seconds:
        with reading(engine) as connection:
            published_at, attempts, finished_at = connection.execute(query).one()
        for name, is_reached in (("message", published_at), ("claimed", attempts), ("scored", finished_at)):
            if is_reached:
                seconds.setdefault(name, time.monotonic() - began)
        time.sleep(_POLL_S)
    return seconds


def play(folder: Path, night: Path, workers: int, *, urgent: bool, to_the_end: bool) -> dict[str, Any]:
    """Play one night; returns what was measured."""
    found: dict[str, Any] = {}
    with open_servers(read_settings()) as servers, servers.make_database() as url:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTREAD_")} | {
            "NIGHTREAD_DATABASE_URL": url, "NIGHTREAD_BROKER_URL": servers.broker_url, "NIGHTREAD_THREADS": "1",
        }  # fmt: skip
        engine = make_engine(url)
        upgrade(engine)
        with run_workers(environment, workers, folder):
            run_id = enqueue(environment, night)
            while True:
                with reading(engine) as connection:
                    ended = read_tallies(connection, [run_id])[run_id].counts.terminal
                if ended > _WARM_SCANS:
                    break
                time.sleep(_POLL_S)
            if urgent:
                found |= {"ended before it": ended} | time_urgent(environment, engine, folder / "urgent")
            if to_the_end:
                found["night"] = wait_until_ended(engine, run_id)
        engine.dispose()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--to-the-end", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightread-urgent-") as name:
        folder = Path(name)
        night = draw_night(folder / "night", given.scans)
        found = play(folder, night, given.workers, urgent=True, to_the_end=given.to_the_end)
        for what, value in found.items():
            sys.stdout.write(f"{what}: {value:,.1f}\n")
        if given.to_the_end:
            alone = play(folder, night, given.workers, urgent=False, to_the_end=True)["night"]
            sys.stdout.write(f"night without it: {alone:,.1f}, {found['night'] / alone - 1:+.1%} with it\n")


if __name__ == "__main__":
    main()
