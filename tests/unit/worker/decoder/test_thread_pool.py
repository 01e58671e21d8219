"""Threads return results in order, and a hanging thread does not block the others."""

import threading
import time

import pytest

from tests.program import wait_until
from worker.decoder.thread_pool import GivenUp, Overdue, Threads


@pytest.fixture
def threads():
    threads = Threads(1, "test")
    yield threads
    threads.close()


def raise_it(error):
    raise error


def test_work_is_done_in_the_order_of_submission(threads):
    done = []
    tasks = [threads.submit(done.append, number) for number in range(50)]
    for task in tasks:
        threads.wait(task, 60)
    assert done == list(range(50))


def test_no_more_threads_run_than_were_asked_for():
    threads = Threads(3, "test")
    meeting = threading.Barrier(3)
    assert {threads.wait(task, 60) for task in [threads.submit(meeting.wait, 60) for _ in range(3)]} == {0, 1, 2}
    names = [threads.submit(lambda: threading.current_thread().name) for _ in range(30)]
    assert {threads.wait(name, 60) for name in names} <= {"test-1", "test-2", "test-3"}
    threads.close()


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), TimeoutError("its own"), SystemExit(3)])
def test_what_work_raises_is_raised_where_it_is_waited_for(threads, error):
    with pytest.raises(type(error)):
        threads.wait(threads.submit(raise_it, error), 60)
    assert threads.wait(threads.submit(lambda: "alive"), 60) == "alive"


def test_what_does_not_come_back_is_given_up_and_replaced(threads):
    release = threading.Event()
    stuck, next_one = threads.submit(release.wait), threads.submit(lambda: "next")
    with pytest.raises(Overdue):
        threads.wait(stuck, 0.2)
    assert threads.stuck == 1
    assert threads.wait(next_one, 60) == "next"
    release.set()
    wait_until(lambda: threads.stuck == 0, "the thread to come back after all")
    before = {threads.wait(threads.submit(threading.get_ident), 60) for _ in range(20)}
    assert len(before) == 1  # it has made way for the other


def test_waiting_for_a_thread_does_not_count(threads):
    first, second = threads.submit(time.sleep, 0.6), threads.submit(time.sleep, 0.1)
    threads.wait(second, 0.5)
    assert first.done()


def test_what_was_done_by_then_is_never_overdue(threads):
    task = threads.submit(lambda: 1)
    wait_until(task.done, "the task")
    task.started_at -= 1000
    assert threads.wait(task, 0.001) == 1


def test_each_step_of_a_task_has_the_limit_by_itself(threads):
    def go():
        for _ in range(4):
            threads.begin_step()
            time.sleep(0.2)
        threads.begin_step(limited=False)
        time.sleep(0.7)
        return "done"

    assert threads.wait(threads.submit(go), 0.5) == "done"


def test_a_task_that_was_given_up_goes_no_further(threads):
    release, steps = threading.Event(), []

    def go():
        for step in range(3):
            threads.begin_step()
            steps.append(step)
            if step == 1:
                release.wait()

    task = threads.submit(go)
    with pytest.raises(Overdue):
        threads.wait(task, 0.2)
    release.set()
    wait_until(task.done, "the thread to come back after all")
    assert steps == [0, 1]
    assert isinstance(task.exception(), GivenUp)
