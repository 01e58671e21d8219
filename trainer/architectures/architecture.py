"""What a network is before training, and how its last layer follows the task."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        input: what it takes.
        published: the hyperparameters of its article, which are the defaults.
        build: returns a fresh, uncompiled Keras model for a task, whose weights come from Keras' current random seed
            and, where it has a backbone, from `backbone_weights`. It maps (N, H, W, C) float32 to (N, L) float32
            scores of the task's L labels.
        has_backbone: whether pretrained weights can be loaded into a part of it.
    """

    name: str
    description: str
    input: InputSpec
    published: FitSettings
    build: Callable[[Task, str], Any]
    has_backbone: bool = False


def add_output(stack: Any, task: Task) -> Any:
    """Add the dense layer that gives the task's scores; float32 also where other layers compute in 16 bits."""
    from keras import layers

    return layers.Dense(len(task.labels), activation=task.activation, dtype="float32")(stack)


def check_backbone_weights(architecture: Architecture, backbone_weights: str) -> None:
    """Refuse, before hours of work, weights that are not there or that nothing would use.

    Raises:
        TrainingError: the network has no backbone, or the file does not exist.
    """
    if backbone_weights == "none":
        return
    if not architecture.has_backbone:
        raise TrainingError(
            f"{architecture.name} has no pretrained part: --backbone-weights {backbone_weights} would do nothing"
        )
    if backbone_weights != "imagenet" and not Path(backbone_weights).is_file():
        raise TrainingError(
            f"there is no file {backbone_weights}; --backbone-weights takes imagenet, none, or a file of weights"
        )
