import pytest

from trainer.architectures import find_architecture
from trainer.data.split import parse_shares
from trainer.errors import TrainingError
from trainer.fit.hyperparameters import Monitor
from trainer.fit.recipes import RECIPES, find_recipe


def test_every_recipe_names_what_there_is():
    for recipe in RECIPES.values():
        find_architecture(recipe.architecture)
        parse_shares(recipe.shares)


def test_what_ships_is_calibrated_on_scans_that_have_chosen_nothing_else():
    settings = RECIPES["ship"].settings
    assert settings.calibrate
    assert settings.monitor is Monitor.LAST  # else the calibration part would have chosen the epoch too


def test_an_unknown_recipe_is_answered_with_those_there_are():
    with pytest.raises(TrainingError, match="there is no recipe 'best'; there are: ship"):
        find_recipe("best", "pediatric", "cnn75")


def test_a_recipe_for_another_network_tells_its_command():
    with pytest.raises(TrainingError, match="nightread train pediatric --arch efficientnetlite0 --recipe ship"):
        find_recipe("ship", "pediatric", "cnn75")
