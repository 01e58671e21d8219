"""Reconciliation: the sum that closes a run."""

import pytest

from db.tallies import RunCounts, reconcile


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (RunCounts(scored=1, rejected=1, failed=1), "3 found = 1 scored + 1 rejected + 1 failed"),
        (RunCounts(queued=2, scored=1), "3 found = 1 scored + 0 rejected + 0 failed + 2 still to be scored"),
        (RunCounts(scored=2), "3 found IS NOT 2 scored + 0 rejected + 0 failed"),
    ],
)
def test_the_sum_of_a_run_is_told_or_its_fault(counts, sentence):
    assert reconcile(3, counts).startswith(sentence)
