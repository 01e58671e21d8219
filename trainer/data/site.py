"""Labelled scans of another site: thresholds and calibration are chosen on them too, no weight is fitted on them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from nightread.scan.preprocessing import InputSpec
from trainer.data.dataset import Choices, Dataset, Task
from trainer.data.load import PreparedScans, prepare_scans, select_scans
from trainer.data.split import Indices, group_scans
from trainer.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Site:
    """The labelled scans of another site.

    Attributes:
        name: of its folder, as figures are named after it.
        scans: N scans.
        groups: (N,) int64, whose scans belong together.
    """

    name: str
    scans: PreparedScans
    groups: Indices


def read_site(
    dataset: Dataset,
    folder: Path,
    choices: Choices,
    task: Task,
    spec: InputSpec,
    *,
    trained_on: Collection[str],
    report: Callable[[int, int], None],
) -> Site:
    """Read the labelled scans of another site.

    Args:
        dataset: how the folder is read.
        folder: of the site.
        choices: as for the training.
        task: of the training; the site must have all of its classes.
        spec: the network's input.
        trained_on: SHA-256 of the training's own files; such a file is left out here.
        report: is told (scans done, scans in all).

    Raises:
        DatasetError: a class has no scans.
    """
    listing = dataset.list_scans(folder, choices)
    known = tuple(scan for scan in listing.scans if scan.label in task.classes)
    scans = prepare_scans(replace(listing, task=task, scans=known), spec, report=report)
    others = [place for place, digest in enumerate(scans.sha256) if digest not in trained_on]
    scans = select_scans(scans, others, task.classes)
    missing = [label for label in task.classes if not any(scan.label == label for scan in scans.scans)]
    if missing:
        raise DatasetError(
            f"{folder} holds no {missing[0]} scans besides those of the training; a calibration set needs every label"
        )
    groups = group_scans([scan.kin for scan in scans.scans], scans.sha256)
    return Site(folder.resolve().name, scans, groups)
