"""Links to another viewer, and the bar's name and color."""

import pytest

from nightread.settings import Settings
from web.showing import link_viewer

VIEWER = "https://ohif.example/viewer?StudyInstanceUIDs={study}"


@pytest.mark.parametrize(
    ("uid", "told"),
    [
        ("1.2.3", "1.2.3"), ("1&x=/2", "1%26x%3D%2F2"), ('"><script>', "%22%3E%3Cscript%3E"),
        ("{study}", "%7Bstudy%7D"),
    ],
)  # fmt: skip
def test_a_uid_is_escaped_in_the_address_of_its_study(uid, told):
    assert link_viewer(Settings(web_viewer=VIEWER), uid) == f"https://ohif.example/viewer?StudyInstanceUIDs={told}"


def test_without_viewer_or_study_there_is_no_link():
    assert link_viewer(Settings(), "1.2.3") is None
    assert link_viewer(Settings(web_viewer=VIEWER), None) is None


@pytest.mark.parametrize(
    "template",
    [
        "javascript:alert({study})", "data:text/html,{study}", "//ohif.example/{study}", "ohif.example/{study}",
        "https://{study}/viewer", "https://ohif.example/viewer", "https://ohif.example/{study}/{study}",
        "https://ohif.example/\n{study}", "https://[::1/{study}", "file:///{study}",
    ],
)  # fmt: skip
def test_a_template_that_leads_elsewhere_is_refused(template):
    with pytest.raises(ValueError, match="it is no address of a viewer"):
        Settings(web_viewer=template)


@pytest.mark.parametrize("given", [{"web_color": "pink"}, {"web_name": "x" * 33}])
def test_a_wrong_name_or_color_is_refused(given):
    with pytest.raises(ValueError, match="1 validation error"):
        Settings(**given)
