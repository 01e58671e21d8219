"""Fitting one network: reproducible, checkpointed after every epoch, resumable where it was killed."""

import csv
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np

from nightread.model.training_folder import CHECKPOINT_FILE
from trainer.architectures.architecture import Architecture, check_backbone_weights
from trainer.data.dataset import Task
from trainer.errors import TrainingError
from trainer.fit.batches import FitData, count_steps, encode_targets, iterate_batches
from trainer.fit.hyperparameters import FitSettings, MixedPrecision, Monitor, Optimizer, Schedule

#: The same where scores are made probabilities afterwards: the checkpoint is made of it, as often as need be.
UNCALIBRATED_FILE: Final = "uncalibrated.keras"
HISTORY_FILE: Final = "history.csv"
_SETTINGS_FILE: Final = "settings.json"

#: The whole state of a fit after so many epochs. Not Keras' own format: it keeps neither the random states of dropout
#: nor all variables of an optimiser that scales its loss, as with float16.
_STATE_FILE: Final = "state-{:04d}.npz"
_STATE_PATTERN: Final = "state-????.npz"

#: Steps over which a schedule rises, of long fits: what was pretrained must not be thrown about by a fresh last layer.
_WARM_UP_STEPS: Final = 100


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One row of `history.csv`; losses are mean cross-entropies in nats, of training scans weighted where asked for.

    `input_wait_s` is how long steps waited for their batches.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    input_wait_s: float = 0.0


def fit(
    architecture: Architecture,
    task: Task,
    data: FitData,
    settings: FitSettings,
    folder: Path,
    *,
    resume: bool,
    report: Callable[[int, int, EpochRow | None], None],
) -> list[EpochRow]:
    """Fit a network, keep the best checkpoint in `folder`, and go on where an earlier fit of the same was killed.

    Args:
        architecture: the network.
        task: what it is to tell.
        data: the scans.
        settings: hyperparameters; only `epochs` may differ when a fit is resumed.
        folder: holds `checkpoint.keras` (the best epoch so far by `settings.monitor`), `history.csv` and what is
            needed to resume.
        resume: go on with a fit that the folder holds; without it such a folder is refused.
        report: is told (steps done, steps in all, the last finished epoch) after each step.

    Returns:
        One row an epoch, from the first.

    Raises:
        TrainingError: the folder holds a training, or one with other settings, or the loss is no longer finite.
    """
    check_backbone_weights(architecture, settings.backbone_weights)
    _claim_folder(folder, architecture, task, data, settings, resume=resume)
    steps = count_steps(data, settings)
    model, history = _open_or_build(architecture, task, settings, folder, steps)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        if _is_waiting_over(history, settings):
            break
        row = _fit_epoch(
            model,
            data,
            settings,
            epoch,
            report=lambda step, before=epoch - 1: report(  # type: ignore[misc]
                before * steps + step, settings.epochs * steps, history[-1] if history else None
            ),
        )
        history.append(row)
        if find_best(history, settings.monitor) is row:
            name = UNCALIBRATED_FILE if settings.calibrate else CHECKPOINT_FILE
            save_network(_to_float32(model, architecture, task, settings), folder / name)
        _write_history(folder, history)
        # Last of the three: whatever a kill cut short before this is done again, with the same outcome.
        _save_state(model, folder, epoch)
        report(epoch * steps, settings.epochs * steps, row)
    return history


def find_best(history: list[EpochRow], monitor: Monitor) -> EpochRow:
    """Return the epoch whose weights are kept: the first of equals."""
    if monitor is Monitor.LAST:
        return history[-1]

    def rank(row: EpochRow) -> tuple[float, ...]:
        return (-row.val_loss,) if monitor is Monitor.LOSS else (row.val_accuracy, -row.val_loss)

    return max(history, key=rank)


def _is_waiting_over(history: list[EpochRow], settings: FitSettings) -> bool:
    """Whether early stopping has waited long enough; told by the history alone, so that resuming changes nothing."""
    if not (settings.patience and history) or settings.monitor is Monitor.LAST:
        return False
    return len(history) - find_best(history, settings.monitor).epoch >= settings.patience


def _fit_epoch(
    model: Any, data: FitData, settings: FitSettings, epoch: int, *, report: Callable[[int], None]
) -> EpochRow:
    started_at = time.monotonic()
    sums = {"loss": 0.0, "accuracy": 0.0}
    scans, input_wait_s = 0, 0.0
    batches = iterate_batches(data, settings, epoch)
    for step in range(1, count_steps(data, settings) + 1):
        waiting_since = time.monotonic()
        batch = next(batches)
        input_wait_s += time.monotonic() - waiting_since
        logs = model.train_on_batch(
            batch.inputs, batch.targets, sample_weight=batch.weights, return_dict=True
        )  # of this batch alone
        sums = {name: sums[name] + logs[name] * len(batch.targets) for name in sums}
        scans += len(batch.targets)
        report(step)
    means = {name: float(value / scans) for name, value in sums.items()}
    if not np.isfinite(means["loss"]):
        raise TrainingError(
            f"the loss is {means['loss']} in epoch {epoch}: the training diverged; lower --learning-rate"
        )
    val = model.evaluate(
        data.inputs[data.validation],
        encode_targets(data.targets[data.validation], data.outputs),
        batch_size=data.spec.scored_at_once,
        verbose=0,
        return_dict=True,
    )
    return EpochRow(
        epoch=epoch,
        loss=means["loss"],
        accuracy=means["accuracy"],
        val_loss=float(val["loss"]),
        val_accuracy=float(val["accuracy"]),
        seconds=round(time.monotonic() - started_at, 2),
        input_wait_s=round(input_wait_s, 3),
    )


