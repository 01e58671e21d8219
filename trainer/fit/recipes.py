"""Settings that go together: a recipe trains a network as it was trained for the bundle that ships."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trainer.errors import TrainingError
from trainer.fit.hyperparameters import Augment, FitSettings, Monitor, Optimizer, Schedule


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training that can be repeated.

    Attributes:
        dataset: name of the data set.
        architecture: name of the network.
        shares: the split, in percent.
        settings: all hyperparameters, the seed among them.
        teacher_seeds: seeds of trainings alike that come first, and whose mean opinion is learnt.
    """

    dataset: str
    architecture: str
    shares: str
    settings: FitSettings
    teacher_seeds: tuple[int, ...] = ()


RECIPES: Final[Mapping[str, Recipe]] = {
    # `docs/training-log.md` tells why each of these.
    "ship": Recipe(
        dataset="pediatric",
        architecture="efficientnetlite0",
        shares="70/15/15",
        settings=FitSettings(
            epochs=9,
            batch_size=32,
            seed=2018,
            optimizer=Optimizer.ADAMW,
            learning_rate=0.0005,
            weight_decay=0.05,
            schedule=Schedule.CONSTANT,
            monitor=Monitor.LAST,
            augment=Augment.CROP,
            balanced=True,
            label_smoothing=0.05,
            average=0.99,
            calibrate=True,
            backbone_weights="imagenet",
        ),
        teacher_seeds=(2018, 2019, 2020),
    ),
}


def find_recipe(name: str, dataset: str, architecture: str) -> Recipe:
    """Return a recipe for this data set and network.

    Raises:
        TrainingError: there is none, or it is for others.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise TrainingError(f"there is no recipe {name!r}; there are: {', '.join(sorted(RECIPES))}")
    if (recipe.dataset, recipe.architecture) != (dataset, architecture):
        raise TrainingError(
            f"the recipe {name} is for {recipe.architecture} on {recipe.dataset}, not for {architecture} on {dataset}: "
            f"nightread train {recipe.dataset} --arch {recipe.architecture} --recipe {name}"
        )
    return recipe
