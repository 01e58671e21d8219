"""One case of the fault table: a run, workers, a fault from a seeded schedule, the drain, and the check."""

import contextlib
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from db.engine import make_engine, reading, write
from db.tables import metadata
from db.types import ScanStatus
from nightread.model.bundle import find_bundle, load_bundle
from nightread.settings import Settings, read_settings
from tests.factories import UNGATED_MODEL
from tests.faults.checker import Evidence, Expected, Violation, check
from tests.faults.fleet import Fleet, Worker, now
from tests.faults.nights import CANARIES, Night, make_night, mark
from tests.faults.rig import DATABASE, Rig
from tests.program import make_environment, run
from worker.queue.celery_app import make_app
from worker.queue.publisher import Publisher
from worker.runs.enqueue import write_run
from worker.runs.request import Request

LEASE_S = 3.0
SWEEP_S = 1.0
#: Celery's visibility timeout; 1.5 hours in production.
VISIBILITY_S = 6.0
#: Time limit for scoring a case on a busy machine, including a restart of every worker.
WORK_S = 120.0
_QUEUE, _UNACKED = "nightread:nightread", "nightread:unacked"
#: Lock of the client that redelivers messages; if it dies, the others wait five minutes.
_MUTEX = "nightread:unacked_mutex"
_INSIDE = Path(__file__).parent / "inside"


@dataclass
class Counts:
    """Counts of one case, which are summed over all cases."""

    faults: Counter[str] = field(default_factory=Counter)
    scans: int = 0
    redeliveries: int = 0
    splits: int = 0
    sweeps: int = 0
    restarts: int = 0
    seconds: float = 0.0


