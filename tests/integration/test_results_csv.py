"""The CSV of results is equal from both databases, for any paths and labels."""

import csv
import io
import os
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from db.engine import reading, write
from db.results import COLUMNS, Order, ResultFilter, stream_results, to_text
from db.results_csv import stream_csv
from db.runs import NewScan
from db.tables import scans
from db.types import ScanStatus
from nightread.scan.files import encode_path
from tests.web_page import add_night

HOSTILE = [
    b"/scans/new\nline.png", b"/scans/return\r.png", b'/scans/"quote".png', b"/scans/a,b.png", b"/scans/100%.png",
    b"/scans/back\\slash.png", b"/scans/\xff\xfe.png", "/scans/שלום.png".encode(), b"/scans/ space ", b"\\.", b"=1+1",
]  # fmt: skip
SCORES = [0.0, 1.0, 0.5, 1 / 3, 0.1 + 0.2, 1e-05, 0.0001, 5e-324, 1 - 2**-53, 2.2250738585072014e-308, 0.7]


def read_csv(engine, wanted):
    with reading(engine) as connection:
        return b"".join(stream_csv(connection, wanted)).decode()


def parse(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def read_rows(engine, wanted):
    """Return the rows formatted by `to_text`, the expected content of the CSV."""
    with reading(engine) as connection:
        return [{column: to_text(row[column]) for column in COLUMNS} for row in stream_results(connection, wanted)]


def add_hostile_night(engine):
    paths = [os.fsdecode(path) for path in HOSTILE]
    return add_night(engine, SCORES, found=[NewScan(encode_path(path), 1) for path in paths])


def test_the_lines_hold_what_the_rows_hold(engine):
    run_id = add_hostile_night(engine)
    text = read_csv(engine, ResultFilter(run_id))
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert parse(text) == read_rows(engine, ResultFilter(run_id))
    assert [float(row["score"]) for row in parse(text)] == SCORES


def test_scans_without_a_score_have_empty_columns_and_a_reason(engine):
    run_id = add_night(engine, [0.5, ScanStatus.REJECTED, ScanStatus.FAILED, None, {"a": 0.25, "b": 0.75}])
    rows = parse(read_csv(engine, ResultFilter(run_id)))
    assert rows == read_rows(engine, ResultFilter(run_id))
    assert [(row["label"], row["score"], row["status"], row["reason_text"]) for row in rows] == [
        ("pneumonia", "0.5", "scored", ""), ("", "", "rejected", "cut <short>"), ("", "", "failed", "cut <short>"),
        ("", "", "queued", ""), ("a", "0.25", "scored", ""), ("b", "0.75", "scored", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("microsecond", [0, 1, 120_000, 999_999])
def test_times_are_written_as_python_writes_them(engine, microsecond):
    run_id = add_night(engine, [0.5])
    with reading(engine) as connection:
        now = connection.execute(select(scans.c.finished_at)).scalar_one()
    moment = (now - timedelta(days=200)).replace(microsecond=microsecond)
    write(engine, lambda connection: connection.execute(update(scans).values(finished_at=moment)))
    (row,) = parse(read_csv(engine, ResultFilter(run_id)))
    assert row["time"] == moment.isoformat()


@pytest.mark.parametrize("label", ["100%", "it's", 'a "b"', r"back\slash", "%(name)s", "a:b"])
def test_a_filter_holds_any_character(engine, label):
    run_id = add_night(engine, [{label: 0.5, "other": 0.5}, 0.5])
    for wanted in (ResultFilter(run_id, label=label), ResultFilter(run_id, label=label, min_score=0.5, limit=5)):
        assert [row["label"] for row in parse(read_csv(engine, wanted))] == [label]
    assert parse(read_csv(engine, ResultFilter(run_id, label=f"{label}?"))) == []


def test_filters_and_orders_are_those_of_the_rows(engine):
    run_id = add_night(engine, [0.25, 0.75, ScanStatus.REJECTED, 0.75, None, 0.5])
    for wanted in (
        ResultFilter(run_id, order=Order.SCORE),
        ResultFilter(run_id, statuses=[ScanStatus.REJECTED, ScanStatus.QUEUED]),
        ResultFilter(run_id, decision="pneumonia", limit=2),
        ResultFilter(run_id, min_score=0.5, order=Order.SCORE, limit=3),
    ):
        assert parse(read_csv(engine, wanted)) == read_rows(engine, wanted) != []


def test_a_reader_that_stops_leaves_a_connection_that_works_again(engine):
    run_id = add_night(engine, [0.5] * 3_000)
    with reading(engine) as connection:
        lines = stream_csv(connection, ResultFilter(run_id))
        next(lines)
        next(lines)
        lines.close()
    assert len(parse(read_csv(engine, ResultFilter(run_id)))) == 3_000
