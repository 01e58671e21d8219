"""From a data set to a training folder: list, prepare, split, fit, evaluate, record."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from nightread.card import Metric
from nightread.preparing import Tensor
from trainer import evaluation, fitting
from trainer.architectures import find_architecture
from trainer.architectures.architecture import check_backbone_weights
from trainer.batches import FitData
from trainer.covid import COVID
from trainer.datasets import Choices, Dataset
from trainer.dividing import Divided, divide
from trainer.errors import TrainingError
from trainer.hyperparameters import FitSettings
from trainer.pediatric import PEDIATRIC
from trainer.preparation import PreparedScans, prepare_scans
from trainer.record import Outcome, Record, write_record
from trainer.splitting import Indices, Part, Shares

DATASETS: Final[Mapping[str, Dataset]] = {dataset.name: dataset for dataset in (PEDIATRIC, COVID)}


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
    divided = divide(listing.task, scans, request.choices.split_by, request.shares, seed=request.settings.seed)
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
    )
    return write_record(request.out, outcome, listing, divided)


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
