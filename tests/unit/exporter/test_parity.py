import numpy as np
import pytest

from exporter.parity import check_independence, check_parity, choose_batch_sizes
from nightread.errors import ParityMismatch
from nightread.inference.bundle_check import BATCH_SIZES
from nightread.scan.preprocessing import InputSpec

SCANS = np.linspace(0, 1, 10, dtype=np.float32).reshape(10, 1, 1, 1)


def score(scans):
    """Score a scan with its only pixel."""
    return scans[:, 0, 0, :]


def is_second(scans):
    return (np.arange(len(scans)) == 1)[:, np.newaxis]


def is_middle(scans):
    return (score(scans) > 0.5) & (score(scans) < 0.9)


def check(compute, thresholds=(0.5,)):
    return check_parity(score, compute, SCANS, thresholds)


def test_equal_models_pass_at_every_batch_size():
    seen = []
    parity = check(lambda scans: (seen.append(len(scans)), score(scans))[1])
    assert seen == [*BATCH_SIZES, 256, 10]
    assert BATCH_SIZES == (1, 2, 7, 32)
    assert parity.largest_difference == 0
    assert parity.scans == 10


def test_the_largest_difference_is_told():
    assert check(lambda scans: score(scans) + np.float32(5e-6)).largest_difference == pytest.approx(5e-6, rel=0.05)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda scans: score(scans) + np.float32(1e-3), "differ from Keras' by up to 0.001 at batch size 1"),
        (lambda scans: score(scans)[:, 0], r"shape \(1,\), Keras \(1, 1\)"),
        (lambda scans: score(scans).astype(np.float64), "float64 scores, Keras float32"),
        (lambda scans: score(scans) * np.float32(np.nan), "not finite"),
        (lambda scans: score(scans) + np.float32(0.1 * (len(scans) == 7)), "at batch size 7"),
        (lambda scans: score(scans[::-1]), "at batch size 2"),
    ],
)
def test_each_difference_has_its_own_message(compute, message):
    with pytest.raises(ParityMismatch, match=message):
        check(compute)


def test_a_decision_that_turns_within_the_tolerance_is_refused():
    threshold = float(SCANS[4, 0, 0, 0])
    with pytest.raises(ParityMismatch, match="1 decisions of the converted model differ"):
        check(lambda scans: score(scans) - np.float32(1e-6), (threshold,))


def test_without_thresholds_the_highest_score_decides():
    def pair(scans):
        return np.concatenate([score(scans), 1 - score(scans)], axis=1)

    assert check_parity(pair, pair, SCANS, ()).largest_difference == 0


def test_every_scan_is_compared_though_no_batch_of_the_sizes_holds_it():
    scans = np.linspace(0, 1, 1000, dtype=np.float32).reshape(1000, 1, 1, 1)

    def compute(batch):
        return score(batch) + np.float32(0.1) * (score(batch) == scans[997, 0, 0, 0])

    with pytest.raises(ParityMismatch, match=r"differ from Keras' by up to 0\.1 at batch size 232"):
        check_parity(score, compute, scans, (0.5,))
    assert check_parity(score, score, scans, (0.5,)).scans == 1000


def test_batches_hold_scans_from_first_to_last_since_they_are_listed_label_by_label():
    batches = []
    check(lambda scans: (batches.append(scans[:, 0, 0, 0].tolist()), score(scans))[1])
    assert batches[1] == [0, 1]
    assert len(set(batches[3])) == 10


def test_decisions_may_differ_where_a_precision_allows_it():
    threshold = float(SCANS[4, 0, 0, 0])
    parity = check_parity(
        score, lambda scans: score(scans) - np.float32(1e-6), SCANS, (threshold,), same_decisions=False
    )
    assert parity.largest_difference > 0


def test_a_scan_scores_the_same_in_any_batch_and_position():
    assert check_independence(score, SCANS) == 0
    assert check_independence(lambda scans: score(scans) + np.float32(5e-7) * (len(scans) > 1), SCANS) < 1e-6


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda scans: score(scans) + np.float32(1e-3) * (len(scans) > 1), "at batch size 2 it differs by 0.001"),
        (lambda scans: score(scans) - score(scans).mean(keepdims=True), "at batch size 2 it differs by 0.5"),
        (
            lambda scans: score(scans) + np.float32(1e-3) * (is_middle(scans) & is_second(scans)),
            "at every position",
        ),
    ],
)
def test_a_score_that_depends_on_its_neighbours_is_refused(compute, message):
    with pytest.raises(ParityMismatch, match=message):
        check_independence(compute, SCANS)


def test_the_largest_batch_is_what_memory_allows():
    assert choose_batch_sizes(InputSpec(height_px=75, width_px=75, channels=3).scored_at_once) == (1, 2, 7, 32, 256)
    assert choose_batch_sizes(InputSpec(height_px=192, width_px=192, channels=3).scored_at_once) == (1, 2, 7, 32, 64)
    assert choose_batch_sizes(InputSpec(height_px=4096, width_px=4096, channels=1).scored_at_once) == (1,)


def test_independence_looks_at_no_more_scans_than_fit():
    seen = []
    check_independence(lambda scans: (seen.append(len(scans)), score(scans))[1], SCANS, at_once=4)
    assert max(seen) == 4
