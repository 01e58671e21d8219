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
from trainer.datasets import Dataset
from trainer.errors import TrainingError
from trainer.pediatric import PEDIATRIC
from trainer.preparation import PreparedScans, prepare_scans
from trainer.record import Outcome, Record, write_record
from trainer.splitting import Indices, Part, Shares, group_scans, split_scans

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
        out: the training folder; one of the same training is resumed.
        shares: the split.
        settings: hyperparameters.
    """

    dataset: str
    data: Path
    architecture: str
    out: Path
    shares: Shares
    settings: fitting.FitSettings


def train(request: Request, *, report: Callable[[Progress], None]) -> Record:
    """Train a network and write its training folder.

    Returns:
        What `training.json` in the folder holds.

    Raises:
        DatasetError: nothing can be trained on the data.
        TrainingError: an unknown name, a folder that holds something else, or a loss that is not finite.
    """
    dataset, architecture = find_dataset(request.dataset), find_architecture(request.architecture)
    listing = dataset.list_scans(request.data)
    scans = prepare_scans(
        listing.scans,
        request.data,
        architecture.input,
        report=lambda done, total: report(Progress("prepare", done, total)),
    )
    groups = group_scans([scan.kin for scan in scans.scans], scans.sha256)
    split = split_scans(groups, scans.targets, request.shares, seed=request.settings.seed)
    digest = _compute_digest(scans, split)
    history = fitting.fit(
        architecture,
        fitting.FitData(scans.inputs, scans.targets, split[Part.TRAIN], split[Part.VALIDATION], digest),
        request.settings,
        request.out,
        report=lambda done, total, row: report(Progress("fit", done, total, row)),
    )
    threshold, metrics = _evaluate(request, scans, groups, split)
    outcome = Outcome(dataset, architecture, request.settings, request.shares, threshold, metrics, history)
    return write_record(request.out, outcome, listing, scans, split)


def find_dataset(name: str) -> Dataset:
    """Return the data set called `name`.

    Raises:
        TrainingError: there is none; the message lists those that are there.
    """
    try:
        return DATASETS[name]
    except KeyError:
        raise TrainingError(f"there is no data set {name!r}; there are: {', '.join(sorted(DATASETS))}") from None


def _evaluate(
    request: Request, scans: PreparedScans, groups: Indices, split: Mapping[Part, Indices]
) -> tuple[float, dict[Part, Mapping[str, Metric]]]:
    """Return the threshold that validation chose, and the best checkpoint's figures on validation and hold-out."""
    model = _load_checkpoint(request.out)
    scores = {part: _score(model, scans.inputs[split[part]]) for part in (Part.VALIDATION, Part.HOLD_OUT)}
    targets = scans.targets > 0.5
    threshold = evaluation.choose_threshold(targets[split[Part.VALIDATION]], scores[Part.VALIDATION])
    metrics = {
        part: evaluation.evaluate(
            targets[split[part]],
            part_scores,
            groups[split[part]],
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
    """Return (N,) float64 scores."""
    scores = np.concatenate(
        [np.asarray(model(inputs[start : start + 256], training=False)) for start in range(0, len(inputs), 256)]
    )
    if scores.shape != (len(inputs), 1) or not np.isfinite(scores).all():
        raise TrainingError(
            f"the network gives scores of shape {scores.shape} for {len(inputs)} scans, or not finite ones"
        )
    return scores[:, 0].astype(np.float64)
