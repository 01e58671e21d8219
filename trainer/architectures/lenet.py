"""The small network of the twelve-class article, in the style of LeNet-5."""

from typing import Any, Final

from keras import Input, Model, layers

from nightread.scan.preprocessing import InputSpec
from trainer.architectures.architecture import Architecture, add_output
from trainer.data.dataset import Task
from trainer.fit.hyperparameters import FitSettings, Optimizer

_INPUT: Final = InputSpec(height_px=192, width_px=192, channels=3)


def _build(task: Task, backbone_weights: str) -> Any:
    """Build two convolutions and LeNet-5's dense layers of 120 and 84; the article does not give their sizes."""
    scans = Input(shape=_INPUT.shape)  # (N, 192, 192, 3)
    stack = layers.Conv2D(32, (5, 5), padding="same", activation="relu")(scans)
    stack = layers.MaxPooling2D((2, 2))(stack)  # (N, 96, 96, 32)
    stack = layers.Conv2D(64, (3, 3), padding="same", activation="relu")(stack)
    stack = layers.MaxPooling2D((2, 2))(stack)  # (N, 48, 48, 64)
    stack = layers.Flatten()(stack)  # (N, 147456)
    stack = layers.Dense(120, activation="relu")(stack)
    stack = layers.Dense(84, activation="relu")(stack)
    return Model(scans, add_output(stack, task), name="lenet")


LENET: Final = Architecture(
    "lenet",
    "LeNet-5 style: convolutions of 32 and 64 filters with max pooling and dense layers of 120 and 84, on "
    "192 x 192 pixels",
    _INPUT,
    # The article does not give optimiser and batch size: Keras' Adam and a batch of 32.
    FitSettings(epochs=10, batch_size=32, optimizer=Optimizer.ADAM, learning_rate=0.001),
    _build,
)
