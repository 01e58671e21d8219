"""The division of a data set in memory: which labels can be divided, whose scans belong together, and the split."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trainer.datasets import SplitBy, Task
from trainer.errors import DatasetError
from trainer.preparation import PreparedScans, select_scans
from trainer.splitting import Indices, Part, Shares, count_groups, group_scans, split_by_patient, split_by_scan


@dataclass(frozen=True, slots=True)
class Divided:
    """A data set in memory, ready to be fitted on.

    Attributes:
        task: without the labels that were left out.
        scans: N scans.
        groups: (N,) int64, whose scans belong together.
        split: for each part the indices of its scans.
        too_few_patients: labels that were left out since a split by patient cannot put them on three sides.
    """

    task: Task
    scans: PreparedScans
    groups: Indices
    split: Mapping[Part, Indices]
    too_few_patients: Mapping[str, int]


def divide(task: Task, scans: PreparedScans, split_by: SplitBy, shares: Shares, *, seed: int) -> Divided:
    """Divide scans as asked for; of many labels, those that a split by patient cannot divide are left out.

    Raises:
        DatasetError: a label that cannot be left out has fewer than three patients, or fewer than two labels remain.
    """
    groups = group_scans([scan.kin for scan in scans.scans], scans.sha256)
    if split_by is SplitBy.ARTICLE:
        return Divided(task, scans, groups, split_by_scan(len(groups), shares, seed=seed), {})
    patients = count_groups(groups, scans.targets, task.classes)
    too_few = {label: count for label, count in patients.items() if count < len(Part)}
    if task.activation == "softmax" and too_few:
        labels = tuple(label for label in task.labels if label not in too_few)
        if len(labels) < 2:
            raise DatasetError(
                f"only {len(labels)} of {len(task.labels)} labels have the {len(Part)} patients that a split by "
                "patient needs: add scans"
            )
        task = replace(task, labels=labels)
        kept = [place for place, scan in enumerate(scans.scans) if scan.label in labels]
        scans = select_scans(scans, kept, task.classes)
        # Again with what remains: a scan of a label that went may have been what held two patients together.
        remaining = divide(task, scans, split_by, shares, seed=seed)
        return replace(remaining, too_few_patients={**too_few, **remaining.too_few_patients})
    split = split_by_patient(groups, scans.targets, task.classes, shares, seed=seed)
    return Divided(task, scans, groups, split, {})
