"""A crash at every failpoint of a worker leaves consistent data, which later work completes.

A worker's transactions are many, so that it is judged by what comes of them: after sweeper and worker the checker finds
nothing wrong.
"""

import shutil

import pytest
from sqlalchemy import update

from db.engine import write
from db.tables import jobs
from tests.faults.forking import DRAIN
from tests.faults.places import CANARY, assert_sound, expect_of, names_of, sweep
from tests.program import wait_until, worker

pytestmark = pytest.mark.timeout(600)


def sweep_worker(places, start, accepted, failpoint, numbers=None, **settings):
    def judge(place, number):
        point, _ = place.strike(DRAIN, failpoint=failpoint.format(number), **settings)
        place.recover(**settings)
        assert_sound(place, accepted, point, number)
        return point

    return sweep(places, start, judge, numbers)


@pytest.fixture
def enqueued(place, ward_of_four, is_long):
    """A run with one job; with two under `--long`."""
    job_size = 2 if is_long else 4
    expected = expect_of(place, ward_of_four)
    place.run("enqueue", ward_of_four, job_size=job_size)
    (run_id,) = place.run_ids()
    return place.save(), {run_id: expected}


def test_worker_that_is_killed_at_any_point(places, enqueued, struck):
    points = sweep_worker(places, *enqueued, "any:kill:{}")
    struck += points
    assert names_of(points) >= {
        "WORKER_BEFORE_CLAIM", "WORKER_AFTER_CLAIM", "WORKER_BEFORE_COMMIT", "WORKER_AFTER_COMMIT",
        "WORKER_BEFORE_TOP_UP", "WORKER_BEFORE_ACK", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT",
        "WORKER_READING", "WORKER_AFTER_READ", "WORKER_BEFORE_SCORING", "WORKER_AFTER_SCORING", "WORKER_IN_COMMIT",
        "SWEEP_IN_CLOSING",
    }  # fmt: skip


@pytest.mark.parametrize("action", ["raise", "exit"])
def test_worker_that_meets_a_fault_at_any_point(places, enqueued, struck, action, is_long):
    """A fault of the point's own kind; `exit` is how Celery stops a task at once."""
    if not is_long and action == "exit":
        pytest.skip("for a long night: --long")
    struck += sweep_worker(places, *enqueued, f"any:{action}:{{}}")


def test_worker_that_is_killed_while_it_gives_a_job_back(places, enqueued, struck, is_long):
    numbers = None if is_long else range(1, 8)  # what follows is as in any other job
    points = sweep_worker(places, *enqueued, "worker-after-claim:raise:1,any:kill:{}", numbers)
    struck += points
    assert "WORKER_GIVE_BACK" in names_of(points)


def test_worker_that_is_killed_while_it_splits_a_job(places, place, ward_of_four, struck, is_long):
    expected = expect_of(place, ward_of_four)
    place.run("enqueue", ward_of_four, job_size=4)
    write(place.engine, lambda connection: connection.execute(update(jobs).values(crashes=3)))
    (run_id,) = place.run_ids()
    numbers = None if is_long else range(4, 17)  # until both halves are published
    points = sweep_worker(places, place.save(), {run_id: expected}, "any:kill:{}", numbers)
    struck += points
    assert "WORKER_IN_SPLIT" in names_of(points)


def test_worker_that_is_killed_while_it_puts_a_job_off(places, place, ward_of_four, struck, tmp_path, is_long):
    """One file is missing; the first of two attempts is interrupted."""
    ward = shutil.copytree(ward_of_four, tmp_path / CANARY)
    place.run("enqueue", ward, job_size=4)
    (ward / "d.png").unlink()
    start, (run_id,) = place.save(), place.run_ids()
    place.recover(max_attempts=2)
    expected = place.expect()
    assert [outcome.reason for _, outcome in sorted(expected.outcomes.items())] == [
        None,
        None,
        "damaged",
        "missing-file",
    ]
    numbers = None if is_long else range(12, 19)
    points = sweep_worker(places, start, {run_id: expected}, "any:kill:{}", numbers, max_attempts=2)
    struck += points
    assert "WORKER_PUT_OFF" in names_of(points)


@pytest.mark.parametrize("action", ["kill", "raise"])
def test_worker_whose_heartbeat_meets_a_fault(place, enqueued, struck, action):
    start, accepted = enqueued
    place.restore(start)
    slow = "worker-reading:sleep-0.8:1,worker-heartbeat:{}:1"
    point, _ = place.strike(DRAIN, failpoint=slow.format(action), lease_s=1, sweep_s=1)
    struck.append(point)
    assert point == "worker-heartbeat"
    place.recover()
    assert_sound(place, accepted, point, 1)


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
    """A complete worker with its pool process finishes a run that is interrupted in the middle."""
    expected = expect_of(place, ward_of_four)
    marks = tmp_path / "struck"
    marks.mkdir()
    log = tmp_path / "worker.log"
    env = place.env | {
        "NIGHTREAD_LEASE_S": "1", "NIGHTREAD_SWEEP_S": "0.5", "NIGHTREAD_FAILPOINT": failpoint,
        "NIGHTREAD_FAILPOINT_DIR": str(marks),
    }  # fmt: skip
    place.run("enqueue", ward_of_four)
    (run_id,) = place.run_ids()
    with worker(env, tmp_path, log) as process:
        wait_until(lambda: list(marks.iterdir()), "the failpoint", 90)
        wait_until(lambda: not place.count_open(), "the end of the run", 90)
        assert process.poll() is None
        violations = place.check({run_id: expected})
    assert not violations, "\n".join(map(str, violations)) + log.read_text()
