"""Evaluation of any network on any folder of labelled scans: all of them are scored."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nightread.scan.preprocessing import InputSpec, Tensor, complete_input
from trainer.data.dataset import Choices, Dataset, Listing, Task
from trainer.data.labels import match_label
from trainer.data.load import Unreadable, prepare_scans
from trainer.data.split import group_scans
from trainer.errors import DatasetError
from trainer.evaluation.metrics import Evaluation, PartScores, evaluate, spread_scores
from trainer.evaluation.mistakes import Mistake, find_mistakes
from trainer.evaluation.operating_points import BALANCED

#: Random seed of the intervals.
SEED = 2018


@dataclass(frozen=True, slots=True)
class Network:
    """A network to evaluate.

    Attributes:
        task: its labels.
        input: of the network.
        threshold: of its one label; None if the highest score decides.
        score: maps (N, H, W, C) prepared scans to (N, L) scores.
    """

    task: Task
    input: InputSpec
    threshold: float | None
    score: Callable[[Tensor], npt.NDArray[np.floating]]


@dataclass(frozen=True, slots=True)
class Assessment:
    """Result of an evaluation.

    Attributes:
        scores: of every scan.
        evaluation: figures; the baseline always answers with the most frequent label of this folder.
        left_alone: number of scans and files that were not scored, by reason.
        unreadable: scans that could not be read.
        missing: names of scans that a table names and no folder holds.
        mistakes: the worst ones.
    """

    scores: PartScores
    evaluation: Evaluation
    left_alone: Mapping[str, int]
    unreadable: Sequence[Unreadable]
    missing: Sequence[str]
    mistakes: Sequence[Mistake]


def read_network(card: Mapping[str, Any], score: Callable[[Tensor], npt.NDArray[np.floating]]) -> Network:
    """Return a network from the fields of its card.

    Args:
        card: of a bundle, or the draft in a training folder.
        score: see `Network`.
    """
    task = Task(tuple(card["labels"]), card["activation"], card["negative_decision"])
    thresholds = card["thresholds"]
    threshold = thresholds[task.labels[0]]["high"] if task.activation == "sigmoid" else None
    if points := card.get("operating_points", {}).get(task.labels[0]):
        threshold = points[BALANCED]["threshold"]  # one threshold, as in the card's figures: no scan is uncertain
    return Network(task, InputSpec.model_validate(complete_input(dict(card))["input"]), threshold, score)


def assess(
    network: Network, dataset: Dataset, folder: Path, choices: Choices, *, report: Callable[[int, int], None]
) -> Assessment:
    """Score every labelled scan of a folder and compute the figures.

    Scans with labels that the network does not know are left out and counted.

    Args:
        network: to evaluate.
        dataset: reads the folder.
        folder: of the data set.
        choices: see `Choices`; the network's labels decide whether subtypes are read.
        report: called with (scans done, scans in all).

    Raises:
        DatasetError: no scan has a label of the network, or the network has several labels that may be present at once.
    """
    if network.task.activation == "sigmoid" and len(network.task.labels) > 1:
        raise DatasetError(
            f"the network has {len(network.task.labels)} labels that may be present at once; these data sets have one "
            "label for each scan"
        )
    tells_subtypes = "bacterial" in network.task.classes
    listing = dataset.list_scans(folder, replace(choices, subtypes=tells_subtypes))
    listing, unknown = _keep_known(listing, network.task, folder)
    scans = prepare_scans(listing, network.input, report=report)
    groups = group_scans([scan.kin for scan in scans.scans], scans.sha256)
    part = PartScores(
        network.task,
        scans.targets,
        spread_scores(network.task, network.score(scans.inputs)),
        groups,
        tuple(scan.subgroup for scan in scans.scans),
        network.threshold,
    )
    majority = int(np.bincount(scans.targets).argmax())
    return Assessment(
        part,
        evaluate(part, majority=majority, seed=SEED),
        {**listing.left_alone, **unknown},
        scans.unreadable,
        listing.missing,
        find_mistakes(scans, np.arange(len(scans.scans)), part),
    )


def _keep_known(listing: Listing, task: Task, folder: Path) -> tuple[Listing, Counter[str]]:
    """Return the scans with a label of the network, under its name for it, and the number of others by label."""
    matched = [(scan, match_label(scan.label, task.classes)) for scan in listing.scans]
    known = tuple(replace(scan, label=label) for scan, label in matched if label is not None)
    if not known:
        raise DatasetError(
            f"{folder} has the labels {', '.join(listing.task.classes)}; the network has {', '.join(task.classes)}"
        )
    unknown = Counter(f"unknown-label {scan.label}" for scan, label in matched if label is None)
    return replace(listing, task=task, scans=known), unknown
