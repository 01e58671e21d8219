"""The page shows the current fault table."""

from tests.factories import ROOT
from tests.faults.report import render
from tests.faults.rows import ROWS


def test_the_page_has_every_row_as_it_is_played():
    page = (ROOT / "docs" / "reliability.md").read_text()
    for row in ROWS:
        assert f"| {row.number} | {row.fault} | {row.injection} | {row.outcome} |" in page


COUNTS = {"scans": 40, "redeliveries": 2, "splits": 0, "sweeps": 1, "restarts": 3, "outcome": "passed"}


def make_entry(seed, killed, row="4", **more):
    return {"row": row, "seed": seed, "faults": {"worker killed": killed}, **COUNTS, **more}


def test_the_sums_are_those_of_the_record():
    text = render([make_entry(1, 2), make_entry(2, 1)])
    assert "| 2 | 3 |\n" in text
    assert text.splitlines()[-1].startswith("2 cases (seeds 1 to 2), 3 faults, 80 scans enqueued, 4 further claims")


def test_of_several_records_a_case_counts_once():
    text = render([make_entry(1, 2), make_entry(3, 1), make_entry(7, 1), make_entry(1, 2), make_entry(2, 2)])
    assert text.splitlines()[-1].startswith("4 cases (seeds 1 to 3, 7), 6 faults")


def test_the_soak_is_told_beside_the_table():
    soak = make_entry(1, 300, row="30", seconds=1790.0, rss_mib=[401, 398])
    *table, soak_text = render([make_entry(1, 2), soak]).splitlines()
    assert table[-2].startswith("1 cases (seed 1), 2 faults")
    assert soak_text.startswith(
        "**Row 30**, the soak: 30 minutes (seed 1), 1 kinds of faults in an order of chance, 300 faults"
    )
    assert "401 MiB in the first third of the time, 398 MiB in the last" in soak_text
