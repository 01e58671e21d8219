"""What a training is asked for, and where the rest comes from: the recipe, else the article."""

from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`")

from trainer.architectures.catalog import find_architecture
from trainer.data.catalog import find_dataset
from trainer.data.dataset import Choices, SplitBy
from trainer.data.split import parse_shares
from trainer.errors import TrainingError
from trainer.fit.hyperparameters import Optimizer
from trainer.fit.recipes import find_recipe
from trainer.train import make_request


def request(architecture="cnn75", *, split=SplitBy.PATIENT, **asked):
    return make_request("pediatric", Path("data"), architecture, Path("out"), choices=Choices(split), **asked)


def test_what_is_not_asked_for_is_the_articles():
    made = request(epochs=3, optimizer=None)
    assert made.settings.epochs == 3
    assert made.settings.optimizer is find_architecture("cnn75").published.optimizer
    assert made.shares == parse_shares("70/15/15")
    assert request(split=SplitBy.ARTICLE).shares == parse_shares(find_dataset("pediatric").article_shares)


def test_a_recipe_gives_settings_and_shares_that_options_override():
    recipe = find_recipe("ship", "pediatric", "efficientnetlite0")
    made = request("efficientnetlite0", recipe="ship", optimizer=Optimizer.SGD)
    assert made.settings.epochs == recipe.settings.epochs
    assert made.settings.optimizer is Optimizer.SGD
    assert made.shares == parse_shares(recipe.shares)
    assert request("efficientnetlite0", recipe="ship", shares="60/20/20").shares == parse_shares("60/20/20")


def test_an_unknown_recipe_is_an_error():
    with pytest.raises(TrainingError):
        request(recipe="none")
