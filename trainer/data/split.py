"""Split into train, validation and hold-out: by patient and stratified by label, or scan by scan at random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from trainer.data.dataset import SplitBy, Task
from trainer.data.load import PreparedScans, select_scans
from trainer.errors import DatasetError, TrainingError

Indices = npt.NDArray[np.int64]
Targets = npt.NDArray[np.int64]


class Part(StrEnum):
    """The sides of a split."""

    TRAIN = "train"  # weights are fitted on it
    VALIDATION = "validation"  # checkpoint and threshold are chosen on it
    HOLD_OUT = "hold-out"  # nothing is chosen on it; its figures go on the card


@dataclass(frozen=True, slots=True)
class Shares:
    """Share of the scans in each part; each is above 0, and they add up to 1."""

    train: float
    validation: float
    hold_out: float

    def __str__(self) -> str:
        return "/".join(f"{100 * share:g}" for share in (self.train, self.validation, self.hold_out))


def parse_shares(text: str) -> Shares:
    """Parse shares such as `70/15/15`.

    Raises:
        TrainingError: not three positive numbers that add up to 100.
    """
    try:
        percents = [float(field) for field in text.split("/")]
    except ValueError:
        percents = []
    if len(percents) != 3 or not all(percent > 0 for percent in percents) or abs(sum(percents) - 100) > 1e-6:
        raise TrainingError(
            f"the split {text!r} is not three positive percentages that add up to 100, "
            "such as 70/15/15 for train, validation and hold-out"
        )
    return Shares(*(percent / 100 for percent in percents))


def group_scans(kin: Sequence[str], sha256: Sequence[str]) -> Indices:
    """Group scans that must stay together: those of one kin, and those of identical files.

    Args:
        kin: of each of N scans.
        sha256: of each of N scans.

    Returns:
        (N,) int64, the group of each scan. Groups are numbered from 0 in the order of their smallest SHA-256, so that
        names and folders of the files do not matter.
    """
    leader_of_key: dict[str, int] = {}
    parents = list(range(len(kin)))

    def find(scan: int) -> int:
        while parents[scan] != scan:
            parents[scan] = parents[parents[scan]]
            scan = parents[scan]
        return scan

    for scan, keys in enumerate(zip(kin, sha256, strict=True)):
        for key in (f"kin {keys[0]}", f"sha256 {keys[1]}"):
            parents[find(scan)] = find(leader_of_key.setdefault(key, scan))
    roots = [find(scan) for scan in range(len(kin))]
    first_hash: dict[int, str] = {}
    for root, digest in zip(roots, sha256, strict=True):
        first_hash[root] = min(digest, first_hash.get(root, digest))
    numbers = {root: number for number, root in enumerate(sorted(first_hash, key=first_hash.__getitem__))}
    return np.array([numbers[root] for root in roots], np.int64)


def split_by_patient(
    groups: Indices, targets: Targets, classes: Sequence[str], shares: Shares, *, seed: int
) -> Mapping[Part, Indices]:
    """Split scans so that no group is on two sides and each side has its share of every label.

    A group with several labels counts for the rarest of them.

    Args:
        groups: (N,) int64, from `group_scans`.
        targets: (N,) int64, indices into `classes`.
        classes: of the task.
        shares: sizes of the parts.
        seed: the same seed and the same files give the same split.

    Returns:
        Ascending indices of the scans of each part.

    Raises:
        DatasetError: a label has fewer than three groups; `count_groups` counts them.
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups)
    stratum = find_strata(groups, targets, len(classes))
    part_of_group: dict[int, Part] = {}
    for number, label in enumerate(classes):
        members = np.flatnonzero(stratum == number)
        if len(members) < len(Part):
            raise DatasetError(
                f"{label} has {len(members)} patients; a split by patient needs at least {len(Part)}: add scans"
            )
        members = rng.permutation(members)
        part_of_group.update(zip(members.tolist(), _cut(sizes[members], shares), strict=True))
    parts = np.array([part_of_group[group] for group in groups.tolist()])
    return {part: np.flatnonzero(parts == part).astype(np.int64) for part in Part}


