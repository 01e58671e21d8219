"""The fit of a network: reproducible, checkpointed after every epoch, resumable after a kill."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from nightread.model.training_folder import CHECKPOINT_FILE
from nightread.scan.preprocessing import Tensor
from trainer.architectures.architecture import Architecture, check_backbone_weights
from trainer.data.dataset import Task
from trainer.errors import TrainingError
from trainer.fit.batches import FitData, count_steps, encode_targets, iterate_batches
from trainer.fit.history import EpochRow, find_best, read_history, should_stop, write_history
from trainer.fit.hyperparameters import FitSettings, MixedPrecision, Optimizer, Schedule

#: Checkpoint of a fit whose scores are calibrated afterwards; `checkpoint.keras` is made from it, also repeatedly.
UNCALIBRATED_FILE: Final = "uncalibrated.keras"
SETTINGS_FILE: Final = "settings.json"

#: From (B, H, W, C) inputs to (B, L) targets.
Judge = Callable[[Tensor], npt.NDArray[np.float32]]

#: State of a fit after an epoch. Keras' own format would lose the random states of dropout, and variables of an
#: optimiser that scales its loss, as with float16.
_STATE_FILE: Final = "state-{:04d}.npz"
_STATE_PATTERN: Final = "state-????.npz"

#: Warm-up steps of a long fit: a fresh last layer must not spoil pretrained weights.
_WARM_UP_STEPS: Final = 100

#: A moving average of weights is at first that of about the last half of so many steps.
_FORGOTTEN_STEPS: Final = 10


def fit(
    architecture: Architecture,
    task: Task,
    data: FitData,
    settings: FitSettings,
    folder: Path,
    *,
    resume: bool,
    report: Callable[[int, int, EpochRow | None], None],
    judge: Judge | None = None,
) -> list[EpochRow]:
    """Fit a network and keep the best checkpoint in `folder`; resume a fit that was killed.

    Args:
        architecture: the network.
        task: its labels.
        data: the scans.
        settings: hyperparameters; only `epochs` may differ when a fit is resumed.
        folder: holds `checkpoint.keras` (the best epoch so far by `settings.monitor`), `history.csv` and the state to
            resume from.
        resume: whether to resume a fit in the folder; without it such a folder is refused.
        report: called after each step with (steps done, steps in all, last finished epoch).
        judge: gives the targets of a batch's inputs, as its teachers see them; None: the labels are the targets.

    Returns:
        One row for each epoch, from the first.

    Raises:
        TrainingError: the folder holds a training, or one with other settings, or the loss is not finite.
    """
    check_backbone_weights(architecture, settings.backbone_weights)
    _claim_folder(folder, architecture, task, data, settings, resume=resume)
    steps = count_steps(data, settings)
    model, average, history = _open_or_build(architecture, task, settings, folder, steps)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        if should_stop(history, settings):
            break
        row = _fit_epoch(
            model,
            average,
            data,
            settings,
            epoch,
            judge=judge,
            report=lambda step, before=epoch - 1: report(  # type: ignore[misc]
                before * steps + step, settings.epochs * steps, history[-1] if history else None
            ),
        )
        history.append(row)
        if find_best(history, settings.monitor) is row:
            name = UNCALIBRATED_FILE if settings.calibrate else CHECKPOINT_FILE
            with average.in_place():
                save_network(_to_float32(model, architecture, task, settings), folder / name)
        write_history(folder, history)
        # Last of the three: after a kill before this line the epoch is repeated, with the same outcome.
        _save_state(_collect_state(model, average), folder, epoch)
        report(epoch * steps, settings.epochs * steps, row)
    return history


class _Average:
    """Moving average of a network's weights, the running means of its norms among them.

    Weights that are averaged over many steps lie where the loss is flat, and flat minima carry over to other sites
    better than the last weights (Izmailov et al. 2018, arXiv:1803.05407; Cha et al. 2021, arXiv:2102.08604).
    """

    def __init__(self, model: Any, decay: float) -> None:
        self._decay = decay
        self._weights = model.weights if decay else []
        self._averages = [keras.Variable(np.array(weight.value), trainable=False) for weight in self._weights]

    @property
    def variables(self) -> list[Any]:
        """What a resumed fit needs."""
        return list(self._averages)

    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1 over all epochs; the first ones are forgotten sooner."""
        decay = min(self._decay, step / (step + _FORGOTTEN_STEPS))
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.assign(decay * average.value + (1 - decay) * weight.value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network have the averages for as long as the context lasts."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for average, weight in zip(self._averages, self._weights, strict=True):
            kept = np.array(weight.value)
            weight.assign(average.value)
            average.assign(kept)


def _fit_epoch(
    model: Any,
    average: _Average,
    data: FitData,
    settings: FitSettings,
    epoch: int,
    *,
    judge: Judge | None,
    report: Callable[[int], None],
) -> EpochRow:
    started_at = time.monotonic()
    sums = {"loss": 0.0, "accuracy": 0.0}
    scans, input_wait_s = 0, 0.0
    batches, steps = iterate_batches(data, settings, epoch), count_steps(data, settings)
    for step in range(1, steps + 1):
        waiting_since = time.monotonic()
        batch = next(batches)
        input_wait_s += time.monotonic() - waiting_since
        targets = batch.targets if judge is None else judge(batch.inputs)
        logs = model.train_on_batch(
            batch.inputs, targets, sample_weight=batch.weights, return_dict=True
        )  # of this batch
        average.update((epoch - 1) * steps + step)
        sums = {name: sums[name] + logs[name] * len(batch.targets) for name in sums}
        scans += len(batch.targets)
        report(step)
    means = {name: float(value / scans) for name, value in sums.items()}
    if not np.isfinite(means["loss"]):
        raise TrainingError(
            f"the loss is {means['loss']} in epoch {epoch}, the training diverged: lower --learning-rate"
        )
    with average.in_place():
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
    """Record the settings in a new folder, or check that a folder holds a fit with the same settings."""
    asked = {
        "architecture": architecture.name,
        "labels": list(task.labels),
        "data": data.digest,
        **asdict(settings),
    }
    if settings.schedule is Schedule.CONSTANT:  # other schedules depend on the number of epochs
        del asked["epochs"]
    path = folder / SETTINGS_FILE
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise TrainingError(
                f"{folder} is not empty and holds no training: name a new folder with --out, or one to resume"
            )
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asked, indent=2) + "\n")
        return
    if not resume:
        raise TrainingError(f"{folder} holds a training: resume it with --resume, or name a new folder with --out")
    try:
        begun = json.loads(path.read_text())
    except ValueError:
        raise TrainingError(f"{path} is damaged: name a new folder with --out") from None
    # Older folders lack newer settings; in the oldest one seed was also that of the split.
    begun = {**asdict(FitSettings()), "split_seed": begun.get("seed"), **begun}
    different = sorted(name for name in asked if begun.get(name) != asked[name])
    if different:
        raise TrainingError(
            f"{folder} holds a training with other {', '.join(different)}: repeat its settings to resume it, "
            "or name a new folder with --out"
        )


