"""From a data set to a training folder: list, prepare, split, fit, evaluate, record."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from nightread.card import Metric
from nightread.preparing import Tensor
from trainer import evaluation, fitting
from trainer.architectures import find_architecture
from trainer.architectures.architecture import check_backbone_weights
from trainer.batches import FitData
from trainer.datasets import Choices, Dataset, SplitBy, Task
from trainer.errors import DatasetError, TrainingError
from trainer.hyperparameters import FitSettings
from trainer.pediatric import PEDIATRIC
from trainer.preparation import PreparedScans, prepare_scans, select_scans
from trainer.record import Outcome, Record, write_record
from trainer.splitting import (
    Indices,
    Part,
    Shares,
    count_groups,
    group_scans,
    split_by_patient,
    split_by_scan,
)

DATASETS: Final[Mapping[str, Dataset]] = {dataset.name: dataset for dataset in (PEDIATRIC,)}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes:
        stage: `prepare` or `fit`.
        done: scans, or steps.
        total: of the same.
        last_epoch: the last finished epoch of a fit.
    """

    stage: str
    done: int
    total: int
    last_epoch: fitting.EpochRow | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be trained.

    Attributes:
        dataset: name of a data set.
        data: its folder.
        architecture: name of a network.
        out: the training folder.
        shares: the split.
        settings: hyperparameters.
        choices: how the data set is read and divided.
        resume: go on with a training that `out` holds.
    """

    dataset: str
    data: Path
    architecture: str
    out: Path
    shares: Shares
    settings: FitSettings
    choices: Choices = Choices()  # noqa: RUF009 - frozen
    resume: bool = False


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


def train(request: Request, *, report: Callable[[Progress], None]) -> tuple[Record, dict[str, Any]]:
    """Train a network and write its training folder.

    Returns:
        What `training.json` and `card.json` in the folder hold.

    Raises:
        DatasetError: nothing can be trained on the data.
        TrainingError: an unknown name, a folder that holds something else, or a loss that is not finite.
    """
    dataset, architecture = find_dataset(request.dataset), find_architecture(request.architecture)
    check_backbone_weights(architecture, request.settings.backbone_weights)
    listing = dataset.list_scans(request.data, request.choices)
    scans = prepare_scans(
        listing, architecture.input, report=lambda done, total: report(Progress("prepare", done, total))
    )
    divided = divide(listing.task, scans, request)
    history = fitting.fit(
        architecture,
        divided.task,
        FitData(
            divided.scans.inputs,
            divided.scans.targets,
            divided.split[Part.TRAIN],
            divided.split[Part.VALIDATION],
            architecture.input,
            _compute_digest(divided.scans, divided.split),
        ),
        request.settings,
        request.out,
        resume=request.resume,
        report=lambda done, total, row: report(Progress("fit", done, total, row)),
    )
    threshold, metrics = _evaluate(request, divided)
    outcome = Outcome(
        dataset,
        architecture,
        request.settings,
        request.shares,
        request.choices.split_by,
        threshold,
        metrics,
        history,
        divided.too_few_patients,
    )
    return write_record(request.out, outcome, divided.task, listing, divided.scans, divided.split)


def divide(task: Task, scans: PreparedScans, request: Request) -> Divided:
    """Divide scans as asked for; of many labels, those that a split by patient cannot divide are left out.

    Raises:
        DatasetError: a label that cannot be left out has fewer than three patients, or fewer than two labels remain.
    """
    groups = group_scans([scan.kin for scan in scans.scans], scans.sha256)
    seed, shares = request.settings.seed, request.shares
    if request.choices.split_by is SplitBy.ARTICLE:
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
        remaining = divide(task, scans, request)
        return replace(remaining, too_few_patients={**too_few, **remaining.too_few_patients})
    split = split_by_patient(groups, scans.targets, task.classes, shares, seed=seed)
    return Divided(task, scans, groups, split, {})


def find_dataset(name: str) -> Dataset:
    """Return the data set called `name`.

    Raises:
        TrainingError: there is none; the message lists those that are there.
    """
    try:
        return DATASETS[name]
    except KeyError:
        raise TrainingError(f"there is no data set {name!r}; there are: {', '.join(sorted(DATASETS))}") from None


def _evaluate(request: Request, divided: Divided) -> tuple[float | None, dict[Part, Mapping[str, Metric]]]:
    """Return the threshold that validation chose, and the best checkpoint's figures on validation and hold-out."""
    model = _load_checkpoint(request.out)
    scans, split = divided.scans, divided.split
    scores = {part: _score(model, scans.inputs[split[part]])[:, 0] for part in (Part.VALIDATION, Part.HOLD_OUT)}
    targets = scans.targets > 0
    threshold = evaluation.choose_threshold(targets[split[Part.VALIDATION]], scores[Part.VALIDATION])
    metrics = {
        part: evaluation.evaluate(
            targets[split[part]],
            part_scores,
            divided.groups[split[part]],
            threshold,
            majority=bool(targets[split[Part.TRAIN]].mean() >= 0.5),
            seed=request.settings.seed,
        )
        for part, part_scores in scores.items()
    }
    return threshold, metrics


def _compute_digest(scans: PreparedScans, split: Mapping[Part, Indices]) -> str:
    """Return the SHA-256 over the contents of all scans, part by part in the order they are trained in."""
    lines = [
        f"{part} {scans.sha256[index]} {scans.targets[index]:g}" for part in Part for index in split[part].tolist()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _load_checkpoint(folder: Path) -> Any:
    import keras

    return keras.models.load_model(folder / fitting.CHECKPOINT_FILE, compile=False, safe_mode=True)


def _score(model: Any, inputs: Tensor) -> evaluation.Scores:
    """Return (N, L) float64 scores."""
    scores = np.concatenate(
        [np.asarray(model(inputs[start : start + 256], training=False)) for start in range(0, len(inputs), 256)]
    )
    if scores.shape != (len(inputs), model.output_shape[-1]) or not np.isfinite(scores).all():
        raise TrainingError(
            f"the network gives scores of shape {scores.shape} for {len(inputs)} scans, or not finite ones"
        )
    return scores.astype(np.float64)
