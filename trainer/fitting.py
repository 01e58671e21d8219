"""Fitting one network: reproducible, checkpointed after every epoch, resumable where it was killed."""

import csv
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightread.preparing import Tensor
from trainer.architectures import Architecture
from trainer.errors import TrainingError
from trainer.splitting import Indices

CHECKPOINT_FILE: Final = "checkpoint.keras"
HISTORY_FILE: Final = "history.csv"
_LAST_FILE: Final = "last.keras"
_SETTINGS_FILE: Final = "settings.json"

Targets = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Hyperparameters; the defaults are the article's.

    Attributes:
        epochs: passes over the training part.
        batch_size: scans in one step.
        seed: of the first weights, of the order of the batches and of the split.
        learning_rate: of plain stochastic gradient descent.
        momentum: of the same.
    """

    epochs: int = 50
    batch_size: int = 100
    seed: int = 2018
    learning_rate: float = 0.01
    momentum: float = 0.9


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One row of `history.csv`; losses are mean binary cross-entropies in nats."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True)
class FitData:
    """What is fitted on.

    Attributes:
        inputs: (N, H, W, C) float32, all parts of the split.
        targets: (N,) float32.
        train: indices of the training part.
        validation: indices of the validation part.
        digest: of scans and split; a training is resumed on the very same only.
    """

    inputs: Tensor
    targets: Targets
    train: Indices
    validation: Indices
    digest: str


def fit(
    architecture: Architecture,
    data: FitData,
    settings: FitSettings,
    folder: Path,
    *,
    report: Callable[[int, int, EpochRow | None], None],
) -> list[EpochRow]:
    """Fit a network, keep the best checkpoint in `folder`, and go on where an earlier fit of the same was killed.

    Args:
        architecture: the network.
        data: the scans.
        settings: hyperparameters; only `epochs` may differ when a fit is resumed.
        folder: holds `checkpoint.keras` (the best validation accuracy so far; the first of equals by validation
            loss), `history.csv` and what is needed to resume.
        report: is told (steps done, steps in all, the last finished epoch) after each step.

    Returns:
        One row an epoch, from the first.

    Raises:
        TrainingError: the folder holds a training with other settings, or the loss is no longer finite.
    """
    _claim_folder(folder, architecture, data, settings)
    model, history = _open_or_build(architecture, data, settings, folder)
    steps = _count_steps(data, settings)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        started_at = time.monotonic()
        sums = {"loss": 0.0, "accuracy": 0.0}
        for step, batch in enumerate(iterate_batches(data.train, settings, epoch), start=1):
            logs = model.train_on_batch(
                data.inputs[batch], data.targets[batch], return_dict=True
            )  # of this batch alone
            sums = {name: sums[name] + logs[name] * len(batch) for name in sums}
            report((epoch - 1) * steps + step, settings.epochs * steps, history[-1] if history else None)
        means = {name: value / len(data.train) for name, value in sums.items()}
        row = _end_epoch(model, data, epoch, means, started_at)
        if not history or _rank(row) > max(map(_rank, history)):
            _save(model, folder / CHECKPOINT_FILE)
        history.append(row)
        _write_history(folder, history)
        # Last of the three: whatever a kill cut short before this is done again, with the same outcome.
        _save(model, folder / _LAST_FILE)
        report(epoch * steps, settings.epochs * steps, row)
    return history


def find_best(history: list[EpochRow]) -> EpochRow:
    """Return the epoch whose weights `checkpoint.keras` holds."""
    return max(history, key=_rank)


def iterate_batches(train: Indices, settings: FitSettings, epoch: int) -> Iterator[Indices]:
    """Yield the indices of each batch; the order depends on seed and epoch alone, so that a resumed fit keeps it."""
    order = np.random.default_rng([settings.seed, epoch]).permutation(train)
    for start in range(0, len(order), settings.batch_size):
        yield order[start : start + settings.batch_size]


def _rank(row: EpochRow) -> tuple[float, float]:
    return row.val_accuracy, -row.val_loss


def _count_steps(data: FitData, settings: FitSettings) -> int:
    return -(-len(data.train) // settings.batch_size)


def _claim_folder(folder: Path, architecture: Architecture, data: FitData, settings: FitSettings) -> None:
    """Write down what is trained here, or check that it is what was begun here."""
    asked = {"architecture": architecture.name, "data": data.digest, **asdict(settings)}
    del asked["epochs"]
    path = folder / _SETTINGS_FILE
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise TrainingError(
                f"{folder} is not empty and holds no training; --out names a new folder, or one to resume"
            )
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asked, indent=2) + "\n")
        return
    try:
        begun = json.loads(path.read_text())
    except ValueError:
        raise TrainingError(f"{path} is damaged; --out names a new folder") from None
    different = sorted(name for name in asked if begun.get(name) != asked[name])
    if different:
        raise TrainingError(
            f"{folder} holds a training with other {', '.join(different)}; repeat its settings to resume it, "
            "or name a new folder with --out"
        )


def _open_or_build(
    architecture: Architecture, data: FitData, settings: FitSettings, folder: Path
) -> tuple[Any, list[EpochRow]]:
    import keras
    import tensorflow as tf

    # The same order of additions on every run; without it two trainings differ from the first step on.
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed)
    if (folder / _LAST_FILE).exists():
        model = keras.models.load_model(folder / _LAST_FILE, safe_mode=True)
        done = int(model.optimizer.iterations) // _count_steps(data, settings)
        return model, read_history(folder)[:done]
    model = architecture.build()
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate=settings.learning_rate, momentum=settings.momentum),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model, []


def _end_epoch(model: Any, data: FitData, epoch: int, means: dict[str, float], started_at: float) -> EpochRow:
    if not np.isfinite(means["loss"]):
        raise TrainingError(
            f"the loss is {means['loss']} in epoch {epoch}: the training diverged; lower --learning-rate"
        )
    val = model.evaluate(
        data.inputs[data.validation], data.targets[data.validation], batch_size=256, verbose=0, return_dict=True
    )
    return EpochRow(
        epoch=epoch,
        loss=float(means["loss"]),
        accuracy=float(means["accuracy"]),
        val_loss=float(val["loss"]),
        val_accuracy=float(val["accuracy"]),
        seconds=round(time.monotonic() - started_at, 2),
    )


def _save(model: Any, path: Path) -> None:
    partial = path.with_name(f"partial-{path.name}")  # Keras tells the format by the suffix
    model.save(partial)
    partial.replace(path)


def _write_history(folder: Path, history: list[EpochRow]) -> None:
    partial = folder / f"partial-{HISTORY_FILE}"
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(EpochRow)])
        writer.writerows(asdict(row).values() for row in history)
    partial.replace(folder / HISTORY_FILE)


def read_history(folder: Path) -> list[EpochRow]:
    """Read `history.csv` of a training folder."""
    with (folder / HISTORY_FILE).open(newline="") as file:
        return [
            EpochRow(int(row["epoch"]), *(float(row[field.name]) for field in fields(EpochRow)[1:]))
            for row in csv.DictReader(file)
        ]
