"""The page shows the fault table that is played."""

from tests.compose import ROOT
from tests.faults.report import render
from tests.faults.rows import ROWS


def test_the_page_has_every_row_as_it_is_played():
    page = (ROOT / "docs" / "reliability.md").read_text()
    for row in ROWS:
        assert f"| {row.number} | {row.fault} | {row.injection} | {row.outcome} |" in page


def test_the_sums_are_those_of_the_record():
    counts = {"scans": 40, "redeliveries": 2, "splits": 0, "sweeps": 1, "restarts": 3, "outcome": "passed"}
    text = render([
        {"row": "4", "seed": 1, "faults": {"worker killed": 2}, **counts},
        {"row": "4", "seed": 2, "faults": {"worker killed": 1}, **counts},
    ])  # fmt: skip
    assert "| 2 | 3 |\n" in text
    assert text.splitlines()[-1].startswith("2 cases (seeds 1 to 2), 3 faults, 80 scans enqueued, 4 further claims")
