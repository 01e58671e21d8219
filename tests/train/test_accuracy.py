import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`: uv sync --extra train")

from exporter.accuracy import check_accuracy
from exporter.precision import LIMITS
from nightread.errors import ExportError
from nightread.model.card import Precision

RNG = np.random.default_rng(11)
TARGETS = np.arange(1000) % 4 > 0
SCORES = np.clip(RNG.normal(0.4 + 0.2 * TARGETS, 0.15), 0, 1).astype(np.float32)[:, np.newaxis]


def check(computed, *, precision=Precision.INT8, targets=TARGETS[:, np.newaxis], thresholds=(0.5,)):
    return check_accuracy(
        SCORES, computed, targets, thresholds=thresholds, labels=("pneumonia",), limits=LIMITS[precision]
    )


def turn(count):
    """Move the scores nearest to the threshold to its other side."""
    turned = SCORES.copy()
    nearest = np.argsort(np.abs(turned[:, 0] - 0.5))[:count]
    turned[nearest] = 1 - turned[nearest]
    return turned


@pytest.mark.parametrize(
    ("targets", "scores", "auc"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 1.0),
        ([0, 0, 1, 1], [0.4, 0.3, 0.2, 0.1], 0.0),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], 0.75),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 0.5),
        ([0, 1, 1], [0.5, 0.5, 0.7], 0.75),
    ],
)
def test_the_auc_is_how_often_a_scan_with_the_label_scores_higher(targets, scores, auc):
    column = np.array(scores)[:, np.newaxis]
    present = np.array(targets, bool)[:, np.newaxis]
    limits = LIMITS[Precision.FLOAT32]
    accuracy = check_accuracy(column, column, present, thresholds=(0.5,), labels=("pneumonia",), limits=limits)
    assert accuracy.source_auc == accuracy.auc == {"pneumonia": auc}


def test_five_of_a_thousand_decisions_may_change_and_not_six():
    assert check(turn(5)).decisions_changed == 5
    with pytest.raises(ExportError, match=r"6 of 1000 decisions on the hold-out change \(0.60%\); at most 0.50%"):
        check(turn(6))


def test_in_float32_no_decision_may_change():
    with pytest.raises(ExportError, match="1 of 1000 decisions"):
        check(turn(1), precision=Precision.FLOAT32)


def test_an_auc_that_falls_is_refused_though_no_decision_changes():
    computed = np.where(SCORES >= 0.5, np.float32(0.9), np.float32(0.1))
    with pytest.raises(ExportError, match=r"AUC of pneumonia falls from 0.8\d+ to 0.7\d+; at most 0.002 less"):
        check(computed)


def test_both_aucs_are_told():
    accuracy = check(SCORES)
    assert accuracy.scans == 1000
    assert accuracy.auc == accuracy.source_auc
    assert 0.7 < accuracy.auc["pneumonia"] < 1


def test_without_targets_or_with_one_kind_of_them_decisions_alone_are_compared():
    assert check(SCORES, targets=None).auc == {}
    assert check(SCORES, targets=np.ones((1000, 1), bool)).auc == {}
    with pytest.raises(ExportError, match="decisions"):
        check(turn(6), targets=None)
