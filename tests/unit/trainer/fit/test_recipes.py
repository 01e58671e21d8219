import pytest

from trainer.errors import TrainingError
from trainer.fit.hyperparameters import Monitor
from trainer.fit.recipes import RECIPES, find_recipe


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
