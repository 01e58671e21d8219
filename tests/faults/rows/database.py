"""Rows 13b, 14b and 16 to 19: faults of the database, and of the network to it."""

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from typing import Any

import psutil
import psycopg
import sqlalchemy as sa

from cli.exits import Exit
from db.engine import make_engine, reading
from db.runs import find_run
from db.types import ScanStatus
from nightread.errors import DatabaseUnavailable
from tests.faults.case import Case
from tests.faults.checker import Evidence, Outcome, Violation, check
from tests.faults.hosts import lay_links
from tests.faults.nights import CANARIES, make_night
from tests.faults.rig import DATABASE
from tests.faults.rows.redis import disturb
from tests.faults.rows.table import row
from tests.program import PATIENCE_S, PROGRAM, hook_reading, last_json, make_environment, run, started, wait_until
from tests.services import run_small_disk
from worker.runs.forks import WORTH_A_FORK


@contextlib.contextmanager
def start_afar(case: Case) -> Iterator[tuple[Any, Any, Any]]:
    """Start a worker in a network of its own, and one here; yields its cable, its proxy to PostgreSQL, and itself."""
    with lay_links(case, case.rig.postgres.port) as (cable, (_, to_postgres), options):
        case.start_workers(2, case.env(**options), case.env())
        case.awake_s = 60.0
        yield cable, to_postgres, case.fleet.workers[0]


