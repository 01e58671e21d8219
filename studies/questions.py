"""Measure the questions that people ask of the ledger over many nights, on SQLite and PostgreSQL.

    uv run --group test python -m studies.questions --folder /tmp/questions --nights 100 --into questions.jsonl
    uv run --group test python -m studies.questions --into questions.jsonl --table docs/queries.md

Each night has 20,000 scans in eight wards, which SQL fills with random contents and scores; a hundred nights take
3 GB and two minutes of a core, five hundred 17 GB and eleven. Servers have their default settings, the session those of
`docs/reader.sql`.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

from db.dialects import allow_slow_statement
from db.engine import make_engine, reading, write
from db.folder_counts import count_folders, find_uncounted
from db.schema import upgrade
from nightread.machine import end_in_order
from studies.growth_nights import tidy
from studies.page_part import write_part
from tests.db_factories import add_run
from tests.services import run_postgres

_SCANS = 20_000
_NEWEST = datetime(2026, 11, 28, 2, tzinfo=UTC)
_REPEATS = 5

#: Each question with its statement, or one for each database; the second number is the limit in seconds.
QUESTIONS: dict[str, tuple[float, str] | tuple[float, str, str]] = {
    "last night's scores of 0.9 and more": (
        0.1,
        (
            "SELECT path, score FROM results WHERE time >= '2026-11-28' AND label = 'pneumonia' AND score >= 0.9 "
            "ORDER BY score DESC"
        ),
    ),
    "positives of a run by its name, the first 50": (
        0.1,
        (
            "SELECT path, score FROM results WHERE run = '2026-11-28' AND decision = 'pneumonia' "
            "ORDER BY score DESC LIMIT 50"
        ),
    ),
    "one file": (
        0.1,
        "SELECT run, score, decision, time FROM results WHERE path = '/scans/2026-11-20/ward-3/IM-000002.dcm'",
    ),
    "one folder": (0.1, "SELECT count(*) FROM results WHERE path LIKE '/scans/2026-11-20/ward-3/%'"),
    "failures of a week, by reason": (
        0.1,
        "SELECT reason, count(*) FROM results WHERE status = 'failed' AND time >= '2026-11-21' GROUP BY 1",
    ),
    "one content": (
        0.1,
        "SELECT run, path, score FROM results WHERE sha256 = (SELECT sha256 FROM scans WHERE id = 1000)",
    ),
    "one study": (0.1, "SELECT run, path, score FROM results WHERE study = '1.2.3.4'"),
    "the 20 newest rows": (0.1, "SELECT path, score, time FROM results ORDER BY time DESC LIMIT 20"),
    "the latest of one file": (
        0.1,
        "SELECT run, score FROM latest_results WHERE path = '/scans/2026-11-20/ward-3/IM-000002.dcm'",
    ),
    "all nights, counts and rates": (0.1, "SELECT * FROM nights ORDER BY created DESC"),
    "scores of 0.95 and more, ever": (2.0, "SELECT count(*) FROM results WHERE score >= 0.95"),
    "decisions by ward and month, of `folders`": (
        2.0,
        (
            "SELECT substr(day, 1, 7) AS month, split_part(folder, '/', 4) AS ward, decision, sum(scans) FROM folders "
            "GROUP BY 1, 2, 3"
        ),
        (
            "SELECT substr(day, 1, 7) AS month, substr(folder, 19) AS ward, decision, sum(scans) FROM folders "
            "GROUP BY 1, 2, 3"
        ),
    ),
    "the same of `results`, scan by scan": (
        60.0,
        (
            "SELECT to_char(time, 'YYYY-MM') AS month, split_part(path, '/', 4) AS ward, decision, count(*) "
            "FROM results WHERE status = 'scored' GROUP BY 1, 2, 3"
        ),
        (
            "SELECT substr(time, 1, 7) AS month, substr(path, 19, 6) AS ward, decision, count(*) "
            "FROM results WHERE status = 'scored' GROUP BY 1, 2, 3"
        ),
    ),
}

_FILL = (
    (
        "INSERT INTO scans (run_id, job_id, path, size_bytes, sha256, status, reason_code, reason_text, attempts, "
        "reused, created_at, finished_at) SELECT :run, jobs.id, '/scans/' || :day || '/ward-' || (i % 8 + 1) || "
        "'/IM-' || {number} || '.dcm', 150000, {digest}, "
        "CASE WHEN i % 100 = 0 THEN 'rejected' WHEN i % 1000 = 1 THEN 'failed' ELSE 'scored' END, "
        "CASE WHEN i % 100 = 0 THEN 'damaged' WHEN i % 1000 = 1 THEN 'storage-error' END, "
        "CASE WHEN i % 100 = 0 THEN 'cut short' WHEN i % 1000 = 1 THEN 'reading failed' END, 1, false, :at, {ended} "
        "FROM numbers JOIN jobs ON jobs.run_id = :run AND jobs.lease_token = i / 64"
    ),
    (
        "INSERT INTO predictions (sha256, model_digest, preprocessing, label, score, decision, runtime, provider, "
        "device, batch_size, worker, created_at) SELECT sha256, digest, preprocessing, 'pneumonia', score, "
        "CASE WHEN score >= 0.75 THEN 'pneumonia' WHEN score < 0.35 THEN 'normal' ELSE 'uncertain' END, "
        "'onnxruntime', 'CPUExecutionProvider', 'cpu', 8, 'study', finished_at FROM ("
        "SELECT scans.sha256, models.digest, models.preprocessing, scans.finished_at, {score} AS score FROM scans "
        "JOIN runs ON runs.id = scans.run_id JOIN models ON models.digest = runs.model_digest "
        "WHERE scans.run_id = :run AND scans.status = 'scored' {fixed}) AS drawn"
    ),
    (
        "INSERT INTO worklist_rows (run_id, label, decision, minus_score, scan_id) SELECT scans.run_id, label, "
        "decision, -score, scans.id FROM scans JOIN predictions ON predictions.sha256 = scans.sha256 "
        "WHERE scans.run_id = :run AND status = 'scored'"
    ),
    (
        "INSERT INTO tallies (run_id, slot, kind, name, count, changed_at) "
        "SELECT run_id, 1, status, coalesce(reason_code, ''), count(*), max(finished_at) FROM scans "
        "WHERE run_id = :run GROUP BY run_id, status, reason_code"
    ),
    *(
        (
            "INSERT INTO tallies (run_id, slot, kind, name, count, changed_at) "  # noqa: S608  # our own names
            f"SELECT run_id, 1, '{kind}', {name}, count(*), :at FROM worklist_rows WHERE run_id = :run "
            "GROUP BY run_id, 4"
        )
        for kind, name in (("label", "label"), ("decision", "decision"), ("provider", "'CPUExecutionProvider'"))
    ),
    "UPDATE tallies SET count = :size WHERE run_id = :run AND kind = 'found'",
    "UPDATE runs SET status = 'finished', found = :size, created_at = :at, finished_at = :end WHERE id = :run",
    "UPDATE jobs SET lease_token = 1, status = 'done', created_at = :at, finished_at = :end WHERE run_id = :run",
)
_WORDS = {
    "postgresql": {
        "number": "lpad(CAST(i AS TEXT), 6, '0')", "digest": "md5(random()::text) || md5(random()::text)",
        "ended": "CAST(:at AS TIMESTAMPTZ) + i * interval '0.06 s'", "score": "power(random(), 2.5)",
        "fixed": "OFFSET 0",
    },
    "sqlite": {
        "number": "printf('%06d', i)", "digest": "lower(hex(randomblob(32)))",
        "ended": "strftime('%Y-%m-%d %H:%M:%f000', :at, (i * 0.06) || ' seconds')",
        "score": "power(abs(random() % 1000000007) / 1000000007.0, 2.5)", "fixed": "LIMIT -1",
    },
}  # fmt: skip


def fill(engine: Engine, nights: int) -> None:
    """Fill a database with nights of scored scans, the newest of 2026-11-28, and count them by folder."""
    for number in range(nights - 1, -1, -1):
        at = _NEWEST - timedelta(days=number)
        run_id = add_run(engine, 0, name=f"{at:%Y-%m-%d}")
        write(engine, lambda connection, at=at, run_id=run_id: _fill_night(connection, run_id, at))
    tidy(engine)
    while True:
        with reading(engine) as connection:
            uncounted = find_uncounted(connection, 10)
        if not uncounted:
            return
        for run_id in uncounted:
            count_folders(engine, run_id)


def _fill_night(connection: Connection, run_id: str, at: datetime) -> None:
    allow_slow_statement(connection)
    dialect = connection.dialect.name
    connection.exec_driver_sql("CREATE TEMPORARY TABLE IF NOT EXISTS numbers (i INTEGER)")
    if not connection.exec_driver_sql("SELECT count(*) FROM numbers").scalar():
        connection.execute(text("INSERT INTO numbers VALUES (:i)"), [{"i": i} for i in range(_SCANS)])
    jobs = [{"id": os.urandom(16).hex(), "run": run_id, "place": place} for place in range(-(-_SCANS // 64))]
    connection.execute(
        text(
            "INSERT INTO jobs (id, run_id, status, attempts, crashes, lease_token, created_at) "
            "VALUES (:id, :run, 'queued', 1, 0, :place, '2026-11-28')"
        ),
        jobs,
    )
    ended = at + timedelta(minutes=25)
    given: dict[str, Any] = {"run": run_id, "day": f"{at:%Y-%m-%d}", "at": at, "end": ended, "size": _SCANS}
    if dialect == "sqlite":
        given |= {name: f"{given[name]:%Y-%m-%d %H:%M:%S.%f}" for name in ("at", "end")}
    for statement in _FILL:
        connection.execute(text(statement.format(**_WORDS[dialect])), given)


@contextlib.contextmanager
def make_database(dialect: str, folder: Path) -> Iterator[Engine]:
    """Yield an empty database that is deleted afterwards."""
    end_in_order()
    with contextlib.ExitStack() as stack:
        own = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        url = stack.enter_context(run_postgres()) if dialect == "postgresql" else f"sqlite:///{own / 'nightread.db'}"
        engine = make_engine(url)
        stack.callback(engine.dispose)
        upgrade(engine)
        yield engine


def ask(engine: Engine) -> Iterator[tuple[str, float]]:
    """Yield each question and the median of its seconds, after it was asked once."""
    place = 1 if engine.dialect.name == "postgresql" else -1
    with reading(engine) as connection:
        allow_slow_statement(connection)
        if engine.dialect.name == "postgresql":
            for setting in ("random_page_cost = 1.1", "jit = off"):
                connection.exec_driver_sql(f"SET LOCAL {setting}")
        for name, (limit_s, *statements) in QUESTIONS.items():
            times = []
            for _ in range(_REPEATS if limit_s < 1 else 2):
                started = time.perf_counter()
                connection.execute(text(statements[0 if place == 1 else -1])).all()
                times.append(time.perf_counter() - started)
            yield name, statistics.median(times[1:])


def main() -> None:
    """Measure and append to a JSON Lines file, or write the table of such a file into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="JSON Lines file, one line per question")
    parser.add_argument("--folder", type=Path, help="for the SQLite file")
    parser.add_argument("--nights", type=int, default=100, help="of 20,000 scans each")
    parser.add_argument("--databases", nargs="+", default=["postgresql", "sqlite"])
    parser.add_argument("--table", type=Path, help="write the table of --into into this page without measuring")
    arguments = parser.parse_args()
    if arguments.table:
        write_part(arguments.table, "studies/questions.py", make_table(arguments.into))
        return
    if arguments.folder is None:
        parser.error("name a --folder")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for dialect in arguments.databases:
        with make_database(dialect, arguments.folder) as engine:
            began = time.perf_counter()
            fill(engine, arguments.nights)
            print(f"{dialect}: filled in {time.perf_counter() - began:.0f} s", flush=True)
            for name, seconds in ask(engine):
                line = {
                    "database": dialect, "rows": arguments.nights * _SCANS, "question": name, "s": seconds,
                    "load": round(os.getloadavg()[0], 1),
                }  # fmt: skip
                print(json.dumps(line), flush=True)
                with arguments.into.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def make_table(source: Path) -> str:
    """Return Markdown: a line for each question, a column for each database and size."""
    measured = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    columns = list(dict.fromkeys((line["rows"], line["database"]) for line in measured))
    times = {(line["rows"], line["database"], line["question"]): line["s"] for line in measured}
    heads = [f"{database}, {rows:,} rows" for rows, database in columns]
    lines = [f"| question | limit | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for name, (limit_s, *_) in QUESTIONS.items():
        told = [_show(times.get((*column, name))) for column in columns]
        limit = _show(limit_s) if limit_s < 10 else "none"
        lines.append(f"| {name} | {limit} | {' | '.join(told)} |")
    return "\n" + "\n".join(lines) + "\n"


def _show(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else "<10 ms"


if __name__ == "__main__":
    main()