class Case:
    """The interface through which a row of the fault table runs its fault.

    Attributes:
        rig: the services.
        without: the guard that a negative control disables in the workers, or None.
        choose: random generator of the schedule; a seed reproduces all its draws.
        folder: folder of this case; files in it are gates for the workers (`inside/sitecustomize.py`).
        engine: connection to the database that bypasses the proxy.
        counts: counts for the record.
    """

    def __init__(self, rig: Rig, seed: int, folder: Path, without: str | None = None, *, is_long: bool = False) -> None:
        self.rig = rig
        self.seed = seed
        self._is_long = is_long
        self.without = without
        self.choose = random.Random(seed)
        self.folder = folder
        self.engine: Engine = make_engine(rig.postgres.url(DATABASE))
        self.counts = Counts()
        self.accepted: dict[str, Expected] = {}
        self.repeated: dict[str, str] = {}
        self.extra_logs: dict[str, str] = {}
        self.most_rss_bytes = 2**30
        self.work_s = WORK_S
        self.awake_s = 60.0
        self.timeline: list[str] = []
        self._nights: dict[str, Night] = {}
        self._began = time.monotonic()
        self._fault_over = now()
        self._drained_s: float | None = None
        self._log_from: dict[str, int] = {}
        self._restarts_before = 0

    @contextlib.contextmanager
    def within(self, rig: Rig) -> Iterator["Case"]:
        """Yield a case over services of its own that counts and notes here."""
        inner = Case(rig, self.seed, self.folder, self.without, is_long=self._is_long)
        inner.choose, inner.counts, inner.timeline = self.choose, self.counts, self.timeline
        try:
            yield inner
        finally:
            inner.engine.dispose()

    def note(self, what: str) -> None:
        """Add an event to the timeline, which helps to analyse a failure."""
        self.timeline.append(f"{time.monotonic() - self._began:6.2f} s {what}")

    # Before the fault

    def env(self, **options: Any) -> dict[str, str]:
        """Return a worker's environment from settings (lower case) and options of `sitecustomize` (upper case)."""
        settings = {name: value for name, value in options.items() if name.islower()}
        options = {"WITHOUT": self.without, **options}
        inside = {
            f"FAULTS_{name}": str(value) for name, value in options.items() if name.isupper() and value is not None
        }
        given = {
            "database_url": self.rig.database_url, "broker_url": self.rig.broker_url, "lease_s": LEASE_S,
            "sweep_s": SWEEP_S, "job_size": 4, "batch_size": 4, "threads": 1, "max_attempts": 20, "device": "cpu",
        } | settings  # fmt: skip
        kept = make_environment(self.rig.folder, **given)
        kept.pop("PYTEST_CURRENT_TEST", None)
        return kept | {
            "TMPDIR": str(self.rig.folder), "PYTHONPATH": str(_INSIDE), "FAULTS_VISIBILITY_S": str(VISIBILITY_S),
            "FAULTS_SOCKET_S": "2", "FAULTS_READ_S": "0.05", "FAULTS_FOLDER": str(self.rig.folder / "gates"),
        } | inside  # fmt: skip

    def start_workers(self, count: int = 2, *envs: Mapping[str, str], options: tuple[str, ...] = ()) -> Fleet:
        """Start workers and wait until they are ready; workers of the previous case are reused if they are equal."""
        wanted = (list(envs) or [self.env()] * count, options)
        rig = self.rig
        if rig.fleet is None or rig.fleet_env != wanted or not all(one.is_alive for one in rig.fleet.workers):
            rig.stop_fleet()
            rig.fleets += 1
            folder = rig.folder / f"fleet-{rig.fleets}"
            folder.mkdir()
            rig.fleet, rig.fleet_env = Fleet(folder, *wanted), wanted
        rig.fleet.wait_ready()
        self.note("workers are ready")
        self._restarts_before = rig.fleet.restarts
        self._log_from = {name: len(text) for name, text in rig.fleet.read_logs().items()}
        return rig.fleet

    @property
    def fleet(self) -> Fleet:
        assert self.rig.fleet is not None
        return self.rig.fleet

    @property
    def gates(self) -> Path:
        """Folder in which files of certain names block workers."""
        return self.rig.folder / "gates"

    def make_night(self, count: int = 40, seed: int | None = None) -> Night:
        return make_night(self.rig.pool, self.folder, count, self.seed if seed is None else seed)

    def enqueue(self, night: Night, *options: str, expect: int | None = 0, **settings: Any) -> str:
        """Enqueue with the real command; returns the printed run id."""
        env = self.env(**settings)
        for name in [name for name in env if name.startswith("FAULTS_") or name == "PYTHONPATH"]:
            del env[name]
        done = run("enqueue", night.folder, *options, env=env, cwd=self.folder, expect=expect)
        self.extra_logs[f"enqueue {len(self.accepted)}"] = done.stderr.replace(str(night.folder), "")
        run_id = done.stdout.split()[0]
        self.accept(run_id, night)
        return run_id

    def accept(self, run_id: str, night: Night) -> None:
        self.accepted[run_id] = night.expected
        self._nights[run_id] = night
        self.counts.scans += len(night)
        self.note(f"{len(night)} scans are enqueued")

    def enqueue_here(self, night: Night, **given: Any) -> str:
        """Enqueue in this process, for cases that cannot wait for a command to start."""
        settings = self.settings(**given)
        bundle = load_bundle(find_bundle(settings.model, settings.models_dir))
        run_id = write_run(self.engine, settings, bundle, [night.folder], Request(), embedded=False).run_id
        self.accept(run_id, night)
        Publisher(make_app(settings), settings).publish_due(self.engine)
        return run_id

    def settings(self, **given: Any) -> Settings:
        return read_settings(**{
            "database_url": self.rig.postgres.url(DATABASE), "broker_url": self.rig.redis.url, "lease_s": LEASE_S,
            "sweep_s": SWEEP_S, "job_size": 4, "model": UNGATED_MODEL, **given,
        })  # fmt: skip

    def send_anew(self, night: Night) -> Expected:
        """Replace every file of a night, like a modality that sends again; returns the new expectation."""
        again = Night(night.folder, scores=dict(night.scores))
        for number, path in enumerate(sorted(night.folder.iterdir())):
            base = self.choose.choice(self.rig.pool.plain)
            again.add(self.rig.pool, path.name, mark(base, f"{self.seed} anew {number}"), base)
        self._nights = {run_id: again if one is night else one for run_id, one in self._nights.items()}
        return again.expected

    # The fault

    def cut(self, times: int) -> int:
        """Return how often a fault comes that comes so many times in a long night."""
        return times if self._is_long else -(-times // 4)

    def inject(self, name: str, times: int = 1) -> None:
        """Count a fault."""
        self.counts.faults[name] += times
        self.note(name)

    def query(self, statement: str, **values: Any) -> Any:
        with reading(self.engine) as connection:
            return connection.execute(sa.text(statement), values).scalar()

    def share_done(self) -> float:
        with reading(self.engine) as connection:
            ended = sa.func.count().filter(metadata.tables["scans"].c.status != ScanStatus.QUEUED)
            done, found = connection.execute(
                sa.select(ended, sa.func.count()).select_from(metadata.tables["scans"])
            ).one()
        return done / found if found else 0.0

    def wait_share(self, share: float, timeout_s: float = 60) -> None:
        """Wait until this share of all scans is terminal."""
        self.wait(lambda: self.share_done() >= share, f"{share:.0%} of the scans", timeout_s)

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
        """Poll `condition` frequently, since faults must hit a moment; returns its first true value."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what} (seed {self.seed})"
            time.sleep(0.02)
        return value

    def wait_working(self) -> Worker:
        """Wait until a worker holds a job; returns that worker."""
        return self.wait(self.find_working, "a worker to hold a job")

    def find_working(self) -> Worker | None:
        with reading(self.engine) as connection:
            holders = (
                connection.execute(sa.text("SELECT lease_holder FROM jobs WHERE status = 'leased'")).scalars().all()
            )
        pids = [int(holder.rpartition(":")[2]) for holder in holders]
        for worker in self.choose.sample(self.fleet.workers, len(self.fleet.workers)):
            if any(worker.has(pid) for pid in pids):
                return worker
        return None

    def nap(self, low_s: float, high_s: float) -> None:
        """Sleep for a time that the schedule draws."""
        time.sleep(self.choose.uniform(low_s, high_s))

    @contextlib.contextmanager
    def closed(self, gate: str) -> Iterator[Path]:
        """Block every worker that reaches a gate; see `inside/sitecustomize.py`."""
        file = self.gates / f"{gate}.gate"
        for left in self.gates.glob(f"{file.name}.*"):
            left.unlink()
        file.touch()
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)

    def wait_at(self, gate: str) -> Worker:
        """Wait until a worker is blocked at a closed gate; returns that worker."""
        return self.wait(lambda: next(filter(lambda one: self.is_at(one, gate), self.fleet.workers), None), gate)

    def is_at(self, worker: Worker, gate: str) -> bool:
        """Return whether a worker has been blocked at a gate since it was closed."""
        return any(worker.has(int(file.suffix[1:])) for file in self.gates.glob(f"{gate}.gate.*"))

    # After it

    def drain(self) -> None:
        """Wait until no run is open, within the time limit of the case."""
        self.note("the fault is over")
        self._fault_over = now()
        limit_s = LEASE_S + SWEEP_S + self.work_s
        self._wait_closed(self._fault_over + limit_s)
        self._drained_s = now() - self._fault_over
        self.note("drained")

    def _wait_closed(self, deadline: float) -> None:
        while self.query("SELECT count(*) FROM runs WHERE status IN ('queued', 'running')") and now() < deadline:
            time.sleep(0.05)

    def wait_empty(self) -> None:
        """Wait until Redis holds no message for a job, at most until redelivery is certain."""
        with self.rig.redis.connect() as client:
            client.delete(_MUTEX)
        deadline, empty = now() + VISIBILITY_S + 6, 0
        while empty < 5 and now() < deadline:  # a message in transit is briefly neither queued nor unacknowledged
            empty = 0 if self.count_messages() else empty + 1
            time.sleep(0.1)
        self.note(f"{self.count_messages()} messages are left")

    def count_messages(self) -> int:
        """Count the messages in Redis, queued or unacknowledged."""
        with self.rig.redis.connect() as client:
            return client.llen(_QUEUE) + client.hlen(_UNACKED)

    def repeat(self, run_id: str) -> None:
        """Enqueue a run's folder again until every worker has made progress since the fault."""
        deadline = now() + self.awake_s
        while True:
            again = self.enqueue_here(self._nights[run_id])
            self.repeated[again] = run_id
            self._wait_closed(now() + self.work_s)
            is_moving = all(worker.find_progress() >= self._fault_over for worker in self.fleet.workers)
            if is_moving or now() > deadline:
                return

    def finish(self, repeat: str | None = None) -> list[Violation]:
        """Drain, repeat a run (by default the first), and return all violations."""
        if self._drained_s is None:
            self.drain()
        if self._drained_s < LEASE_S + SWEEP_S + self.work_s:
            self.repeat(repeat or next(iter(self.accepted)))
            self.wait_empty()
        logs = {name: text[self._log_from.get(name, 0) :] for name, text in self.fleet.read_logs().items()}
        self._count(logs)
        self.extra_logs |= {
            file.name: file.read_text(errors="replace") for file in (self.rig.folder / "nightread-0").glob("*.progress")
        }
        return check(
            Evidence(
                self.engine,
                self.accepted,
                redis_url=self.rig.redis.url,
                logs=logs | self.extra_logs,
                canaries=CANARIES,
                workers=[worker.see(self._fault_over) for worker in self.fleet.workers],
                most_rss_bytes=self.most_rss_bytes,
                drained_s=self._drained_s,
                most_drained_s=LEASE_S + SWEEP_S + self.work_s,
                repeated=self.repeated,
            )
        )

    def _count(self, logs: Mapping[str, str]) -> None:
        claims = "SELECT coalesce(sum(greatest(lease_token - 1, 0)), 0) FROM jobs"
        self.counts.redeliveries += int(self.query(claims))
        said = "".join(logs.values())
        self.counts.splits += said.count(": split in two")
        self.counts.sweeps += said.count("swept: ")
        self.counts.restarts += self.fleet.restarts - self._restarts_before
        self.counts.seconds = time.monotonic() - self._began

    def clear(self) -> None:
        """Reset the rig for the next case."""
        self.rig.redis_proxy.heal()
        self.rig.postgres_proxy.heal()
        if self.rig.fleet is not None:
            for worker in self.rig.fleet.workers:
                worker.send_all(signal.SIGCONT)
        shutil.rmtree(self.gates)
        self.gates.mkdir()
        tables = ", ".join(metadata.tables)
        write(self.engine, lambda connection: connection.execute(sa.text(f"TRUNCATE {tables} RESTART IDENTITY")))
        with self.rig.redis.connect() as client:
            client.flushall()
        self.engine.dispose()
