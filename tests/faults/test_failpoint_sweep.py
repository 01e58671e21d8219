"""A crash at every point of every command that writes: what is left is whole, and a night heals it.

As SQLite tests itself: a crash at the N-th point for N = 1, 2, ... until a command comes through. What was one
transaction is there as before it or as after it, and after sweeper and worker the checker finds nothing wrong.
`--seeds 2` or more does it for every action of a failpoint and for longer nights.
"""

import contextlib
import shutil
from dataclasses import dataclass, field

import pytest
from sqlalchemy import update

from db.engine import make_engine, reading, write
from db.registry import find_production
from db.schema import upgrade
from db.tables import jobs, runs
from db.types import RunStatus, database_now
from nightread.failpoints import Point
from tests.db_factories import job_ids
from tests.factories import small_chest, write_jpeg, write_png16
from tests.faults.forking import DRAIN
from tests.faults.places import CANARY, SWEPT, Place, State, sweep
from tests.onnx_factories import write_tiny_bundle
from tests.program import make_environment, wait_until, worker

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def ward_of_four(tmp_path_factory):
    """Two scans, one of them again, and a damaged one."""
    folder = tmp_path_factory.mktemp("scans") / CANARY
    write_jpeg(folder / "a.jpg", small_chest(1))
    shutil.copy(folder / "a.jpg", folder / "b.jpg")
    (folder / "c.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900])
    write_png16(folder / "d.png", small_chest(2))
    return folder


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def places(request, forkers, redis_server, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        made = []
        for number, forker in enumerate(forkers):
            folder = tmp_path_factory.mktemp("place")
            for version, bias in (("1", -2.0), ("2", -1.0)):
                write_tiny_bundle(folder / "models", version, bias=bias)
            if request.param == "sqlite":
                url = f"sqlite:///{folder / 'nightread.db'}"
            else:
                url = stack.enter_context(_make_database(request.getfixturevalue("_postgres_server"), number))
            engine = make_engine(url)
            upgrade(engine)
            env = make_environment(
                folder, models_dir=folder / "models", model="tiny@1", job_size=2, batch_size=2, threads=1, device="cpu"
            )
            redis_url = f"{redis_server.url.rpartition('/')[0]}/{number + 1}"
            made.append(stack.enter_context(contextlib.closing(Place(engine, redis_url, forker, env, folder))))
        yield made


@contextlib.contextmanager
def _make_database(server, number):
    name = f"sweep_{number}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield server.url.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def place(places):
    """One place with nothing in it."""
    place = places[0]
    place.restore(place.empty)
    return place


@pytest.fixture(scope="session")
def is_long(request):
    """Whether there is a night's time."""
    return request.config.getoption("--seeds", 1) > 1


@pytest.fixture(scope="module")
def told(request, places):
    """Takes the points that were struck, and tells at the end of the session what was done."""
    points = []
    yield points
    crashes, recoveries = (sum(getattr(place, name) for place in places) for name in ("crashes", "recoveries"))
    elsewhere = ", ".join(sorted(set(Point) - set(points)))
    request.config.stash[SWEPT].append(
        f"failpoint sweep, {places[0].engine.dialect.name}: {crashes} crashes and faults at {len(set(points))} of "
        f"{len(Point)} points, {recoveries} recoveries; not at {elsewhere or 'none'}"
    )


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
        """Say which of both there is; whatever was committed once is committed by all later points too."""
        found = place.sign()
        assert found in {self.before, self.after}, f"between before and after, at point {number}:\n{found}"
        self.seen[number] = "before" if found == self.before else "after"
        return self.seen[number]

    def assert_both_were_seen(self):
        states = [self.seen[number] for number in sorted(self.seen)]
        assert states == sorted(states, reverse=True)
        assert set(states) == {"before", "after"}


def watch(place, *command):
    """Run a command with nothing in its way, and take it back."""
    start, before = place.save(), place.sign()
    place.run(*command)
    after = place.sign()
    assert after != before
    place.restore(start)
    return Undisturbed(start, before, after)


def expect_of(place, folder, **settings):
    """Return what an undisturbed run over a folder comes to, and leave nothing of it."""
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


class TestWorker:
    """Its transactions are many, so that it is judged by what comes of them."""

    def sweep(self, places, start, accepted, failpoint, numbers=None, **settings):
        def judge(place, number):
            point, _ = place.strike(DRAIN, failpoint=failpoint.format(number), **settings)
            place.recover(**settings)
            assert_sound(place, accepted, point, number)
            return point

        return sweep(places, start, judge, numbers)

    @pytest.fixture
    def enqueued(self, place, ward_of_four, is_long):
        """A run of two jobs; of one in SQLite, where there is no time for more."""
        job_size = 4 if place.engine.dialect.name == "sqlite" and not is_long else 2
        expected = expect_of(place, ward_of_four)
        place.run("enqueue", ward_of_four, job_size=job_size)
        (run_id,) = place.run_ids()
        return place.save(), {run_id: expected}

    def test_that_is_killed_at_any_point(self, places, enqueued, told):
        points = self.sweep(places, *enqueued, "any:kill:{}")
        told += points
        assert names_of(points) >= {
            "WORKER_BEFORE_CLAIM", "WORKER_AFTER_CLAIM", "WORKER_BEFORE_COMMIT", "WORKER_AFTER_COMMIT",
            "WORKER_BEFORE_TOP_UP", "WORKER_BEFORE_ACK", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT",
            "WORKER_READING", "WORKER_AFTER_READ", "WORKER_BEFORE_SCORING", "WORKER_AFTER_SCORING", "WORKER_IN_COMMIT",
            "SWEEP_IN_CLOSING",
        }  # fmt: skip

    @pytest.mark.parametrize("action", ["raise", "exit"])
    def test_that_meets_a_fault_at_any_point(self, places, enqueued, told, action, is_long):
        """A fault of the kind that lies there; `exit` is what Celery does to a task that is to stop at once."""
        if not is_long and (action, places[0].engine.dialect.name) != ("raise", "sqlite"):
            pytest.skip("for a long night: --seeds 2")
        told += self.sweep(places, *enqueued, f"any:{action}:{{}}")

    def test_that_is_killed_while_it_gives_a_job_back(self, places, enqueued, told, is_long):
        numbers = None if is_long else range(1, 8)  # what follows is as in any other job
        points = self.sweep(places, *enqueued, "worker-after-claim:raise:1,any:kill:{}", numbers)
        told += points
        assert "WORKER_GIVE_BACK" in names_of(points)

    def test_that_is_killed_while_it_splits_a_job(self, places, place, ward_of_four, told, is_long):
        expected = expect_of(place, ward_of_four)
        place.run("enqueue", ward_of_four, job_size=4)
        write(place.engine, lambda connection: connection.execute(update(jobs).values(crashes=3)))
        (run_id,) = place.run_ids()
        numbers = None if is_long else range(4, 17)  # until both halves are published
        points = self.sweep(places, place.save(), {run_id: expected}, "any:kill:{}", numbers)
        told += points
        assert "WORKER_IN_SPLIT" in names_of(points)

    def test_that_is_killed_while_it_puts_a_job_off(self, places, place, ward_of_four, told, tmp_path, is_long):
        """One file is away; there are two attempts, of which the first is cut short."""
        ward = shutil.copytree(ward_of_four, tmp_path / CANARY)
        place.run("enqueue", ward, job_size=4)
        (ward / "d.png").unlink()
        start, (run_id,) = place.save(), place.run_ids()
        place.recover(max_attempts=2)
        expected = place.expect()
        assert [outcome.reason for outcome in expected.outcomes.values()] == [None, None, "damaged", "missing-file"]
        numbers = None if is_long else range(12, 19)
        points = self.sweep(places, start, {run_id: expected}, "any:kill:{}", numbers, max_attempts=2)
        told += points
        assert "WORKER_PUT_OFF" in names_of(points)

    @pytest.mark.parametrize("action", ["kill", "raise"])
    def test_whose_heartbeat_meets_a_fault(self, place, enqueued, told, action):
        start, accepted = enqueued
        place.restore(start)
        slow = "worker-reading:sleep-0.8:1,worker-heartbeat:{}:1"
        point, _ = place.strike(DRAIN, failpoint=slow.format(action), lease_s=1, sweep_s=1)
        told.append(point)
        assert point == "worker-heartbeat"
        place.recover()
        assert_sound(place, accepted, point, 1)


def test_enqueue(places, place, ward_of_four, told):
    expected = expect_of(place, ward_of_four)
    undisturbed = watch(place, "enqueue", ward_of_four)

    def judge(place, number, action="kill"):
        point, _ = place.strike("enqueue", ward_of_four, failpoint=f"any:{action}:{number}")
        uncertain = expected if undisturbed.judge(place, number) == "after" else None
        place.run("enqueue", ward_of_four)  # nobody was told of a run
        place.recover()
        assert_sound(place, {place.run_ids()[-1]: expected}, point, number, uncertain=uncertain)
        return point

    points = sweep(places, undisturbed.start, judge)
    told += points
    undisturbed.assert_both_were_seen()
    assert names_of(points) == {
        "ENQUEUE_IN_TRANSACTION", "ENQUEUE_BEFORE_COMMIT", "ENQUEUE_AFTER_COMMIT", "WRITE_BEFORE_COMMIT",
        "WRITE_AFTER_COMMIT", "PUBLISH_AFTER_MARK", "PUBLISH_BETWEEN", "PUBLISH_AFTER_SENDING",
    }  # fmt: skip


@pytest.mark.parametrize("action", ["kill", "raise"])
def test_enqueue_that_can_neither_send_nor_take_its_marks_back(place, ward_of_four, told, action):
    expected = expect_of(place, ward_of_four)
    point, _ = place.strike(
        "enqueue", ward_of_four, failpoint=f"publish-between:raise:1,publish-before-unmark:{action}:1"
    )
    told.append(point)
    assert point == "publish-before-unmark"
    place.recover()
    assert_sound(place, {place.run_ids()[-1]: expected}, point, 1)


def test_enqueue_that_meets_a_fault(places, place, ward_of_four, told):
    """A connection that breaks while it commits: the run is written once, whether the commit was done or not."""
    expected = expect_of(place, ward_of_four)
    undisturbed = watch(place, "enqueue", ward_of_four)

    def judge(place, number):
        point, code = place.strike("enqueue", ward_of_four, failpoint=f"any:raise:{number}")
        state = undisturbed.judge(place, number)
        if code == 0:
            assert state == "after"
        if state == "before":
            place.run("enqueue", ward_of_four)
        place.recover()
        assert_sound(place, {place.run_ids()[-1]: expected}, point, number)
        return point

    told += sweep(places, undisturbed.start, judge)


def test_sweeper(places, place, ward_of_four, told, tmp_path):
    """A run to close, and one with everything that can be lost: a dead worker's job, lost and unsent messages."""
    ward = tmp_path / CANARY
    for seed in range(4):
        write_jpeg(ward / f"{seed}.jpg", small_chest(10 + seed))
    expected = expect_of(place, ward_of_four), expect_of(place, ward)
    place.run("enqueue", ward_of_four)
    place.recover()
    place.run("enqueue", ward, job_size=1)
    (first, second), engine = place.run_ids(), place.engine
    place.redis.flushdb()
    dead, lost, unsent, _ = job_ids(engine, second)
    old = database_now(-100_000)
    for job, values in (
        (dead, {"status": "leased", "lease_holder": "gone", "lease_expires_at": old, "published_at": old,
                "attempts": 1, "lease_token": 1}),
        (lost, {"published_at": old}),
        (unsent, {"published_at": None}),
    ):  # fmt: skip
        change = update(jobs).where(jobs.c.id == job).values(values)
        write(engine, lambda connection, change=change: connection.execute(change))
    reopen = update(runs).where(runs.c.id == first).values(status=RunStatus.RUNNING, finished_at=None)
    write(engine, lambda connection: connection.execute(reopen))

    def judge(place, number):
        point, _ = place.strike("sweep", failpoint=f"any:kill:{number}")
        place.recover()
        assert_sound(place, dict(zip((first, second), expected, strict=True)), point, number)
        return point

    points = sweep(places, place.save(), judge)
    told += points
    assert names_of(points) == {
        "SWEEP_BEFORE", "SWEEP_IN_CLOSING", "SWEEP_AFTER_CLOSING", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT",
        "PUBLISH_AFTER_MARK", "PUBLISH_BETWEEN", "PUBLISH_AFTER_SENDING",
    }  # fmt: skip


def test_retry(places, place, ward_of_four, told):
    expected = expect_of(place, ward_of_four)
    place.run("enqueue", ward_of_four)
    (run_id,) = place.run_ids()
    place.run("cancel", run_id)
    undisturbed = watch(place, "retry", run_id)

    def judge(place, number):
        point, _ = place.strike("retry", run_id, failpoint=f"any:kill:{number}")
        undisturbed.judge(place, number)
        place.run("retry", run_id)
        place.recover()
        assert_sound(place, {run_id: expected}, point, number)
        return point

    points = sweep(places, undisturbed.start, judge)
    told += points
    undisturbed.assert_both_were_seen()
    assert names_of(points) >= {"RETRY_IN_TRANSACTION", "RETRY_AFTER_COMMIT", "PUBLISH_BETWEEN"}


def test_cancel(places, place, ward_of_four, told):
    expected = expect_of(place, ward_of_four)
    place.run("enqueue", ward_of_four)
    (run_id,) = place.run_ids()
    undisturbed = watch(place, "cancel", run_id)

    def judge(place, number):
        point, _ = place.strike("cancel", run_id, failpoint=f"any:kill:{number}")
        undisturbed.judge(place, number)
        place.run("cancel", run_id)
        assert place.sign() == undisturbed.after
        place.run("retry", run_id)
        place.recover()
        assert_sound(place, {run_id: expected}, point, number)
        return point

    points = sweep(places, undisturbed.start, judge)
    told += points
    undisturbed.assert_both_were_seen()
    assert names_of(points) == {"CANCEL_IN_TRANSACTION", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT"}


def test_promotion(places, place, told):
    place.run("models", "promote", "tiny@1")
    undisturbed = watch(place, "models", "promote", "tiny@2")

    def judge(place, number):
        point, _ = place.strike("models", "promote", "tiny@2", failpoint=f"any:kill:{number}")
        undisturbed.judge(place, number)
        with reading(place.engine) as connection:
            assert find_production(connection) is not None
        place.run("models", "promote", "tiny@2")
        assert place.sign() == undisturbed.after
        return point

    points = sweep(places, undisturbed.start, judge)
    told += points
    undisturbed.assert_both_were_seen()
    assert names_of(points) == {"PROMOTE_IN_TRANSACTION", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT"}


@pytest.mark.parametrize(
    ("places", "failpoint"),
    [
        ("sqlite", "write-after-commit:kill:3"),
        ("sqlite", "sweep-before:exit"),
        ("postgresql", "worker-in-commit:kill"),
        ("postgresql", "worker-before-top-up:raise"),
    ],
    indirect=["places"],
)
def test_the_program_itself_heals(place, ward_of_four, failpoint, tmp_path):
    """A worker as a user starts it, pool process, beat and all, sees a run through that is hit in the middle."""
    expected = expect_of(place, ward_of_four)
    struck = tmp_path / "struck"
    struck.mkdir()
    log = tmp_path / "worker.log"
    env = place.env | {
        "NIGHTREAD_LEASE_S": "1", "NIGHTREAD_SWEEP_S": "0.5", "NIGHTREAD_FAILPOINT": failpoint,
        "NIGHTREAD_FAILPOINT_DIR": str(struck),
    }  # fmt: skip
    place.run("enqueue", ward_of_four)
    (run_id,) = place.run_ids()
    with worker(env, tmp_path, log) as process:
        wait_until(lambda: list(struck.iterdir()), "the failpoint", 90)
        wait_until(lambda: not place.count_open(), "the end of the run", 90)
        assert process.poll() is None
        violations = place.check({run_id: expected})
    assert not violations, "\n".join(map(str, violations)) + log.read_text()
