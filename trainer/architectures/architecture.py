"""The type of a network before training, and the last layer, which follows the task."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras import layers

from nightread.scan.preprocessing import InputSpec
from trainer.data.dataset import Task
from trainer.errors import TrainingError
from trainer.fit.hyperparameters import FitSettings


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network before training.

    Attributes:
        name: as on the command line.
        description: one clause, for the card.
        input: of the network.
        published: hyperparameters of its article, the defaults of a training.
        build: maps (task, backbone_weights) to a fresh, uncompiled Keras model from (N, H, W, C) float32 to (N, L)
            float32 scores of the task's L labels. Weights come from Keras' random seed, those of a backbone from
            `backbone_weights`.
        has_backbone: whether a part of the network takes pretrained weights.
    """

    name: str
    description: str
    input: InputSpec
    published: FitSettings
    build: Callable[[Task, str], Any]
    has_backbone: bool = False


def add_output(stack: Any, task: Task) -> Any:
    """Add the dense layer for the task's scores; it is float32 even if other layers compute in 16 bits."""
    return layers.Dense(len(task.labels), activation=task.activation, dtype="float32")(stack)


def check_backbone_weights(architecture: Architecture, backbone_weights: str) -> None:
    """Refuse missing and unused weights before hours of work.

    Raises:
        TrainingError: the network has no backbone, or the file does not exist.
    """
    if backbone_weights == "none":
        return
    if not architecture.has_backbone:
        raise TrainingError(
            f"{architecture.name} has no pretrained part: leave --backbone-weights {backbone_weights} out"
        )
    if backbone_weights != "imagenet" and not Path(backbone_weights).is_file():
        raise TrainingError(
            f"there is no file {backbone_weights}: --backbone-weights takes imagenet, none, or a file of weights"
        )
