"""The batches of an epoch: their order, their augmentation, and their making ahead of the step that waits for them."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nightread.scan.preprocessing import InputSpec, Tensor
from trainer.data.split import Indices, Targets
from trainer.fit.augmentation import VARIATIONS, blacken, crop, vary
from trainer.fit.hyperparameters import Augment, FitSettings

#: Batches that are made while one is fitted on; more would only lie in memory.
_AHEAD: Final = 3


@dataclass(frozen=True, slots=True)
class FitData:
    """What is fitted on.

    Attributes:
        inputs: (N, H, W, C) float32, all parts of the split.
        targets: (N,) int64, indices into the task's classes.
        train: indices of the training part.
        validation: indices of the validation part.
        spec: the network's input.
        outputs: L, how many scores the network gives: one for each label.
        digest: of scans and split; a training is resumed on the very same only.
        sources: (N, H, W) uint8, larger scans to crop from; None without `Augment.CROP`.
    """

    inputs: Tensor
    targets: Targets
    train: Indices
    validation: Indices
    spec: InputSpec
    outputs: int
    digest: str
    sources: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's scans.

    Attributes:
        inputs: (B, H, W, C) float32.
        targets: (B, L) float32, in [0, 1]: the chance of each label.
        weights: (B,) float32 of each scan in the loss; None for 1 each.
    """

    inputs: Tensor
    targets: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32] | None


def count_steps(data: FitData, settings: FitSettings) -> int:
    """Return how many batches make an epoch."""
    return settings.steps_per_epoch or -(-_count_items(data, settings) // settings.batch_size)


def iterate_batches(data: FitData, settings: FitSettings, epoch: int) -> Iterator[Batch]:
    """Yield the batches of one epoch, made on a thread of their own.

    Order and augmentation depend on seed and epoch alone, so that a resumed fit goes on as if it had never stopped.

    Args:
        data: what is fitted on.
        settings: of the fit.
        epoch: from 1.
    """
    weights = weigh_classes(data.targets[data.train]) if settings.class_weights else None

    def make(step: int, items: Indices) -> Batch:
        scans = data.train[items % len(data.train)]
        targets = data.targets[scans]
        rng = np.random.default_rng([settings.seed, epoch, step, 1])
        if settings.augment is Augment.CROP and data.sources is not None:
            inputs = crop(data.sources[scans], data.spec, rng)
        else:
            inputs = data.inputs[scans]
        if settings.augment is Augment.ARTICLE:
            is_copy = items >= len(data.train)
            inputs[is_copy] = blacken(inputs[is_copy], data.spec)
        elif settings.augment in VARIATIONS:
            inputs = vary(inputs, data.spec, rng, VARIATIONS[settings.augment])
        encoded = encode_targets(targets, data.outputs)
        if settings.mixup:
            inputs, encoded = mix(
                inputs, encoded, settings.mixup, np.random.default_rng([settings.seed, epoch, step, 2])
            )
        encoded += settings.label_smoothing * (1 / count_classes(data.outputs) - encoded)
        return Batch(inputs, encoded, None if weights is None else weights[targets])

    with ThreadPoolExecutor(1, "batches") as pool:
        ahead: deque[Future[Batch]] = deque()
        for step, items in enumerate(order_items(data, settings, epoch)):
            ahead.append(pool.submit(make, step, items))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def order_items(data: FitData, settings: FitSettings, epoch: int) -> Iterator[Indices]:
    """Yield the items of each batch of an epoch: places in the training part, and in its copy where it is doubled.

    Balanced batches are drawn: each scan has a label at random, and is a random one of that label. Else, without
    `steps_per_epoch` an epoch is one pass, and its last batch may be smaller. With it, epochs are cut from
    an endless row of passes.
    """
    count = _count_items(data, settings)
    if settings.balanced:
        yield from _draw_balanced(data, settings, epoch)
        return
    if not settings.steps_per_epoch:
        order = np.random.default_rng([settings.seed, epoch]).permutation(count).astype(np.int64)
        for start in range(0, count, settings.batch_size):
            yield order[start : start + settings.batch_size]
        return
    per_epoch = settings.steps_per_epoch * settings.batch_size
    places = np.arange((epoch - 1) * per_epoch, epoch * per_epoch)
    passes = {
        number: np.random.default_rng([settings.seed, number]).permutation(count)
        for number in range(int(places[0]) // count, int(places[-1]) // count + 1)
    }
    items = np.array([passes[place // count][place % count] for place in places.tolist()], np.int64)
    yield from np.split(items, settings.steps_per_epoch)


def _draw_balanced(data: FitData, settings: FitSettings, epoch: int) -> Iterator[Indices]:
    """Yield places in the training part, and in its copy where it is doubled."""
    count = _count_items(data, settings)
    targets = np.resize(data.targets[data.train], count)
    by_class = [
        items for number in range(count_classes(data.outputs)) if len(items := np.flatnonzero(targets == number))
    ]
    rng = np.random.default_rng([settings.seed, epoch])
    for _ in range(count_steps(data, settings)):
        labels = rng.permutation(np.arange(settings.batch_size) % len(by_class))
        yield np.array([rng.choice(by_class[label]) for label in labels.tolist()], np.int64)


def count_classes(outputs: int) -> int:
    """Return how many classes a network with so many outputs tells apart: one label may also be absent."""
    return max(2, outputs)


def encode_targets(targets: Targets, outputs: int) -> npt.NDArray[np.float32]:
    """Return (B, L) float32 from (B,) classes: 1 where a label is present, one column for each of the outputs."""
    encoded: npt.NDArray[np.float32] = np.eye(count_classes(outputs), dtype=np.float32)[targets]
    return encoded[:, -outputs:].copy()


def mix(
    inputs: Tensor, targets: npt.NDArray[np.float32], alpha: float, rng: np.random.Generator
) -> tuple[Tensor, npt.NDArray[np.float32]]:
    """Mix each scan, and its targets alike, with a smaller part of another of the batch.

    Args:
        inputs: (B, H, W, C) float32.
        targets: (B, L) float32.
        alpha: both parameters of the beta distribution that the shares come from.
        rng: decides.
    """
    shares = rng.beta(alpha, alpha, len(inputs)).astype(np.float32)
    shares = np.maximum(shares, 1 - shares)[:, None]
    others = rng.permutation(len(inputs))
    pixels = shares[:, :, None, None]
    mixed = pixels * inputs + (1 - pixels) * inputs[others]
    return mixed.astype(np.float32), shares * targets + (1 - shares) * targets[others]


def weigh_classes(targets: Targets) -> npt.NDArray[np.float32]:
    """Return (K,) float32, the weight of each class's scans: classes weigh the same, and a scan 1 on average."""
    counts = np.bincount(targets)
    weights = len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return weights.astype(np.float32)


def _count_items(data: FitData, settings: FitSettings) -> int:
    return len(data.train) * (2 if settings.augment is Augment.ARTICLE else 1)
