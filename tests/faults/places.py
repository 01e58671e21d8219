"""Environments for crash tests of commands: a database, a Redis and a folder of scans."""

import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import Engine, insert, select, text, update

from db.engine import reading, write
from db.tables import jobs, metadata, predictions, runs, scans, stage_changes, tallies
from db.types import JobStatus, database_now
from nightread.failpoints import Point
from tests.faults.checker import Evidence, Expected, Outcome, Violation, check
from tests.faults.forking import DRAIN, KILLED, Forker
from worker.queue.publisher import QUEUE

#: Part of the path of every scan; must not appear outside the columns for paths.
CANARY = "CANARY-WARD"
_PREFIX = "nightread:"
_MOST_ROUNDS = 12
#: Columns that signatures ignore, since they differ between equal runs: marks, and names of processes.
_UNSIGNED = {("jobs", "published_at"), ("runs", "settings"), ("stage_changes", "request"), ("predictions", "worker")}


@dataclass(frozen=True)
class State:
    """All rows of all tables, and all keys of Redis."""

    rows: dict[str, list[dict[str, Any]]]
    keys: dict[bytes, bytes]


class Place:
    """One environment; its commands run one at a time."""

    def __init__(self, engine: Engine, redis_url: str, forker: Forker, env: dict[str, str], folder: Path) -> None:
        """Set up the environment.

        Args:
            engine: a database with tables.
            redis_url: URL of a Redis, or of a database in one, for this place only.
            forker: runs the commands.
            env: environment of the commands.
            folder: folder for files of the failpoints.
        """
        self.engine = engine
        self.redis = redis.Redis.from_url(redis_url)
        self._redis_url = redis_url
        self._forker = forker
        self.env = env | {
            "NIGHTREAD_DATABASE_URL": engine.url.set(drivername=engine.dialect.name).render_as_string(False),
            "NIGHTREAD_BROKER_URL": redis_url,
        }
        self._struck = folder / "struck"
        self.redis.flushdb()  # a killed worker of the previous test leaves unacknowledged messages
        self.empty = self.save()
        self.crashes = 0
        self.recoveries = 0

    def run(self, *command: Any, expect: int | None = 0, **settings: Any) -> int:
        """Run a command, and check its exit code."""
        given = {f"NIGHTREAD_{name.upper()}": str(value) for name, value in settings.items()}
        code = self._forker.run(*command, env=self.env | given)
        assert expect is None or code == expect, f"{command} exit {code}\n{self.read_log()[-4000:]}"
        return code

    def strike(self, *command: Any, failpoint: str, **settings: Any) -> tuple[str | None, int]:
        """Run a command with failpoints.

        Returns:
            The point at which the last failpoint struck, None if it did not; and the exit code.
        """
        shutil.rmtree(self._struck, ignore_errors=True)
        self._struck.mkdir()
        code = self.run(*command, expect=None, failpoint=failpoint, failpoint_dir=self._struck, **settings)
        last = failpoint.rpartition(",")[2]
        struck = self._struck / last.replace(":", "-")
        if not struck.exists():
            assert code == 0, f"{command} exit {code}\n{self.read_log()[-4000:]}"
            return None, code
        assert ("kill" in last) == (code == KILLED), f"{command} exit {code}"
        self.crashes += 1
        return struck.read_text().split()[0], code

    def read_log(self) -> str:
        return self._forker.log.read_text(errors="replace")

    def save(self) -> State:
        with reading(self.engine) as connection:
            rows = {
                table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
                for table in metadata.sorted_tables
            }
        return State(rows, {key: self.redis.dump(key) for key in self.redis.keys("*")})

    def restore(self, state: State) -> None:
        def work(connection: Any) -> None:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
            for table in metadata.sorted_tables:
                if state.rows[table.name]:
                    connection.execute(insert(table), state.rows[table.name])
            if self.engine.dialect.name == "postgresql":  # whose next ids go on from where this place once was
                for table in (scans, stage_changes):
                    last = max((row["id"] for row in state.rows[table.name]), default=0)
                    query = text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :next, false)")
                    connection.execute(query, {"name": table.name, "next": last + 1})

        write(self.engine, work)
        self.redis.flushdb()
        for key, value in state.keys.items():
            self.redis.restore(key, 0, value)

    def pass_time(self) -> None:
        """Let all waiting times expire: leases, back-off, and the time until a message counts as lost."""
        past = database_now(-1)
        for column, among in (
            (jobs.c.lease_expires_at, jobs.c.status == JobStatus.LEASED),
            (jobs.c.published_at, jobs.c.published_at.is_not(None)),
            (jobs.c.not_before, jobs.c.not_before.is_not(None)),
        ):
            old = database_now(-100_000) if column is jobs.c.published_at else past
            write(self.engine, lambda connection, column=column, among=among, old=old: connection.execute(
                update(jobs).where(among, jobs.c.status != JobStatus.DONE).values({column: old})
            ))  # fmt: skip
        tags = self.redis.zrange(_PREFIX + "unacked_index", 0, -1)
        if tags:
            self.redis.zadd(_PREFIX + "unacked_index", dict.fromkeys(tags, 0.0))

    def recover(self, **settings: Any) -> None:
        """Sweep and work until no work is left."""
        for _ in range(_MOST_ROUNDS):
            if not self.count_open():
                self.recoveries += 1
                return
            self.pass_time()
            self.run("sweep", **settings)
            self.run(DRAIN, **settings)
        raise AssertionError(f"not drained after {_MOST_ROUNDS} rounds:\n{self.read_log()[-4000:]}")

    def count_open(self) -> int:
        with reading(self.engine) as connection:
            open_jobs = connection.execute(select(jobs.c.id).where(jobs.c.status != JobStatus.DONE)).all()
            open_runs = connection.execute(select(runs.c.id).where(runs.c.finished_at.is_(None))).all()
        held = self.redis.llen(_PREFIX + QUEUE) + self.redis.hlen(_PREFIX + "unacked")
        return len(open_jobs) + len(open_runs) + held

    def run_ids(self) -> list[str]:
        """Return the runs, oldest first."""
        with reading(self.engine) as connection:
            return list(connection.execute(select(runs.c.id).order_by(runs.c.created_at)).scalars())

    def expect(self) -> Expected:
        """Return the result of the only run as the expected result of further ones."""
        with reading(self.engine) as connection:
            rows = connection.execute(select(scans)).all()
            scores: dict[str, dict[str, float]] = {}
            for row in connection.execute(select(predictions)):
                scores.setdefault(row.sha256, {})[row.label] = row.score
        return Expected({row.path: Outcome(row.status, row.reason_code, row.sha256) for row in rows}, scores)

    def check(self, accepted: dict[str, Expected], **evidence: Any) -> list[Violation]:
        found = check(
            Evidence(
                self.engine, accepted, redis_url=self._redis_url, logs={"the log": self.read_log()}, canaries=[CANARY],
                **evidence,
            )
        )  # fmt: skip
        if self.engine.dialect.name == "sqlite":
            with reading(self.engine) as connection:
                whole = connection.execute(text("PRAGMA integrity_check")).scalar()
            if whole != "ok":
                found.append(Violation("I2", f"the file is damaged: {whole}"))
        return found

    def sign(self) -> str:
        """Return a signature of all rows that does not depend on ids and times."""
        rows = self.save().rows
        rows |= {tallies.name: _add_slots(rows[tallies.name])}
        names: dict[Any, str] = {}
        for number, scan in enumerate(sorted(rows["scans"], key=lambda row: row["id"])):
            names |= {scan["id"]: f"scan {number}"}
            for kind in ("run_id", "job_id"):
                names.setdefault(scan[kind], f"{kind} {len(names)}")
        signed = {table: sorted(repr(_sign_row(table, row, names)) for row in listed) for table, listed in rows.items()}
        return "\n".join(f"{table}: {row}" for table, listed in signed.items() for row in listed)

    def close(self) -> None:
        self.redis.close()
        self.engine.dispose()