@row(
    "13b",
    "PostgreSQL vanishes silently",
    injection="a worker in a network of its own whose cable is pulled while it waits for an answer; its connections "
    "end meanwhile on the other side; the cable is plugged in again",
    outcome="the worker detects it by probes, and continues",
    own_workers=True,
)
def postgres_gone_silently(case: Case) -> list[Violation]:
    with (
        start_afar(case) as (cable, to_postgres, far),
        psycopg.connect(case.rig.postgres.url(DATABASE), application_name="fault") as blocker,
    ):
        with case.closed("before-store"):
            case.enqueue_here(case.make_night())
            case.wait(lambda: case.is_at(far, "before-store"), "the worker afar")
            blocker.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        case.wait(lambda: case.query("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), "waiting")
        case.nap(0.2, 0.5)
        cable.pull()
        case.inject("cable pulled")
        to_postgres.reset()
        case.nap(0.5, 2)
        blocker.rollback()
        cable.plug()
        violations = case.finish()
        case.rig.stop_fleet()
        return violations


@row(
    "13c",
    "a host is cut off for longer than its lease",
    injection="a worker in a network of its own whose cable is pulled right before it stores a job, until another "
    "worker has taken that job, and a while longer; the cable is plugged in again",
    outcome="the other workers do its work; what it stores afterwards does not count, and it takes jobs again",
    own_workers=True,
)
def host_cut_off(case: Case) -> list[Violation]:
    with start_afar(case) as (cable, _, far):
        with case.closed("before-store"):
            case.enqueue_here(case.make_night())
            case.wait(lambda: case.is_at(far, "before-store"), "the worker afar")
            held = case.query("SELECT count(*) FROM jobs WHERE lease_token > 1")
            cable.pull()
            case.inject("host cut off")
        case.wait(lambda: case.query("SELECT count(*) FROM jobs WHERE lease_token > 1") > held, "its job to be taken")
        case.nap(0.5, 3)
        cable.plug()
        violations = case.finish()
        case.rig.stop_fleet()
        return violations


@row(
    "14b",
    "the network to PostgreSQL is bad",
    injection="a proxy: full partition, RST to all connections, no new ones, latency and 1 KB/s, in random order",
    outcome="the workers continue when the network does; a commit without an answer happens once",
)
def postgres_network(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night(60))
    case.wait_share(0.1)
    disturb(case, case.rig.postgres_proxy, "network to PostgreSQL:")
    return case.finish()


@row(
    "16",
    "PostgreSQL killed while workers commit",
    injection="SIGKILL to the postmaster and all its processes, then SIGQUIT (`stop -m immediate`); restarted",
    outcome="committed work is there; the workers reconnect",
)
def postgres_killed(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night(60))
    postgres = case.rig.postgres
    ends = [(postgres.kill, "PostgreSQL killed"), (postgres.stop, "PostgreSQL stopped")]
    for end, name in case.choose.sample(ends, 2):
        case.nap(0.3, 1.5)
        before = _find_ended(case)
        end()
        case.inject(name)
        case.nap(0.1, 2)
        postgres.start()
        after = case.wait(lambda: _find_ended(case), "the database")
        assert before.items() <= after.items(), "what was committed is gone"
    return case.finish()


@row(
    "16b",
    "the primary is demoted in a night",
    injection="PostgreSQL made to read only, for open connections and new ones, three times for up to three seconds, "
    "while workers claim and commit",
    outcome="25006 counts as a lost connection: what was not committed is done again when a server writes",
)
def postgres_demoted(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night(60))
    with psycopg.connect(case.rig.postgres.url("postgres"), autocommit=True) as server:

        def demote(value: str) -> None:
            server.execute("SET default_transaction_read_only = off")
            server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")  # no parameter is taken there
            server.execute("SELECT pg_reload_conf()")

        try:
            for _ in range(case.cut(3)):
                case.nap(0.3, 1.5)
                demote("on")
                case.inject("primary demoted")
                case.nap(0.5, 3)
                demote("off")
        finally:
            demote("off")
    return case.finish()


def _find_ended(case: Case) -> dict[int, str]:
    """Return the statuses of terminal scans by id, and a dummy entry, so that the result is empty only on failure."""
    with contextlib.suppress(DatabaseUnavailable, sa.exc.DBAPIError), reading(case.engine) as connection:
        rows = connection.execute(sa.text("SELECT id, status FROM scans WHERE status <> 'queued'"))
        return {0: ""} | {row.id: row.status for row in rows}
    return {}


@row(
    "17",
    "PostgreSQL drops connections, has none left, and finds a deadlock",
    injection="pg_terminate_backend for every connection of the workers, eight times; all connections taken for a "
    "while; a transaction that locks a job's scans in the opposite order",
    outcome="retried: 40P01, 53300, 57P01 and broken connections are transient",
)
def postgres_refuses(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night(60))
    with psycopg.connect(case.rig.postgres.url(DATABASE), autocommit=True, application_name="fault") as admin:
        for _ in range(8):
            case.nap(0.02, 0.3)
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nightread'")
            case.inject("connections terminated")
    _take_all_connections(case)
    _make_deadlock(case)
    return case.finish()


def _take_all_connections(case: Case) -> None:
    with contextlib.ExitStack() as held:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                held.enter_context(psycopg.connect(case.rig.postgres.url(DATABASE), connect_timeout=5))
        case.inject("no connection left")
        case.nap(0.5, 1.5)


def _make_deadlock(case: Case) -> None:
    with case.closed("before-store"):
        case.enqueue_here(case.make_night(16, seed=1000 + case.seed))
        case.wait_at("before-store")
        query = (
            "SELECT min(id), max(id) FROM scans WHERE job_id = (SELECT id FROM jobs WHERE status = 'leased' LIMIT 1)"
        )
        with psycopg.connect(case.rig.postgres.url(DATABASE), application_name="fault") as other:
            first, last = other.execute(query).fetchone()
            other.execute("SELECT 1 FROM scans WHERE id = %s FOR UPDATE", [last])
            (case.gates / "before-store.gate").unlink()
            blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            with contextlib.suppress(AssertionError):  # no deadlock if the job has one scan or its lease has expired
                case.wait(lambda: case.query(blocked), "the worker to wait", 5)
                case.inject("deadlock")
                with contextlib.suppress(psycopg.errors.DeadlockDetected):
                    other.execute("SELECT 1 FROM scans WHERE id = %s FOR UPDATE", [first])


@row(
    "18",
    "the disk of the database is full",
    injection="the tables of scans and predictions on a file system of 3 MB, full when the first results are stored",
    outcome="nothing is claimed that is not stored; the workers wait, say so, and continue when there is room",
)
def postgres_disk_full(case: Case) -> list[Violation]:
    fleet = case.start_workers()
    with run_small_disk("3m") as disk, _tables_on(case, disk.folder):
        with case.closed("before-store"):
            case.enqueue_here(case.make_night())
            case.wait_at("before-store")
            disk.fill()
            case.inject("disk of PostgreSQL full")
        case.wait(lambda: any(" is full" in text for text in fleet.read_logs().values()), "a worker to say so")
        scored = case.query("SELECT count(*) FROM scans WHERE status = 'scored'")
        assert scored == 0
        case.nap(0.5, 3)
        disk.free()
        return case.finish()


@contextlib.contextmanager
def _tables_on(case: Case, folder):
    with psycopg.connect(case.rig.postgres.url(DATABASE), autocommit=True) as admin:
        data = admin.execute("SHOW data_directory").fetchone()[0]
        shutil.chown(folder, os.stat(data).st_uid)  # noqa: PTH116  # by id: its owner may have any name
        admin.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        _move(admin, "small")
        try:
            yield
        finally:
            admin.execute("TRUNCATE scans, predictions, jobs, runs, models CASCADE")
            _move(admin, "pg_default")
            admin.execute("DROP TABLESPACE small")


def _move(admin: psycopg.Connection, where: str) -> None:
    for table in ("predictions", "scans"):
        admin.execute(f"ALTER TABLE {table} SET TABLESPACE {where}")
        for (index,) in admin.execute("SELECT indexname FROM pg_indexes WHERE tablename = %s", [table]).fetchall():
            admin.execute(f'ALTER INDEX "{index}" SET TABLESPACE {where}')


@row(
    "19",
    "SQLite: four writers, killed in the middle",
    injection="four `nightread score` over one file, three of them killed (SIGKILL) at random moments, and repeated",
    outcome="the file is intact, no command sees SQLITE_BUSY, the repeated commands resume",
)
def sqlite_writers(case: Case) -> list[Violation]:
    case.start_workers()  # idle; so that the rest of the check is the same
    file = case.folder / "nightread.db"
    env = make_environment(case.folder, database_url=f"sqlite:///{file}", batch_size=4, job_size=4, threads=1)
    nights = [make_night(case.rig.pool, case.folder / str(number), 16, case.seed * 10 + number) for number in range(4)]
    log = case.folder / "score.log"
    with contextlib.ExitStack() as running:
        processes = [
            running.enter_context(started([PROGRAM, "score", night.folder], env, case.folder, log)) for night in nights
        ]
        wait_until(lambda: _count_scored(file) > 0, "the first score")
        for process in case.choose.sample(processes, 3):
            case.nap(0, 0.3)
            process.kill()
            case.inject("writer killed")
        for process in processes:
            process.wait(PATIENCE_S)
    ended = [last_json(run("score", night.folder, "--json", env=env, cwd=case.folder)) for night in nights]
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    engine = make_engine(f"sqlite:///{file}")
    with reading(engine) as connection:
        runs = {found: find_run(connection, found) for (found,) in connection.execute(sa.text("SELECT id FROM runs"))}
    by_folder = {str(night.folder): night for night in nights}
    accepted = {}
    for run_id, found in runs.items():
        expected = by_folder[found.sources[0]].expected
        if run_id not in {one["run"] for one in ended}:  # killed: its remaining scans are cancelled
            cancelled = {path: [_cancelled(), outcome] for path, outcome in expected.outcomes.items()}
            expected = type(expected)(cancelled, expected.scores)
        accepted[run_id] = expected
    case.counts.scans += sum(map(len, nights))
    said = log.read_text()
    assert "Traceback" not in said
    assert "locked" not in said
    violations = check(Evidence(engine, accepted, logs={"score.log": _without_paths(said, nights)}, canaries=CANARIES))
    engine.dispose()
    case.enqueue_here(case.make_night(4, seed=1000 + case.seed))
    return violations + case.finish()


@row(
    "19b",
    "SQLite: forks of a `score`, killed in the middle",
    injection="one `nightread score` in two forks, both killed (SIGKILL) at random moments",
    outcome="the same command resumes: their jobs are retried at once, and the program scores in their place",
)
def killed_forks(case: Case) -> list[Violation]:
    case.start_workers()  # idle; so that the rest of the check is the same
    file = case.folder / "nightread.db"
    env = make_environment(case.folder, database_url=f"sqlite:///{file}", batch_size=4, job_size=4, threads=2)
    env |= hook_reading(case.folder, "time.sleep(0.02)")  # so that forks can be killed in the middle
    night = make_night(case.rig.pool, case.folder / "night", 2 * WORTH_A_FORK, case.seed)
    log = case.folder / "score.log"
    with started([PROGRAM, "score", night.folder, "--json"], env, case.folder, log) as program:
        wait_until(lambda: _count_scored(file) > 0, "the first score")
        for fork in psutil.Process(program.pid).children():
            case.nap(0, 0.3)
            fork.kill()
            case.inject("fork killed")
        assert program.wait(PATIENCE_S) in {Exit.OK, Exit.SOME_FAILED}
    case.counts.scans += len(night)
    engine = make_engine(f"sqlite:///{file}")
    said = _without_paths(log.read_text(), [night])
    run_id = json.loads(said.splitlines()[-1])["run"]
    evidence = Evidence(engine, {run_id: night.expected}, logs={"score.log": said}, canaries=CANARIES)
    violations = check(evidence)
    engine.dispose()
    case.enqueue_here(case.make_night(4, seed=1000 + case.seed))
    return violations + case.finish()


def _cancelled() -> Outcome:
    return Outcome(ScanStatus.FAILED, "cancelled")


def _without_paths(text: str, nights) -> str:
    for night in nights:
        text = text.replace(str(night.folder), "").replace(
            night.folder.name, ""
        )  # messages to people may contain paths
    return text


def _count_scored(file) -> int:
    url = f"file:{file}?mode=ro"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(url, uri=True)) as one:
        return one.execute("SELECT count(*) FROM scans WHERE status = 'scored'").fetchone()[0]
    return 0
