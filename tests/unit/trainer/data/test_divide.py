from dataclasses import replace

import numpy as np
import pytest

from trainer.data.dataset import LabelledScan, SplitBy, Task
from trainer.data.load import PreparedScans
from trainer.data.split import Part, Shares, divide
from trainer.errors import DatasetError

SHARES = Shares(0.6, 0.2, 0.2)


def make(labels, patients=None):
    """Return a task of all labels with one scan per entry, by default each of its own patient."""
    patients = patients or [f"patient {place}" for place in range(len(labels))]
    scans = tuple(
        LabelledScan(f"{place}.png", label, who, who)
        for place, (label, who) in enumerate(zip(labels, patients, strict=True))
    )
    task = Task(tuple(sorted(set(labels))), "softmax")
    inputs = np.arange(len(scans), dtype=np.float32)[:, None, None, None] * np.ones((1, 8, 8, 1), np.float32)
    prepared = PreparedScans(
        scans,
        np.broadcast_to(inputs, (len(scans), 8, 8, 3)),
        np.array([task.classes.index(label) for label in labels]),
        tuple(f"{place:064x}" for place in range(len(scans))),
        (),
    )
    return task, prepared


def test_labels_with_fewer_than_three_patients_are_left_out_of_a_split_by_patient():
    task, scans = make(["common"] * 10 + ["other"] * 5 + ["rare"] * 4, [*map(str, range(15)), "x", "x", "x", "y"])
    divided = divide(task, scans, SplitBy.PATIENT, SHARES, seed=1)
    assert divided.too_few_patients == {"rare": 2}
    assert divided.task.labels == ("common", "other")
    assert len(divided.scans.scans) == 15
    assert {scan.label for scan in divided.scans.scans} == {"common", "other"}
    for place, scan in enumerate(divided.scans.scans):
        assert divided.task.classes[divided.scans.targets[place]] == scan.label
        assert divided.scans.inputs[place].max() == float(scan.path.removesuffix(".png"))  # still its own pixels
    assert sum(len(divided.split[part]) for part in Part) == 15


def test_the_articles_split_keeps_rare_labels():
    task, scans = make(["common"] * 10 + ["rare"])
    divided = divide(task, scans, SplitBy.ARTICLE, SHARES, seed=1)
    assert divided.task == task
    assert not divided.too_few_patients


def test_one_label_that_remains_is_refused():
    task, scans = make(["common"] * 10 + ["rare"] * 2)
    with pytest.raises(DatasetError, match="only 1 of 2 labels have the 3 patients"):
        divide(task, scans, SplitBy.PATIENT, SHARES, seed=1)


def give_parts(scans, parts):
    given = tuple(replace(scan, part=part) for scan, part in zip(scans.scans, parts, strict=True))
    return replace(scans, scans=given)


def test_a_given_split_is_taken_as_it_is():
    task, scans = make(["a", "b"] * 3)
    parts = ["train", "train", "hold-out", "hold-out", "validation", "validation"]
    divided = divide(task, give_parts(scans, parts), SplitBy.PATIENT, SHARES, seed=1)
    assert {part: places.tolist() for part, places in divided.split.items()} == {
        Part.TRAIN: [0, 1], Part.VALIDATION: [4, 5], Part.HOLD_OUT: [2, 3],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "patients", "message"),
    [
        (["train", "train", "hold-out", "hold-out", "validation", "train"], None, "no b scans in validation"),
        (["train", "train", "hold-out", "hold-out", "validation", "validation"], "xyxzvw", "1 patients"),
    ],
)
def test_a_given_split_without_a_label_or_with_a_torn_patient_is_refused(parts, patients, message):
    task, scans = make(["a", "b"] * 3, patients and list(patients))
    with pytest.raises(DatasetError, match=message):
        divide(task, give_parts(scans, parts), SplitBy.PATIENT, SHARES, seed=1)
