"""The split into train, validation and hold-out: by patient and stratified by label, or scan by scan at random."""

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
    VALIDATION = "validation"  # the checkpoint and the threshold are chosen on it
    HOLD_OUT = "hold-out"  # nothing is chosen on it: its figures go on the card


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of the scans each part gets, each above 0, 1 in sum."""

    train: float
    validation: float
    hold_out: float

    def __str__(self) -> str:
        return "/".join(f"{100 * share:g}" for share in (self.train, self.validation, self.hold_out))


def parse_shares(text: str) -> Shares:
    """Read shares such as `70/15/15`.

    Raises:
        TrainingError: not three positive numbers that make 100.
    """
    try:
        percents = [float(field) for field in text.split("/")]
    except ValueError:
        percents = []
    if len(percents) != 3 or not all(percent > 0 for percent in percents) or abs(sum(percents) - 100) > 1e-6:
        raise TrainingError(
            f"the split {text!r} is not three positive percentages that make 100; "
            "for example 70/15/15 for train, validation and hold-out"
        )
    return Shares(*(percent / 100 for percent in percents))


def group_scans(kin: Sequence[str], sha256: Sequence[str]) -> Indices:
    """Put scans that must stay together into one group: those of one kin, and those whose files are identical.

    Args:
        kin: of each of N scans.
        sha256: of each of N scans.

    Returns:
        (N,) int64, the group of each scan; groups count from 0 in the order of their smallest content hash, so that
        the names and places of the files do not matter.
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
    """Divide scans so that no group stands on two sides and each side has its share of every label.

    A group whose scans have several labels counts for the rarest of them.

    Args:
        groups: (N,) int64, from `group_scans`.
        targets: (N,) int64, indices into `classes`.
        classes: what a scan can be.
        shares: the parts' sizes.
        seed: the same seed and the same files give the same split.

    Returns:
        For each part the indices of its scans, ascending.

    Raises:
        DatasetError: fewer than three groups of a label; `count_groups` tells beforehand.
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups)
    stratum = find_strata(groups, targets, len(classes))
    part_of_group: dict[int, Part] = {}
    for number, label in enumerate(classes):
        members = np.flatnonzero(stratum == number)
        if len(members) < len(Part):
            raise DatasetError(
                f"{len(members)} patients are {label}; a split by patient needs at least {len(Part)}: add scans"
            )
        members = rng.permutation(members)
        part_of_group.update(zip(members.tolist(), _cut(sizes[members], shares), strict=True))
    parts = np.array([part_of_group[group] for group in groups.tolist()])
    return {part: np.flatnonzero(parts == part).astype(np.int64) for part in Part}


def count_groups(groups: Indices, targets: Targets, classes: Sequence[str]) -> dict[str, int]:
    """Return how many groups count for each label."""
    counts = np.bincount(find_strata(groups, targets, len(classes)), minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def split_by_scan(count: int, shares: Shares, *, seed: int) -> Mapping[Part, Indices]:
    """Divide scans at random, whoever's they are, as both articles did.

    A patient's scans, and copies of one file, come to stand on several sides: figures on such a split flatter.

    Args:
        count: N scans.
        shares: the parts' sizes.
        seed: the same seed and the same files give the same split.

    Returns:
        For each part the indices of its scans, ascending.

    Raises:
        DatasetError: too few scans for each side to have one.
    """
    train, validation = round(count * shares.train), round(count * shares.validation)
    if not (train and validation and count > train + validation):
        raise DatasetError(f"{count} scans are too few to be split {shares}: add scans")
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    cuts = np.split(order, [train, train + validation])
    return {part: np.sort(indices) for part, indices in zip(Part, cuts, strict=True)}


def find_strata(groups: Indices, targets: Targets, classes: int) -> Indices:
    """Return (G,) int64: for each group its label, the one with the fewest scans where it has several."""
    stratum = np.zeros(int(groups.max()) + 1, np.int64)
    scans = np.bincount(targets, minlength=classes)
    for label in np.argsort(-scans, kind="stable"):  # the rarest is written last
        stratum[groups[targets == label]] = label
    return stratum


def _cut(sizes: npt.NDArray[np.intp], shares: Shares) -> list[Part]:
    """Give each of at least three groups, in this order, to a part: hold-out first, each part at least one."""
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    hold_out = max(1, int((middles < shares.hold_out).sum()))
    hold_out = min(hold_out, len(sizes) - 2)
    validation = max(1, int((middles < shares.hold_out + shares.validation).sum()) - hold_out)
    validation = min(validation, len(sizes) - hold_out - 1)
    train = len(sizes) - hold_out - validation
    return [Part.HOLD_OUT] * hold_out + [Part.VALIDATION] * validation + [Part.TRAIN] * train


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
