import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.pediatric import PEDIATRIC
from trainer.data.split import Part, Shares, count_groups, group_scans, parse_shares, split_by_patient, split_by_scan
from trainer.errors import DatasetError, TrainingError

SHARES = Shares(0.7, 0.15, 0.15)
CLASSES = ("normal", "pneumonia")

#: Scans as (patient, content); few of either, so that patients share files and files share patients.
SCANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=120)


def group(scans):
    return group_scans([f"person{patient}" for patient, _ in scans], [f"{content:04d}" for _, content in scans])


def alternate_labels(groups):
    """Give every other group the label, so that both strata have groups."""
    return (groups % 2).astype(np.int64)


@given(SCANS)
def test_a_patient_and_a_file_are_in_one_group_each(scans):
    groups = group(scans)
    for key in (0, 1):
        groups_of = {}
        for scan, number in zip(scans, groups.tolist(), strict=True):
            groups_of.setdefault(scan[key], set()).add(number)
        assert all(len(numbers) == 1 for numbers in groups_of.values())


@given(SCANS)
def test_groups_do_not_depend_on_the_order_of_the_scans(scans):
    forward, backward = group(scans), group(scans[::-1])
    assert forward.tolist() == backward.tolist()[::-1]


def test_patients_that_share_a_file_through_a_third_are_together():
    groups = group_scans(["a", "b", "b", "c", "d"], ["1", "1", "2", "2", "3"])
    assert len(set(groups.tolist())) == 2
    assert len(set(groups[:4].tolist())) == 1


@given(SCANS, st.integers(0, 2**32))
def test_every_scan_is_on_one_side_and_no_patient_or_file_on_two(scans, seed):
    groups = group(scans)
    if groups.max() < 5:  # three groups of each label are needed
        return
    split = split_by_patient(groups, alternate_labels(groups), CLASSES, SHARES, seed=seed)
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(len(scans)))
    for key in (0, 1):
        sides = [{scans[index][key] for index in split[part].tolist()} for part in Part]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]


@given(st.integers(3, 60), st.integers(3, 60), st.integers(0, 2**32))
def test_each_side_holds_both_labels(positive, negative, seed):
    groups = np.arange(positive + negative)
    targets = (groups < positive).astype(np.int64)
    for indices in split_by_patient(groups, targets, CLASSES, SHARES, seed=seed).values():
        assert set(targets[indices].tolist()) == {0, 1}


def test_shares_and_the_balance_of_labels_are_kept():
    groups = np.arange(4000)
    targets = (groups < 3000).astype(np.int64)
    split = split_by_patient(groups, targets, CLASSES, SHARES, seed=1)
    assert [len(split[part]) for part in Part] == [2800, 600, 600]
    assert [float(targets[split[part]].mean()) for part in Part] == [0.75, 0.75, 0.75]


def test_the_seed_decides():
    groups = np.arange(200)
    targets = (groups % 2).astype(np.int64)
    first, again, other = (split_by_patient(groups, targets, CLASSES, SHARES, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[part], again[part]) for part in Part)
    assert not np.array_equal(first[Part.HOLD_OUT], other[Part.HOLD_OUT])


def test_too_few_patients_are_refused():
    with pytest.raises(DatasetError, match="pneumonia has 2 patients"):
        split_by_patient(np.arange(10), np.array([1, 1] + [0] * 8, np.int64), CLASSES, SHARES, seed=0)


def test_shares_are_read():
    assert parse_shares("70/15/15") == SHARES
    assert str(SHARES) == "70/15/15"


@pytest.mark.parametrize("text", ["", "70/30", "70/15/14", "100/0/0", "a/b/c", "70/15/15/0", "nan/1/1", "-70/85/85"])
def test_wrong_shares_are_refused_with_an_example(text):
    with pytest.raises(TrainingError, match="such as 70/15/15"):
        parse_shares(text)


@given(st.integers(4, 400), st.integers(0, 2**32))
def test_the_articles_split_puts_every_scan_on_one_side(count, seed):
    split = split_by_scan(count, Shares(0.6, 0.2, 0.2), seed=seed)
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(count))
    assert all(len(indices) for indices in split.values())


def test_the_articles_shares_give_the_articles_counts():
    split = split_by_scan(5856, parse_shares(PEDIATRIC.article_shares), seed=1)
    assert [len(split[part]) for part in Part] == [5153, 632, 71]


def test_too_few_scans_for_the_articles_split_are_refused():
    with pytest.raises(DatasetError, match="2 scans are too few"):
        split_by_scan(2, SHARES, seed=0)


def test_a_group_of_several_labels_counts_for_the_rarest():
    groups, targets = np.array([0, 0, 1, 2, 3]), np.array([0, 2, 0, 1, 1])
    assert count_groups(groups, targets, ("a", "b", "c")) == {"a": 1, "b": 2, "c": 1}
