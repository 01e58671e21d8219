"""Formatting of values for people."""

from datetime import UTC, datetime, timedelta

import pytest

from db.runs import RunInfo
from db.types import RunStatus
from web.showing import show_duration, show_path, show_text

START = datetime(2026, 11, 20, 1, 2, 3, tzinfo=UTC)


def new_info(**fields):
    return RunInfo(**{
        "id": "a" * 32, "name": "night", "model": "cnn@1", "model_digest": "d" * 64, "preprocessing": "1",
        "sources": ["/scans"], "settings": {}, "embedded": False, "skipped": {}, "found": 3,
        "status": RunStatus.FINISHED, "created_at": START, "finished_at": None, **fields,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 胸", "plain é 胸"),
        ("line\nbreak", r"line\nbreak"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u2067isolate", r"\u2067isolate"),
        (None, ""),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, shown):
    assert show_text(text) == shown


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/a.png", ["a.png"]),
        ("/scans/a.png", ["scans", "a.png"]),
        ("/scans/ward/a.png", ["…", "ward", "a.png"]),
        ("/scans/wa\nrd/a.png", ["…", r"wa\nrd", "a.png"]),
        ("/", ["/"]),
    ],
)
def test_a_path_is_shown_by_its_last_parts(path, shown):
    assert show_path(path) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (99.9, "99.9 s"), (100, "1 min 40 s"), (3599.6, "1 h 00 min"), (7260, "2 h 01 min")],
)
def test_a_duration_is_written_for_people(seconds, shown):
    assert show_duration(new_info(finished_at=START + timedelta(seconds=seconds))) == shown


def test_a_run_that_goes_on_has_no_duration():
    assert not show_duration(new_info())
