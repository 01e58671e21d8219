"""Rows that are passed to the driver directly arrive as through SQLAlchemy."""

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from db.bulk import insert_new, update_queued
from db.engine import reading, write
from db.job_results import store_predictions
from db.measurements import store_measurements
from db.tables import measurements, predictions, scans
from db.types import ScanStatus
from tests.db_factories import add_run, fetch_scans, new_measurement, new_prediction

TEXTS = ["100 % of it", "it's", 'a "quoted" one', "back\\slash", "{brace, brace}", "NULL", "größer", ""]


def stored(engine, table):
    with reading(engine) as connection:
        return connection.execute(select(table)).all()


@pytest.fixture
def run_id(engine):
    return add_run(engine, len(TEXTS))


def test_predictions_arrive_as_they_were(engine, run_id):
    new = [new_prediction(number, worker=text, score=number / 7) for number, text in enumerate(TEXTS)]
    write(engine, lambda connection: store_predictions(connection, new))
    rows = {row.sha256: row for row in stored(engine, predictions)}
    assert len(rows) == len(TEXTS)
    for prediction in new:
        row = rows[prediction.sha256]
        assert (row.worker, row.score, row.batch_size) == (prediction.worker, prediction.score, prediction.batch_size)
        assert row.created_at.tzinfo is not None


def test_a_row_that_is_there_already_stays(engine, run_id):
    write(engine, lambda connection: store_predictions(connection, [new_prediction(1, score=0.25)]))
    both = [new_prediction(2, score=0.5), new_prediction(1, score=0.75)]
    write(engine, lambda connection: store_predictions(connection, both))
    assert sorted(row.score for row in stored(engine, predictions)) == [0.25, 0.5]


def test_measurements_keep_lists_and_what_is_missing(engine, run_id):
    new = [new_measurement(1, components=[0.5, -1.25]), new_measurement(2, components=None, distance=None)]
    write(engine, lambda connection: store_measurements(connection, new))
    rows = sorted(stored(engine, measurements), key=lambda row: row.distance is None)
    assert [(row.components, row.distance) for row in rows] == [([0.5, -1.25], 12.5), (None, None)]


def test_scans_are_updated_by_id_and_those_that_have_ended_stay(engine, run_id):
    ids = [row.id for row in fetch_scans(engine, run_id)]
    columns = ("status", "reason_code", "reason_text", "attempts", "finished_at")

    def end(connection, reason_code):
        rows = [
            ("failed", reason_code, text, 2, "2026-11-25 01:02:03.000004+00:00" if is_server else
             "2026-11-25 01:02:03.000004", scan_id)
            for scan_id, text in zip(ids, TEXTS, strict=True)
        ]  # fmt: skip
        update_queued(connection, scans, columns, rows)

    is_server = engine.dialect.name == "postgresql"
    write(engine, lambda connection: end(connection, "internal-error"))
    write(engine, lambda connection: end(connection, "cancelled"))
    rows = fetch_scans(engine, run_id)
    assert [row.reason_text for row in rows] == TEXTS
    assert {(row.status, row.reason_code, row.attempts) for row in rows} == {(ScanStatus.FAILED, "internal-error", 2)}
    assert {row.finished_at.isoformat() for row in rows} == {"2026-11-25T01:02:03.000004+00:00"}


def test_what_is_too_long_for_its_column_is_an_error_and_not_cut(postgres_engine):
    add_run(postgres_engine)
    new = [new_prediction(1, decision="x" * 65)]
    with pytest.raises(DBAPIError, match="StringDataRightTruncation"):
        write(postgres_engine, lambda connection: store_predictions(connection, new))


def test_no_rows_are_no_statement(engine, run_id):
    def work(connection):
        insert_new(connection, predictions, ("sha256",), [])
        update_queued(connection, scans, ("status",), [])

    write(engine, work)
    assert stored(engine, predictions) == []
