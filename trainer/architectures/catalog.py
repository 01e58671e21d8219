"""The networks that can be trained, by name."""

from collections.abc import Mapping
from typing import Final

from trainer.architectures.architecture import Architecture
from trainer.architectures.cnn75 import CNN75
from trainer.architectures.efficientnetlite0 import EFFICIENTNETLITE0
from trainer.architectures.inception import INCEPTION
from trainer.architectures.inceptionresnetv2 import INCEPTIONRESNETV2
from trainer.architectures.lenet import LENET
from trainer.errors import TrainingError

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    architecture.name: architecture for architecture in (CNN75, INCEPTIONRESNETV2, LENET, INCEPTION, EFFICIENTNETLITE0)
}


def find_architecture(name: str) -> Architecture:
    """Return the architecture called `name`.

    Raises:
        TrainingError: there is none; the message lists the names.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise TrainingError(
            f"there is no architecture {name!r}; there are: {', '.join(sorted(ARCHITECTURES))}"
        ) from None
