"""Guards: which runs do not look like a night, and how that is said."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from db.runs import RunInfo
from db.tallies import RunCounts, RunTally
from db.types import RunStatus
from nightread.errors import SettingsError
from worker.runs.guards import Guards, find_tripped, read_range
from worker.runs.request import Request


def make_run(found, sources=("/scans",)):
    now = datetime(2026, 11, 29, tzinfo=UTC)
    return RunInfo(
        id="a" * 32, name="night", model="cnn@1", model_digest="d" * 64, preprocessing="1", sources=list(sources),
        settings={}, embedded=False, skipped={}, found=found, status=RunStatus.FINISHED, created_at=now,
        finished_at=now,
    )  # fmt: skip


def judge(*, scored=0, rejected=None, failed=None, usual=(), sources=("/scans",), **limits):
    rejected, failed = rejected or {}, failed or {}
    counts = RunCounts(scored=scored, rejected=sum(rejected.values()), failed=sum(failed.values()))
    tally = RunTally(counts, reasons={"rejected": rejected, "failed": failed})
    return find_tripped(Guards(**limits), make_run(counts.found, sources), tally, usual)


@pytest.mark.parametrize(
    ("counts", "limits", "codes"),
    [
        ({"scored": 10}, {}, []),
        ({"scored": 5, "rejected": {"damaged": 5}}, {}, []),
        ({"scored": 4, "rejected": {"damaged": 3, "blank": 2}}, {}, ["rejected"]),
        ({"rejected": {"damaged": 5}}, {}, ["one-reason"]),
        ({"rejected": {"damaged": 3, "blank": 2}}, {}, ["rejected"]),
        ({"rejected": {"damaged": 5}}, {"max_rejected": "100%"}, ["one-reason"]),
        ({"scored": 95, "rejected": {"damaged": 5}}, {"max_rejected": "4"}, ["rejected"]),
        ({"scored": 95, "rejected": {"damaged": 5}}, {"max_rejected": "5%"}, []),
        # What the environment did has an exit code of its own, 3, and `retry` takes it.
        ({"failed": {"permission-denied": 60}}, {}, []),
        ({"scored": 9, "failed": {"storage-error": 1}}, {"max_failed": "5%"}, ["failed"]),
        ({"scored": 19, "failed": {"storage-error": 1}}, {"max_failed": "5%"}, []),
        ({}, {}, ["empty"]),
        ({}, {"allow_empty": True}, []),
        ({"scored": 199}, {"least": 200}, ["too-few"]),
        ({"scored": 200}, {"least": 200, "most": 200}, []),
        ({"scored": 201}, {"most": 200}, ["too-many"]),
        ({"scored": 5, "sources": ("/a", "/b")}, {"empty_sources": (2,)}, ["empty-source"]),
        ({"scored": 30, "usual": [100] * 4}, {}, []),
        ({"scored": 30, "usual": [100] * 5}, {}, ["too-few"]),
        ({"scored": 30, "usual": [100] * 5}, {"most": 1000}, []),
        ({"scored": 100, "usual": [100] * 5}, {}, []),
        ({"scored": 301, "usual": [100, 90, 110, 0, 5000]}, {}, ["too-many"]),
        ({"scored": 30, "usual": [100] * 5}, {"least": 1}, []),
    ],
)  # fmt: skip
def test_a_run_is_judged_by_its_limits(counts, limits, codes):
    assert [code for code, _ in judge(**counts, **limits)] == codes


@pytest.mark.parametrize("found", [10, 100, 200, 1000])
def test_share_of_scans_is_exact_at_its_limit(found):
    for allowed in range(found - 1):
        limit = f"{Decimal(100 * allowed) / found}%"
        for count, codes in ((allowed, []), (allowed + 1, ["rejected"])):
            tripped = judge(scored=found - count, rejected={"damaged": count}, max_rejected=limit)
            assert [code for code, _ in tripped] == codes


def test_a_sentence_says_what_was_found_and_what_is_allowed():
    ((_, sentence),) = judge(scored=40, rejected={"damaged": 150, "blank": 50})
    assert sentence == "200 of 240 scans are rejected, most for damaged; 50% are allowed (--max-rejected)"


@pytest.mark.parametrize("limit", ["", "-1", "half", "101%", "5 percent", "1.5"])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(SettingsError, match=r"--max-rejected.*5%"):
        Guards(max_rejected=limit)


def test_ranges_are_read_from_both_ends():
    assert [read_range(text) for text in ("200..3,000", "200..", "..5")] == [(200, 3000), (200, None), (None, 5)]
    for text in ("200", "..", "5..4", "a..b", "-1..5"):
        with pytest.raises(SettingsError, match=r"200\.\.3000"):
            read_range(text)


def test_limits_are_stored_with_a_run_and_those_of_a_newer_release_are_left_out():
    guards = Guards(max_failed="5%", least=3, empty_sources=(2,))
    assert Guards.from_json(guards.to_json() | {"of_a_newer_release": 1}) == guards


def test_a_key_must_fit_into_its_column():
    for key in ("", "x" * 201):
        with pytest.raises(SettingsError, match="1 to 200 characters"):
            Request(key=key)
