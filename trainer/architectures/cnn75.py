"""The small network of the pediatric article."""

from typing import Any, Final

from keras import Input, Model, layers

from nightread.scan.preprocessing import InputSpec
from trainer.architectures.architecture import Architecture, add_output
from trainer.data.dataset import Task
from trainer.fit.hyperparameters import FitSettings

_INPUT: Final = InputSpec(height_px=75, width_px=75, channels=3)


def _build(task: Task, backbone_weights: str) -> Any:
    """Build three small convolutions, then two dense layers; 608,776 weights for one label."""
    scans = Input(shape=_INPUT.shape)  # (N, 75, 75, 3)
    stack = scans
    for _ in range(3):  # (N, 38, 38, 75), (N, 19, 19, 75), (N, 10, 10, 75)
        stack = layers.Conv2D(75, (2, 2), padding="same", activation="relu")(stack)
        stack = layers.MaxPooling2D((2, 2), padding="same")(stack)
    stack = layers.Flatten()(stack)  # (N, 7500)
    stack = layers.Dense(75, activation="relu")(stack)
    return Model(scans, add_output(stack, task), name="cnn75")


CNN75: Final = Architecture(
    "cnn75",
    "Three 2x2 convolutions of 75 filters with max pooling and a dense layer of 75, on 75 x 75 pixels",
    _INPUT,
    FitSettings(),
    _build,
)
