"""The larger network of the twelve-class article: six modules of parallel convolutions."""

from typing import Any, Final

from keras import Input, Model, layers

from nightread.scan.preprocessing import InputSpec
from trainer.architectures.architecture import Architecture, add_output
from trainer.data.dataset import Task
from trainer.fit.hyperparameters import FitSettings, Monitor, Optimizer

_INPUT: Final = InputSpec(height_px=192, width_px=192, channels=3)

#: The n of each module; after each, pooling halves the sides: 96, 48, 24, 12, 6, 3 pixels.
_MODULES: Final = (1, 2, 2, 3, 3, 4)


def _convolve(stack: Any, filters: int, *kernels: tuple[int, int]) -> Any:
    for kernel in kernels:
        stack = layers.Conv2D(filters, kernel, padding="same", activation="relu")(stack)
    return stack


def _add_module(stack: Any, n: int) -> Any:
    """Add Inception(n): (N, H, W, C) to (N, H, W, 60 n), four branches joined along the channels."""
    return layers.Concatenate()(
        [
            _convolve(_convolve(stack, 2 * n, (1, 1)), 8 * n, (1, 3), (3, 1), (1, 3), (3, 1)),
            _convolve(stack, 16 * n, (1, 1)),
            _convolve(_convolve(stack, 4 * n, (1, 1)), 32 * n, (1, 3), (3, 1)),
            _convolve(layers.MaxPooling2D((3, 3), strides=1, padding="same")(stack), 4 * n, (1, 1)),
        ]
    )


def _build(task: Task, backbone_weights: str) -> Any:
    """Build six modules with pooling and the dense layers of 1024 and 512; 2,972,648 weights for twelve labels."""
    scans = Input(shape=_INPUT.shape)  # (N, 192, 192, 3)
    stack = scans
    for n in _MODULES:
        stack = layers.MaxPooling2D((2, 2), strides=2, padding="same")(_add_module(stack, n))
    stack = layers.Flatten()(stack)  # (N, 2160)
    stack = layers.Dense(1024, activation="relu")(stack)
    stack = layers.Dense(512, activation="relu")(stack)
    stack = layers.Dropout(0.5)(stack)
    return Model(scans, add_output(stack, task), name="inception")


INCEPTION: Final = Architecture(
    "inception",
    "Six Inception modules with max pooling and dense layers of 1024 and 512 with dropout, on 192 x 192 pixels",
    _INPUT,
    # The article does not give optimiser and batch size: Keras' Adam, and 16, so that 120 steps are about two passes
    # over the article's scans.
    FitSettings(
        epochs=12,
        batch_size=16,
        optimizer=Optimizer.ADAM,
        learning_rate=0.001,
        steps_per_epoch=120,
        monitor=Monitor.LOSS,
        patience=3,
    ),
    _build,
)