def _open_or_build(
    architecture: Architecture, task: Task, settings: FitSettings, folder: Path, steps: int
) -> tuple[Any, _Average, list[EpochRow]]:
    # Fixes the order of additions; without it two trainings differ from the first step on.
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed)
    with _policy(settings.precision):
        model = architecture.build(task, settings.backbone_weights)
    model.compile(
        optimizer=_make_optimizer(settings, steps * settings.epochs),
        loss="categorical_crossentropy" if task.activation == "softmax" else "binary_crossentropy",
        metrics=[keras.metrics.MeanMetricWrapper(_measure_accuracy, name="accuracy")],
    )
    average = _Average(model, settings.average)
    state = max(folder.glob(_STATE_PATTERN), default=None)
    if state is None:
        return model, average, []
    _load_state(_collect_state(model, average), state)
    return model, average, read_history(folder)[: int(state.stem.removeprefix("state-"))]


def _measure_accuracy(targets: Any, scores: Any) -> Any:
    """Return (B,) whether decisions at a score of 0.5, or by the highest score, are right; mixup may mix targets."""
    if scores.shape[-1] == 1:
        return ops.mean(ops.equal(targets >= 0.5, scores >= 0.5), axis=-1)
    return ops.equal(ops.argmax(targets, axis=-1), ops.argmax(scores, axis=-1))


def _make_optimizer(settings: FitSettings, steps: int) -> Any:
    rate: Any = settings.learning_rate
    if settings.schedule is Schedule.COSINE:
        warm_up = min(_WARM_UP_STEPS, steps // 10)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warm_up), warmup_target=settings.learning_rate, warmup_steps=warm_up
        )
    if settings.optimizer is Optimizer.ADAMW:
        optimizer = keras.optimizers.AdamW(learning_rate=rate, weight_decay=settings.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer
    if settings.optimizer is Optimizer.SGD:
        return keras.optimizers.SGD(learning_rate=rate, momentum=settings.momentum)
    return keras.optimizers.Adam(learning_rate=rate)


@contextmanager
def _policy(precision: MixedPrecision) -> Iterator[None]:
    """Build layers that compute in a precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision.value)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _to_float32(model: Any, architecture: Architecture, task: Task, settings: FitSettings) -> Any:
    """Return the network in float32, in which it is evaluated, exported and served."""
    if settings.precision is MixedPrecision.FLOAT32:
        return model
    with _policy(MixedPrecision.FLOAT32):
        plain = architecture.build(task, "none")
    plain.set_weights(model.get_weights())
    return plain


def _collect_state(model: Any, average: _Average) -> list[Any]:
    """Return every variable that determines the rest of a fit: weights, random states, state of the optimiser."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables, *average.variables]


def _save_state(variables: list[Any], folder: Path, epoch: int) -> None:
    state = folder / _STATE_FILE.format(epoch)
    partial = folder / f"partial-{state.name}"
    arrays: dict[str, Any] = {str(place): np.asarray(value) for place, value in enumerate(variables)}
    np.savez(partial, **arrays)
    partial.replace(state)
    for older in folder.glob(_STATE_PATTERN):
        if older != state:
            older.unlink()


def _load_state(variables: list[Any], path: Path) -> None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for variable, (_, array) in zip(variables, arrays.items(), strict=True):
                variable.assign(array)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise TrainingError(f"{path} cannot be read ({error}): name a new folder with --out") from None


def save_network(model: Any, path: Path) -> None:
    """Write a Keras file; it appears as a whole or not at all."""
    partial = path.with_name(f"partial-{path.name}")  # Keras takes the format from the suffix
    model.save(partial)
    partial.replace(path)
