"""What is exported is read back to the same values by the programs that people use, from both databases."""

import io
import json
from datetime import UTC, datetime, timedelta

import duckdb
import openpyxl
import pandas as pd
import pytest
from pyarrow import parquet

from cli.output.result_rows import write_rows
from db.engine import reading
from db.results import Order, ResultFilter, count_results, stream_results
from db.runs import NewScan
from db.types import ScanStatus
from db.views import results
from tests.web_page import add_night

PATHS = [
    "/scans/a,b.png",
    "/scans/=1+1.png",
    '/scans/"q".png',
    "/scans/new\nline.png",
    "/scans/\u05e9.png",
    "/scans/plain",
]
COLUMNS = ("path", "label", "score", "decision", "status", "reason", "reused", "time", "size_bytes", "run_created")


@pytest.fixture
def run_id(engine):
    scores = [0.1 + 0.2, 1.0, 0.0, 1e-05, ScanStatus.REJECTED, None]
    return add_night(engine, scores, found=[NewScan(path, 5) for path in PATHS])


@pytest.fixture
def export(engine, run_id, tmp_path):
    def write(form, **options):
        with reading(engine) as connection:
            write_rows(connection, ResultFilter(run_id, columns=COLUMNS), form, tmp_path / f"rows.{form}", **options)
        return tmp_path / f"rows.{form}"

    return write


@pytest.fixture
def expected(engine, run_id):
    with reading(engine) as connection:
        return [{column: row[column] for column in COLUMNS} for row in stream_results(connection, ResultFilter(run_id))]


def test_pandas_reads_the_csv_back(export, expected):
    frame = pd.read_csv(export("csv"), parse_dates=["time", "run_created"], keep_default_na=False, na_values=[""])
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    assert rows == expected


def test_duckdb_reads_csv_parquet_and_jsonl_to_the_same_rows(export, expected):
    wanted = [tuple(row[column] for column in ("path", "score", "status", "reused", "size_bytes")) for row in expected]
    chosen = "SELECT path, score, status, reused, size_bytes FROM"
    for source in (
        f"read_csv('{export('csv')}', header=true)", f"'{export('parquet')}'",
        f"read_json('{export('jsonl')}', format='newline_delimited')",
    ):  # fmt: skip
        assert duckdb.sql(f"{chosen} {source}").fetchall() == wanted, source


def test_parquet_and_json_hold_types(export, expected):
    assert parquet.read_table(export("parquet")).to_pylist() == expected
    rows = json.loads(export("json").read_text(encoding="utf-8"))
    times = {column: [row.pop(column) for row in rows] for column in ("time", "run_created")}
    assert rows == [{name: value for name, value in row.items() if name not in times} for row in expected]
    assert [time and datetime.fromisoformat(time) for time in times["time"]] == [row["time"] for row in expected]


def test_tsv_is_the_csv_with_tabs(export):
    by_comma, by_tab = (pd.read_csv(export(form), sep=sep) for form, sep in (("csv", ","), ("tsv", "\t")))
    assert by_comma.equals(by_tab)


def test_openpyxl_reads_the_sheet_back(export, expected):
    header, *rows = openpyxl.load_workbook(export("xlsx")).active.iter_rows(values_only=True)
    assert [name.removesuffix(" (UTC)") for name in header] == list(COLUMNS)
    for row, right in zip(rows, expected, strict=True):
        held = dict(zip(COLUMNS, row, strict=True))
        for column in ("time", "run_created"):  # Excel counts days in a double, to about a millisecond
            time, right_time = held.pop(column), right.pop(column)
            assert (time is None) == (right_time is None)
            if time is not None:
                assert abs(time.replace(tzinfo=UTC) - right_time) < timedelta(milliseconds=2)
        if held["score"] is not None:  # the writer rounds to the 16th digit, Excel shows 15
            assert held.pop("score") == pytest.approx(right.pop("score"), rel=1e-15)
        held["path"] = held["path"].replace("_x000A_", "\n")
        assert held == right


def test_csv_for_excel_has_mark_line_ends_and_no_formula(engine, tmp_path):
    run_id = add_night(engine, [0.5], name="=cmd|' /C calc'!A0", found=[NewScan("+1", 1)])
    with reading(engine) as connection:
        wanted = ResultFilter(run_id, columns=("run", "path", "score", "time"))
        write_rows(connection, wanted, "csv", tmp_path / "rows.csv", for_excel=True)
    data = (tmp_path / "rows.csv").read_bytes()
    assert data.startswith("\ufeffrun,path,score,time (UTC)\r\n".encode())
    frame = pd.read_csv(io.BytesIO(data), encoding="utf-8-sig")
    assert list(frame.iloc[0][:3]) == ["'=cmd|' /C calc'!A0", "'+1", 0.5]


def test_rows_are_filtered_by_study_time_and_newest_run(engine):
    add_night(engine, [0.25, 0.75], name="first")
    with reading(engine) as connection:
        (noon,) = {row["time"] for row in stream_results(connection, ResultFilter(order=Order.TIME, limit=1))}
    second = add_night(engine, [0.5], name="second")  # the first file once more

    def read(**wanted):
        with reading(engine) as connection:
            return [(row["run"], row["score"]) for row in stream_results(connection, ResultFilter(**wanted))]

    assert read(latest=True) == [("first", 0.75), ("second", 0.5)]
    assert read(until=noon + timedelta(microseconds=1)) == [("first", 0.25), ("first", 0.75)]
    assert read(since=noon + timedelta(microseconds=1)) == [("second", 0.5)]
    with reading(engine) as connection:
        (study,) = {row["study"] for row in stream_results(connection, ResultFilter(second))}
        assert count_results(connection, ResultFilter(latest=True)) == {("pneumonia", "scored"): 2}
    assert read(study=study) == [("second", 0.5)]
    assert read(order=Order.PATH, columns=("run", "score", "path"))[0] == ("first", 0.25)


def test_every_column_of_the_view_can_be_exported(engine, run_id, tmp_path):
    names = tuple(column.name for column in results.c)
    with reading(engine) as connection:
        write_rows(connection, ResultFilter(run_id, columns=names), "csv", tmp_path / "all.csv")
        rows = list(stream_results(connection, ResultFilter(run_id, columns=names)))
    frame = pd.read_csv(tmp_path / "all.csv")
    assert tuple(frame.columns) == names
    assert len(frame) == len(rows)
