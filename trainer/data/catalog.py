"""The data sets that can be trained on, by name."""

from collections.abc import Mapping
from typing import Final

from trainer.data.covid import COVID
from trainer.data.dataset import Dataset
from trainer.data.own import OWN
from trainer.data.pediatric import PEDIATRIC
from trainer.errors import TrainingError

DATASETS: Final[Mapping[str, Dataset]] = {dataset.name: dataset for dataset in (PEDIATRIC, COVID, OWN)}


def find_dataset(name: str) -> Dataset:
    """Return the data set called `name`.

    Raises:
        TrainingError: there is none; the message lists the names.
    """
    try:
        return DATASETS[name]
    except KeyError:
        raise TrainingError(f"there is no data set {name!r}; there are: {', '.join(sorted(DATASETS))}") from None
