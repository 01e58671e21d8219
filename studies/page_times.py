"""Measure how long pages of a run of a million scans take over HTTP, on SQLite and PostgreSQL, and cold thumbnails.

    uv run --group test python -m studies.page_times --folder /tmp --into pages.jsonl
    uv run --group test python -m studies.page_times --into pages.jsonl --table docs/growth.md

The run is filled by SQL: 5 % of its scans are rejected, the others have random scores, devices and views; 20,000 have a
mark. The page is the program `nightread web`, asked over one connection.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from PIL import Image
from sqlalchemy import Connection, insert, text

from db.engine import write
from db.page_tables import marks
from db.runs import NewRun, NewScan, create_run
from db.tables import scans
from db.types import MarkKind, ScanStatus, database_now
from nightread.model.bundle import find_bundle, load_bundle
from nightread.scan.drawn_chest import draw_chest
from studies.growth import Site, make_site, make_table
from studies.growth_nights import fill_run, tidy
from studies.page_part import write_part
from worker.registry.choose import describe_model

_WARD: Final = 1_000
_MARKS: Final = 20_000
_REPEATS: Final = 7
_SOURCE: Final = "/scans"
_REASONS: Final = ("damaged", "not-a-chest-xray", "blank")
#: Scans of a page whose thumbnails are drawn, and the connections of a browser to one host.
_THUMBNAILS, _CONNECTIONS = 50, 6
#: Height, width and suffix of scans: those that `nightread bench` draws, and files that cannot be decoded at a scale.
_KINDS: Final = {"JPEG, 848 x 1,268 pixels": (848, 1268, "jpg"), "PNG, 2,048 x 2,500 pixels": (2048, 2500, "png")}
_QUALITY: Final = 92

#: Requests by what they show; {run} is the id of the run, {middle} that of a scan in its middle.
_PAGES: Final = {
    "list of runs": "/",
    "first page": "/runs/{run}",
    "middle of it": "/runs/{run}?after=0.5:0:pneumonia&place=500000",
    "its end": "/runs/{run}?after=:{middle}:&place=980000",
    "lowest score first": "/runs/{run}?order=lowest",
    "as found, middle": "/runs/{run}?order=found&after=:{middle}:&place=500000",
    "as found, one decision": "/runs/{run}?order=found&decision=uncertain",
    "one decision": "/runs/{run}?decision=uncertain",
    "score from 0.5": "/runs/{run}?min_score=0.5",
    "one reason": "/runs/{run}?reason=blank",
    "one reason, its middle": "/runs/{run}?reason=blank&after=:{middle}:&place=8000",
    "unreviewed": "/runs/{run}?review=unreviewed",
    "reviewed": "/runs/{run}?review=reviewed",
    "disagreed, one decision": "/runs/{run}?review=disagree&decision=pneumonia",
    "search, many found": "/runs/{run}?text=scan-00",
    "search, none found": "/runs/{run}?text=nobody",
    "one folder of a thousand": "/runs/{run}?folder=/scans/ward-0990",
    "one station of forty": "/runs/{run}?station=ROOM7",
    "one view, middle": "/runs/{run}?view=AP&after=0.5:0:pneumonia&place=100000",
    "next unreviewed": "/runs/{run}/next",
    "a random one": "/runs/{run}/next?pick=random",
    "one scan": "/scans/{middle}",
    "without a score": "/runs/{run}/failures",
    "workers and queue": "/queue",
    "models": "/models",
    "API: results": "/api/v1/runs/{run}/results?limit=50",
    "API: studies": "/api/v1/studies?limit=50",
}


class ManyScans:
    """A million scans without a list of them, every twentieth rejected as it is listed."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __iter__(self) -> Iterator[NewScan]:
        for number in range(self._size):
            path = f"{_SOURCE}/ward-{number // _WARD:04}/scan-{number:07}.dcm"
            if number % 20:
                yield NewScan(path, 1_000)
            else:
                reason = _REASONS[number // 20 % len(_REASONS)]
                yield NewScan(path, 1_000, ScanStatus.REJECTED, reason, "drawn for this study")


def main() -> None:
    """Measure and append to a JSON Lines file, or write the table of such a file into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="JSON Lines file, one line per database")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where databases and scans lie")  # noqa: S108
    parser.add_argument("--size", type=int, default=1_000_000, help="scans of the run")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--table", type=Path, help="write the table of --into into this page without measuring")
    arguments = parser.parse_args()
    if arguments.table:
        measured = [json.loads(line) for line in arguments.into.read_text().splitlines()]
        write_part(arguments.table, "studies/page_times.py", make_tables(measured))
        return
    for database in arguments.databases:
        with make_site(database, arguments.folder) as site:
            run_id, middle = fill(site, arguments.size)
            found = {"database": database, "scans": arguments.size, "load": round(os.getloadavg()[0], 1)}
            with serve(site) as port:
                found |= {"pages": measure_pages(port, run_id, middle), "thumbnails": measure_thumbnails(site, port)}
        with arguments.into.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)


def fill(site: Site, size: int) -> tuple[str, int]:
    """Make the run and its marks; returns its id and that of a scan in its middle."""
    model = describe_model(load_bundle(find_bundle("tiny@1", site.folder / "models")))
    new = NewRun("million", model, [_SOURCE], {}, embedded=False, skipped={}, job_size=64)
    is_postgresql = site.engine.dialect.name == "postgresql"
    also = (
        ", study_uid = '1.2.' || (id / 2), manufacturer = CASE id % 3 WHEN 0 THEN 'ACME' ELSE 'Other' END"
        ", station = 'ROOM' || (id % 40), view_position = CASE id % 4 WHEN 0 THEN 'AP' ELSE 'PA' END"
    )

    def work(connection: Connection) -> tuple[str, int]:
        if is_postgresql:
            for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
                connection.execute(text(f"SET LOCAL {limit} = 0"))
        run_id = create_run(connection, new, ManyScans(size))
        fill_run(connection, run_id, also=also)
        middle = connection.execute(scans.select().where(scans.c.run_id == run_id).limit(1)).one().id + size // 2 + 1
        add_marks(connection, run_id, model.digest, size)
        return run_id, middle

    run_id, middle = write(site.engine, work)
    tidy(site.engine)
    return run_id, middle


def add_marks(connection: Connection, run_id: str, digest: str, size: int) -> None:
    """Mark every fiftieth scan, a tenth of them with disagreement."""
    first = connection.execute(scans.select().where(scans.c.run_id == run_id).limit(1)).one().id
    step = max(2, size // _MARKS)
    rows = [
        {
            "run_id": run_id, "scan_id": scan_id, "model_digest": digest, "user_name": "ana",
            "kind": MarkKind.DISAGREE if place % 10 == 0 else MarkKind.AGREE, "label": "normal",
        }
        for place, scan_id in enumerate(range(first + 1, first + size, step))
    ]  # fmt: skip
    connection.execute(insert(marks).values(at=database_now()), rows)


@contextmanager
def serve(site: Site) -> Iterator[int]:
    """Run the program's page over the database; yields its port."""
    site.environment["NIGHTREAD_WEB_CACHE_DIR"] = str(site.folder / "thumbnails")
    with (site.folder / "web.log").open("w+b") as log:
        process = site.start("web", "--listen", "127.0.0.1:0", output=log, talk=log)
        try:
            while not (found := re.search(rb"127\.0\.0\.1:(\d+)", (site.folder / "web.log").read_bytes())):
                if process.poll() is not None:
                    raise RuntimeError("the page did not start")
                time.sleep(0.05)
            yield int(found[1])
        finally:
            process.terminate()
            process.wait()


def measure_pages(port: int, run_id: str, middle: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each page, when it is asked for the first time, and the median of some times after."""
    measured = {}
    ask(port, "/")  # the first request checks the schema and compiles the templates
    for name, address in _PAGES.items():
        times = [ask(port, address.format(run=run_id, middle=middle)) for _ in range(_REPEATS)]
        measured[name] = {"first_ms": times[0], "ms": statistics.median(times[1:])}
    return measured


def ask(port: int, address: str) -> float:
    """Return the milliseconds of a request until its last byte."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    started = time.perf_counter()
    connection.request("GET", address)
    answer = connection.getresponse()
    answer.read()
    took = (time.perf_counter() - started) * 1e3
    connection.close()
    if answer.status >= 400:
        raise RuntimeError(f"{address} was answered with {answer.status}")
    return took


def measure_thumbnails(site: Site, port: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a page's thumbnails by kind of file: drawn, and then kept, as a browser asks."""
    return {name: _measure_kind(site, port, *kind) for name, kind in _KINDS.items()}


def _measure_kind(site: Site, port: int, height: int, width: int, suffix: str) -> dict[str, float]:
    folder = site.folder / suffix
    folder.mkdir()
    for number in range(_THUMBNAILS):
        Image.fromarray(draw_chest(number, height, width)).save(folder / f"{number:02}.{suffix}", quality=_QUALITY)
    site.run("score", str(folder), "--name", suffix)
    page = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    page.request("GET", f"/runs/{suffix}")
    links = re.findall(r'src="(/scans/\d+/thumbnail.webp)"', page.getresponse().read().decode())
    page.close()
    measured = {}
    for state in ("cold_ms", "kept_ms"):
        started = time.perf_counter()
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            list(pool.map(lambda link: ask(port, link), links))
        measured[state] = (time.perf_counter() - started) * 1e3
    return measured | {"thumbnails": len(links)}


def make_tables(measured: list[dict[str, Any]]) -> str:
    """Return Markdown: the pages of both databases side by side, and the thumbnails."""
    by_database = {found["database"]: found for found in measured}
    rows = []
    for name, address in _PAGES.items():
        row = {"page": name, "address": f"`{address.format(run='RUN', middle='N')}`"}
        for database, found in by_database.items():
            times = found["pages"][name]
            row |= {f"{database}, first, ms": f"{times['first_ms']:.0f}", f"{database}, ms": f"{times['ms']:.0f}"}
        rows.append(row)
    drawn = [
        {
            "database": database, "files": kind, "thumbnails": f"{took['thumbnails']:.0f}",
            "drawn, ms": f"{took['cold_ms']:.0f}", "kept, ms": f"{took['kept_ms']:.0f}", "load": f"{found['load']:.1f}",
        }
        for database, found in by_database.items()
        for kind, took in found["thumbnails"].items()
    ]  # fmt: skip
    size = next(iter(by_database.values()))["scans"]
    return make_table(f"pages of a run of {size:,} scans", rows) + make_table("thumbnails of one page", drawn)


if __name__ == "__main__":
    main()
