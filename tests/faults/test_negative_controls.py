"""Negative controls: with a guard disabled in the workers, the harness reports what the guard prevents."""

import pytest

from tests.faults.case import Case
from tests.faults.rows.redis import redis_emptied, redis_killed_and_empty
from tests.faults.rows.workers import late_writer, main_process_killed, messages_lost_on_the_way

SEED = 1


@pytest.fixture
def play(rig, tmp_path):
    """Run a row with a guard disabled in the workers; returns the violations."""
    cases = []

    def play(row, without, work_s=15):
        case = Case(rig, SEED, tmp_path, without=without)
        case.work_s = work_s
        cases.append(case)
        return row(case)

    yield play
    for case in cases:
        case.clear()


def lost(violations):
    return [violation for violation in violations if violation.invariant == "I1" and "scans lost" in violation.text]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", [messages_lost_on_the_way, redis_killed_and_empty, redis_emptied])
def test_without_the_sweeper_scans_are_lost(play, row):
    assert lost(play(row, "sweeper"))


@pytest.mark.timeout(600)
def test_without_the_fencing_token_a_late_writer_s_results_count(play):
    wrong = [violation for violation in play(late_writer, "fencing") if violation.invariant == "I4"]
    assert wrong
    assert "scored" in wrong[0].text


@pytest.mark.timeout(600)
def test_with_late_acknowledgement_celery_alone_brings_back_what_a_killed_worker_held(play):
    assert not lost(play(main_process_killed, "sweeper", work_s=120))


@pytest.mark.timeout(600)
def test_without_late_acknowledgement_it_does_not(play):
    assert lost(play(main_process_killed, "sweeper,late-acknowledgement"))
