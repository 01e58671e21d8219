"""Progress without a terminal: a line each minute or tenth, and none from a short command."""

import pytest

from cli.output.bar import LineBar


@pytest.fixture
def clock():
    """Time in seconds, which the test moves."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def bar(clock, lines):
    return LineBar("scoring", lines.append, clock)


def test_a_short_command_writes_nothing(bar, clock, lines):
    for completed in range(101):
        clock.now = completed / 12
        bar.set(completed, 100)
    assert lines == []


def test_a_tenth_of_the_work_is_a_line(bar, clock, lines):
    for completed in range(0, 1001, 10):
        clock.now = completed * 0.15  # a tenth takes 15 s
        bar.set(completed, 1000)
    assert len(lines) == 10
    assert lines[0] == "scoring: 100 of 1,000, 10%, 7 scans/s, 2 min 15 s left\n"


def test_a_minute_without_a_tenth_is_a_line(bar, clock, lines):
    for second in range(0, 181, 5):
        clock.now = second
        bar.set(second // 5, 100_000, "scoring, 2 workers")
    assert len(lines) == 3
    assert lines[0].startswith("scoring, 2 workers: 12 of 100,000, 0%, 0 scans/s")


def test_what_was_done_before_does_not_count_for_the_rate(bar, clock, lines):
    bar.set(900, 1000)
    clock.now = 100
    bar.set(1000, 1000)
    assert lines == ["scoring: 1,000 of 1,000, 100%, 1 scans/s, 0.0 s left\n"]


def test_waiting_for_a_worker_says_so(bar, clock, lines):
    bar.set(0, 50)
    clock.now = 61
    bar.set(0, 50, "waiting for a worker")
    assert lines == ["waiting for a worker: 0 of 50, 0%\n"]
