"""The networks that can be trained, by name. Keras is imported where a network is built, never before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nightread.preparing import InputSpec
from trainer.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network before training.

    Attributes:
        name: as on the command line.
        description: one sentence, for the card.
        input: what it takes.
        build: returns a fresh, uncompiled Keras model whose weights come from Keras' current random seed; it maps
            (N, H, W, C) float32 to (N, 1) float32 scores.
    """

    name: str
    description: str
    input: InputSpec
    build: Callable[[], Any]


CNN75_INPUT: Final = InputSpec(height_px=75, width_px=75, channels=3)


def build_cnn75() -> Any:
    """Build the article's network: three small convolutions, then two dense layers; 608,776 weights."""
    from keras import Sequential, layers

    stack: list[Any] = [layers.Input(shape=CNN75_INPUT.shape)]  # (N, 75, 75, 3)
    for _ in range(3):  # (N, 38, 38, 75), (N, 19, 19, 75), (N, 10, 10, 75)
        stack += [
            layers.Conv2D(75, (2, 2), padding="same", activation="relu"),
            layers.MaxPooling2D((2, 2), padding="same"),
        ]
    stack += [
        layers.Flatten(),  # (N, 7500)
        layers.Dense(75, activation="relu"),  # (N, 75)
        layers.Dense(1, activation="sigmoid"),  # (N, 1)
    ]
    return Sequential(stack, name="cnn75")


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            "cnn75",
            "Three 2x2 convolutions of 75 filters with max pooling, a dense layer of 75 and one sigmoid output, "
            "on 75 x 75 pixels",
            CNN75_INPUT,
            build_cnn75,
        ),
    )
}


def find_architecture(name: str) -> Architecture:
    """Return the architecture called `name`.

    Raises:
        TrainingError: there is none; the message lists those that are there.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise TrainingError(
            f"there is no architecture {name!r}; there are: {', '.join(sorted(ARCHITECTURES))}"
        ) from None
