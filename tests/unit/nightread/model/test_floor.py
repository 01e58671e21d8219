"""The floor of figures is read from one line, and a wrong line is refused with the allowed one."""

import pytest

from nightread.errors import SettingsError
from nightread.model.floor import Floor
from nightread.settings import read_settings


def test_floor_reads_its_limits_and_an_empty_one_allows_everything():
    assert Floor.read("auc=0.9, ece=0.05").limits == {"auc": 0.9, "ece": 0.05}
    assert Floor.read("").list_faults({}) == []


@pytest.mark.parametrize("text", ["auc", "auc=high", "auc=1.5", "auc=nan", "auroc=0.9", "auc=0.8;ece=0.1"])
def test_wrong_floor_is_a_wrong_setting(text):
    with pytest.raises(SettingsError, match=r"NIGHTREAD_PROMOTE_FLOOR.*write FIGURE=NUMBER"):
        read_settings(promote_floor=text)


def test_figures_on_the_limit_pass():
    assert Floor.read("auc=0.8,ece=0.1").list_faults({"auc": 0.8, "ece": 0.1}) == []
