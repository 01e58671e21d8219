"""Turns of the classes of runs in a worker's requests for messages."""

from collections import Counter

import pytest

from worker.queue.turns import Turns

URGENT, NORMAL, BULK = "nightread.urgent", "nightread", "nightread.bulk"


def take(waiting, turns=90):
    """Take messages as Redis answers: from the first queue that has one."""
    cycle = Turns()
    cycle.update([BULK, NORMAL, URGENT])
    taken = Counter()
    for _ in range(turns):
        queue = next(queue for queue in cycle.consume(3) if queue in waiting)
        cycle.rotate(queue)
        taken[queue] += 1
    return taken


@pytest.mark.parametrize(
    ("waiting", "taken"),
    [
        ({URGENT, NORMAL}, {URGENT: 60, NORMAL: 30}),
        ({URGENT, BULK}, {URGENT: 60, BULK: 30}),
        ({NORMAL, BULK}, {NORMAL: 60, BULK: 30}),
        ({URGENT, NORMAL, BULK}, {URGENT: 60, NORMAL: 20, BULK: 10}),
        ({BULK}, {BULK: 90}),
    ],
)
def test_two_of_three_turns_go_to_the_higher_class_and_none_is_starved(waiting, taken):
    assert take(waiting) == taken


def test_the_first_turn_goes_to_the_highest_class():
    cycle = Turns()
    cycle.update([NORMAL, URGENT])
    assert cycle.consume(2) == [URGENT, NORMAL]


def test_a_worker_of_one_queue_looks_into_no_other():
    cycle = Turns()
    cycle.update([URGENT])
    for _ in range(4):
        assert cycle.consume(1) == [URGENT]
        cycle.rotate(URGENT)