def count_groups(groups: Indices, targets: Targets, classes: Sequence[str]) -> dict[str, int]:
    """Count the groups of each label."""
    counts = np.bincount(find_strata(groups, targets, len(classes)), minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def split_by_scan(count: int, shares: Shares, *, seed: int) -> Mapping[Part, Indices]:
    """Split scans at random regardless of patients, as in both articles.

    Scans of a patient, and copies of a file, are on several sides: figures on such a split are too good.

    Args:
        count: N scans.
        shares: sizes of the parts.
        seed: the same seed and the same files give the same split.

    Returns:
        Ascending indices of the scans of each part.

    Raises:
        DatasetError: there are too few scans for three parts.
    """
    train, validation = round(count * shares.train), round(count * shares.validation)
    if not (train and validation and count > train + validation):
        raise DatasetError(f"{count} scans are too few for a split {shares}: add scans")
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    cuts = np.split(order, [train, train + validation])
    return {part: np.sort(indices) for part, indices in zip(Part, cuts, strict=True)}


def split_as_given(scans: PreparedScans, groups: Indices, classes: Sequence[str]) -> Mapping[Part, Indices]:
    """Split scans as the data set says.

    Args:
        scans: N scans, each with its part.
        groups: (N,) int64, from `group_scans`.
        classes: of the task.

    Returns:
        Ascending indices of the scans of each part.

    Raises:
        DatasetError: a part lacks a label, or a patient or a file stands on two sides.
    """
    parts = np.array([scan.part for scan in scans.scans])
    split = {part: np.flatnonzero(parts == part.value).astype(np.int64) for part in Part}
    for part, places in split.items():
        if lacking := [classes[target] for target in range(len(classes)) if target not in scans.targets[places]]:
            raise DatasetError(f"the given split has no {lacking[0]} scans in {part}; every part needs every label")
    sides: dict[int, set[str]] = {}
    for group, part_name in zip(groups.tolist(), parts.tolist(), strict=True):
        sides.setdefault(group, set()).add(part_name)
    if torn := sum(len(found) > 1 for found in sides.values()):
        raise DatasetError(
            f"{torn} patients, or files that are identical, stand on several sides of the given split; keep each on "
            "one side, or leave out the column split"
        )
    return split


def find_strata(groups: Indices, targets: Targets, classes: int) -> Indices:
    """Return (G,) int64, the label of each group: the rarest one of several."""
    stratum = np.zeros(int(groups.max()) + 1, np.int64)
    scans = np.bincount(targets, minlength=classes)
    for label in np.argsort(-scans, kind="stable"):  # the rarest is assigned last
        stratum[groups[targets == label]] = label
    return stratum


def _cut(sizes: npt.NDArray[np.intp], shares: Shares) -> list[Part]:
    """Assign at least three groups in order to parts: hold-out first, at least one group to each part."""
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    hold_out = max(1, int((middles < shares.hold_out).sum()))
    hold_out = min(hold_out, len(sizes) - 2)
    validation = max(1, int((middles < shares.hold_out + shares.validation).sum()) - hold_out)
    validation = min(validation, len(sizes) - hold_out - 1)
    train = len(sizes) - hold_out - validation
    return [Part.HOLD_OUT] * hold_out + [Part.VALIDATION] * validation + [Part.TRAIN] * train


@dataclass(frozen=True, slots=True)
class Divided:
    """A data set in memory, split for a fit.

    Attributes:
        task: without the labels that were left out.
        scans: N scans.
        groups: (N,) int64, the group of each scan.
        split: indices of the scans of each part.
        too_few_patients: labels that were left out, with their number of patients: a split by patient needs three.
    """

    task: Task
    scans: PreparedScans
    groups: Indices
    split: Mapping[Part, Indices]
    too_few_patients: Mapping[str, int]


def divide(task: Task, scans: PreparedScans, split_by: SplitBy, shares: Shares, *, seed: int) -> Divided:
    """Split scans; with several labels, those with too few patients for a split by patient are left out.

    A split that the data set gives itself is taken as it is.

    Raises:
        DatasetError: a given split is not whole, the single label has fewer than three patients, or fewer than two
            labels remain.
    """
    groups = group_scans([scan.kin for scan in scans.scans], scans.sha256)
    if all(scan.part for scan in scans.scans):
        return Divided(task, scans, groups, split_as_given(scans, groups, task.classes), {})
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
        # Split again without them: a scan of a label that was left out may have joined two patients.
        remaining = divide(task, scans, split_by, shares, seed=seed)
        return replace(remaining, too_few_patients={**too_few, **remaining.too_few_patients})
    split = split_by_patient(groups, scans.targets, task.classes, shares, seed=seed)
    return Divided(task, scans, groups, split, {})