def _add_slots(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a tally with each count summed over its slots."""
    sums: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = (row["run_id"], row["kind"], row["name"])
        sums[key] = sums.get(key, 0) + row["count"]
    return [{"run_id": key[0], "kind": key[1], "name": key[2], "count": count} for key, count in sums.items() if count]


def _sign_row(table: str, row: dict[str, Any], names: dict[Any, str]) -> dict[str, Any]:
    signed = {}
    for column, value in row.items():
        if (table, column) in _UNSIGNED:
            continue
        if isinstance(value, datetime):
            signed[column] = "a time"
        elif column == "id" or column.endswith("_id"):
            signed[column] = names.get(value, "another")
        else:
            signed[column] = value
    return signed


def sweep(
    places: Sequence[Place],
    start: State,
    judge: Callable[[Place, int], str | None],
    numbers: Iterable[int] | None = None,
) -> list[str]:
    """Call `judge` with N = 1, 2, 3, ... on places in the state `start`, until it returns None.

    Args:
        places: environments, used concurrently.
        start: state before each N.
        judge: crashes at the N-th point, checks the result, and returns the name of that point.
        numbers: only these N.

    Returns:
        The names of the points in order.
    """
    left, points = iter(itertools.count(1) if numbers is None else numbers), {}

    def go(place: Place) -> None:
        for number in left:
            place.restore(start)
            point = judge(place, number)
            if point is None:
                return
            points[number] = point

    with ThreadPoolExecutor(len(places)) as threads:
        for done in [threads.submit(go, place) for place in places]:
            done.result()
    return [points[number] for number in sorted(points)]


@dataclass
class Undisturbed:
    """A command that writes one transaction, as it is when nothing is in its way.

    Attributes:
        start: what it begins with.
        before: the signature of that.
        after: the signature of what it leaves.
        seen: which of both there was after a crash at the N-th point.
    """

    start: State
    before: str
    after: str
    seen: dict[int, str] = field(default_factory=dict)

    def judge(self, place, number):
        """Return whether the rows are those before or after the command."""
        found = place.sign()
        assert found in {self.before, self.after}, f"between before and after, at point {number}:\n{found}"
        self.seen[number] = "before" if found == self.before else "after"
        return self.seen[number]

    def assert_both_were_seen(self):
        states = [self.seen[number] for number in sorted(self.seen)]
        assert states == sorted(states, reverse=True)
        assert set(states) == {"before", "after"}


def watch(place, *command):
    """Run a command without faults, and restore the state before."""
    start, before = place.save(), place.sign()
    place.run(*command)
    after = place.sign()
    assert after != before
    place.restore(start)
    return Undisturbed(start, before, after)


def expect_of(place, folder, **settings):
    """Return the result of an undisturbed run over a folder; the environment is empty afterwards."""
    place.restore(place.empty)
    place.run("enqueue", folder, **settings)
    place.recover()
    expected = place.expect()
    place.restore(place.empty)
    return expected


def assert_sound(place, accepted, point, number, **evidence):
    violations = place.check(accepted, **evidence)
    assert not violations, f"after point {number}, {point}:\n" + "\n".join(map(str, violations))


def names_of(points):
    return {Point(point).name for point in points}