def _claim_folder(
    folder: Path, architecture: Architecture, task: Task, data: FitData, settings: FitSettings, *, resume: bool
) -> None:
    """Write down what is trained here, or check that it is what was begun here."""
    asked = {
        "architecture": architecture.name,
        "labels": list(task.labels),
        "data": data.digest,
        **asdict(settings),
    }
    if settings.schedule is Schedule.CONSTANT:  # of a schedule that ends with the last epoch, epochs are a part
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
    if not resume:
        raise TrainingError(f"{folder} holds a training; go on with it with --resume, or name a new folder with --out")
    try:
        begun = {**asdict(FitSettings()), **json.loads(path.read_text())}  # settings that came later were not set
    except ValueError:
        raise TrainingError(f"{path} is damaged; --out names a new folder") from None
    different = sorted(name for name in asked if begun.get(name) != asked[name])
    if different:
        raise TrainingError(
            f"{folder} holds a training with other {', '.join(different)}; repeat its settings to resume it, "
            "or name a new folder with --out"
        )


def _open_or_build(
    architecture: Architecture, task: Task, settings: FitSettings, folder: Path, steps: int
) -> tuple[Any, list[EpochRow]]:
    import keras
    import tensorflow as tf

    # The same order of additions on every run; without it two trainings differ from the first step on.
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed)
    with _policy(settings.precision):
        model = architecture.build(task, settings.backbone_weights)
    model.compile(
        optimizer=_make_optimizer(settings, steps * settings.epochs),
        loss="categorical_crossentropy" if task.activation == "softmax" else "binary_crossentropy",
        metrics=[keras.metrics.MeanMetricWrapper(_measure_accuracy, name="accuracy")],
    )
    state = max(folder.glob(_STATE_PATTERN), default=None)
    if state is None:
        return model, []
    _load_state(model, state)
    return model, read_history(folder)[: int(state.stem.removeprefix("state-"))]


def _measure_accuracy(targets: Any, scores: Any) -> Any:
    """Return (B,) whether scans are decided rightly at a score of 0.5, or by the highest; targets may be mixed ones."""
    from keras import ops

    if scores.shape[-1] == 1:
        return ops.mean(ops.equal(targets >= 0.5, scores >= 0.5), axis=-1)
    return ops.equal(ops.argmax(targets, axis=-1), ops.argmax(scores, axis=-1))


def _make_optimizer(settings: FitSettings, steps: int) -> Any:
    import keras

    rate: Any = settings.learning_rate
    if settings.schedule is Schedule.COSINE:
        warm_up = min(_WARM_UP_STEPS, steps // 10)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warm_up), warmup_target=settings.learning_rate, warmup_steps=warm_up
        )
    if settings.optimizer is Optimizer.SGD:
        return keras.optimizers.SGD(learning_rate=rate, momentum=settings.momentum)
    return keras.optimizers.Adam(learning_rate=rate)


@contextmanager
def _policy(precision: MixedPrecision) -> Iterator[None]:
    """Let layers that are built compute in a precision."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision.value)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _to_float32(model: Any, architecture: Architecture, task: Task, settings: FitSettings) -> Any:
    """Return a network with these weights that computes in float32, as it is evaluated, exported and served."""
    if settings.precision is MixedPrecision.FLOAT32:
        return model
    with _policy(MixedPrecision.FLOAT32):
        plain = architecture.build(task, "none")
    plain.set_weights(model.get_weights())
    return plain


def _collect_state(model: Any) -> list[Any]:
    """Return every variable that decides how a fit goes on: weights, random states, and what the optimiser knows."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _save_state(model: Any, folder: Path, epoch: int) -> None:
    state = folder / _STATE_FILE.format(epoch)
    partial = folder / f"partial-{state.name}"
    arrays: dict[str, Any] = {str(place): np.asarray(value) for place, value in enumerate(_collect_state(model))}
    np.savez(partial, **arrays)
    partial.replace(state)
    for older in folder.glob(_STATE_PATTERN):
        if older != state:
            older.unlink()


def _load_state(model: Any, path: Path) -> None:
    variables = _collect_state(model)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for variable, (_, array) in zip(variables, arrays.items(), strict=True):
                variable.assign(array)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise TrainingError(f"{path} cannot be resumed from ({error}); name a new folder with --out") from None


def save_network(model: Any, path: Path) -> None:
    """Write a Keras file; it appears whole or not at all."""
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
            EpochRow(int(row["epoch"]), *(float(row.get(field.name, 0.0)) for field in fields(EpochRow)[1:]))
            for row in csv.DictReader(file)
        ]
