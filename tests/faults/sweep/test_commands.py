"""A crash at every failpoint of every command that writes leaves consistent data, which later work completes.

As SQLite tests itself: a crash at the N-th point for N = 1, 2, ... until a command comes through. What was one
transaction is there as before it or as after it.
"""

import pytest
from sqlalchemy import update

from db.consistency import check_ledger
from db.engine import reading, write
from db.registry import find_production
from db.tables import jobs, runs
from db.types import RunStatus, database_now
from tests.db_factories import job_ids
from tests.factories import small_chest, write_jpeg
from tests.faults.places import CANARY, assert_sound, expect_of, names_of, sweep, watch

pytestmark = pytest.mark.timeout(600)


def test_enqueue(places, place, ward_of_four, struck):
    expected = expect_of(place, ward_of_four)
    undisturbed = watch(place, "enqueue", ward_of_four)

    def judge(place, number, action="kill"):
        point, _ = place.strike("enqueue", ward_of_four, failpoint=f"any:{action}:{number}")
        uncertain = expected if undisturbed.judge(place, number) == "after" else None
        place.run("enqueue", ward_of_four)  # nobody was struck of a run
        place.recover()
        assert_sound(place, {place.run_ids()[-1]: expected}, point, number, uncertain=uncertain)
        return point

    points = sweep(places, undisturbed.start, judge)
    struck += points
    undisturbed.assert_both_were_seen()
    assert names_of(points) == {
        "ENQUEUE_IN_TRANSACTION", "ENQUEUE_BEFORE_COMMIT", "ENQUEUE_AFTER_COMMIT", "WRITE_BEFORE_COMMIT",
        "WRITE_AFTER_COMMIT", "PUBLISH_AFTER_MARK", "PUBLISH_BETWEEN", "PUBLISH_AFTER_SENDING",
    }  # fmt: skip


@pytest.mark.parametrize("action", ["kill", "raise"])
def test_enqueue_that_can_neither_send_nor_take_its_marks_back(place, ward_of_four, struck, action):
    expected = expect_of(place, ward_of_four)
    point, _ = place.strike(
        "enqueue", ward_of_four, failpoint=f"publish-between:raise:1,publish-before-unmark:{action}:1"
    )
    struck.append(point)
    assert point == "publish-before-unmark"
    place.recover()
    assert_sound(place, {place.run_ids()[-1]: expected}, point, 1)


def test_enqueue_that_meets_a_fault(places, place, ward_of_four, struck):
    """A connection breaks during the commit: the run is stored once, whether or not the commit succeeded."""
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

    struck += sweep(places, undisturbed.start, judge)


def test_sweeper(places, place, ward_of_four, struck, tmp_path):
    """A run to close, and one with a dead worker's job, lost messages and unsent messages."""
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
    struck += points
    assert names_of(points) == {
        "SWEEP_BEFORE", "SWEEP_IN_CLOSING", "SWEEP_AFTER_CLOSING", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT",
        "PUBLISH_AFTER_MARK", "PUBLISH_BETWEEN", "PUBLISH_AFTER_SENDING",
    }  # fmt: skip


def test_retry(places, place, ward_of_four, struck):
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
    struck += points
    undisturbed.assert_both_were_seen()
    assert names_of(points) >= {"RETRY_IN_TRANSACTION", "RETRY_AFTER_COMMIT", "PUBLISH_BETWEEN"}


def test_cancel(places, place, ward_of_four, struck):
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
    struck += points
    undisturbed.assert_both_were_seen()
    assert names_of(points) == {"CANCEL_IN_TRANSACTION", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT"}


def test_promotion(places, place, struck):
    place.run("models", "promote", "tiny@1", "--yes")
    undisturbed = watch(place, "models", "promote", "tiny@2", "--yes")

    def judge(place, number):
        point, _ = place.strike("models", "promote", "tiny@2", "--yes", failpoint=f"any:kill:{number}")
        undisturbed.judge(place, number)
        with reading(place.engine) as connection:
            assert find_production(connection) is not None
        place.run("models", "promote", "tiny@2", "--yes")
        assert place.sign() == undisturbed.after
        return point

    points = sweep(places, undisturbed.start, judge)
    struck += points
    undisturbed.assert_both_were_seen()
    assert names_of(points) == {"PROMOTE_IN_TRANSACTION", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT"}


def test_prune(places, place, ward_of_four, struck):
    """Short transactions: whichever is struck, the rows agree, and the next command deletes what is left."""
    expected = expect_of(place, ward_of_four)
    place.run("enqueue", ward_of_four)
    place.run("enqueue", ward_of_four, job_size=2)
    place.recover()
    old, young = place.run_ids()
    long_ago = update(runs).where(runs.c.id == old).values(finished_at=database_now(-1_000_000))
    write(place.engine, lambda connection: connection.execute(long_ago))
    undisturbed = watch(place, "prune", "--older-than", "7d")

    def judge(place, number):
        point, _ = place.strike("prune", "--older-than", "7d", failpoint=f"any:kill:{number}")
        with reading(place.engine) as connection:
            assert [rule for rule in check_ledger(connection) if rule.broken and rule.is_fault] == []
        place.run("prune", "--older-than", "7d")
        assert place.sign() == undisturbed.after
        assert place.run_ids() == [young]
        assert_sound(place, {young: expected}, point, number)
        return point

    points = sweep(places, undisturbed.start, judge)
    struck += points
    assert names_of(points) == {"PRUNE_IN_TRANSACTION", "WRITE_BEFORE_COMMIT", "WRITE_AFTER_COMMIT"}
