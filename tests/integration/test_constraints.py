"""The tables refuse wrong rows, whatever the code does."""

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError, StatementError

from db.engine import reading, write
from db.tables import jobs, models, predictions, runs, scans
from db.types import database_now
from tests.db_factories import MODEL_DIGEST, add_job, add_run, job_ids, new_prediction, sha256_of


def refuse(engine, statement):
    with pytest.raises(IntegrityError):
        write(engine, lambda connection: connection.execute(statement))


def end(**values):
    return update(scans).values(finished_at=database_now(), **values)


@pytest.fixture
def scan(engine):
    """The only queued scan in the database."""
    add_job(engine, 1)
    with reading(engine) as connection:
        return connection.execute(select(scans)).one()


@pytest.mark.parametrize(
    "values",
    [
        {"status": "scored"},
        {"status": "rejected", "sha256": sha256_of(1)},
        {"status": "failed"},
        {"status": "scored", "sha256": sha256_of(1), "reason_code": "damaged", "reason_text": "x"},
        {"status": "rejected", "reason_code": "damaged"},
        {"status": "rejected", "reason_text": "damaged"},
        {"status": "scored", "sha256": sha256_of(1), "finished_at": None},
        {"status": "rejected", "reason_code": "damaged", "reason_text": "x", "finished_at": None},
    ],
    ids=[
        "scored without digest", "rejected without reason", "failed without reason", "scored with reason",
        "code without text", "text without code", "scored without time", "rejected without time",
    ],
)  # fmt: skip
def test_a_terminal_scan_has_what_its_status_says(engine, scan, values):
    refuse(engine, end(**values) if "finished_at" not in values else update(scans).values(**values))


@pytest.mark.parametrize(
    "values",
    [{"reason_code": "damaged", "reason_text": "x"}, {"finished_at": database_now()}, {"job_id": None}],
    ids=["with reason", "with time", "without job"],
)
def test_a_queued_scan_has_nothing_but_its_job(engine, scan, values):
    refuse(engine, update(scans).values(**values))


@pytest.mark.parametrize(("table", "values"), [(scans, "lost"), (jobs, "done "), (runs, "open"), (models, "beta")])
def test_a_status_outside_the_list_cannot_be_written(engine, scan, table, values):
    column = "stage" if table is models else "status"
    with pytest.raises((IntegrityError, StatementError)):
        write(engine, lambda connection: connection.exec_driver_sql(f"UPDATE {table.name} SET {column} = '{values}'"))


def test_a_run_has_each_path_once(engine, scan):
    row = {name: value for name, value in scan._mapping.items() if name != "id"}
    refuse(engine, insert(scans).values(row))
    refuse(
        engine,
        insert(scans).values(
            row | {"status": "rejected", "reason_code": "x", "reason_text": "x", "finished_at": row["created_at"]}
        ),
    )


def test_two_runs_may_have_the_same_path(engine):
    add_run(engine, 1)
    add_run(engine, 1)


@pytest.mark.parametrize("score", [-0.001, 1.001, float("nan"), float("inf"), None])
def test_a_score_is_a_number_from_0_to_1(engine, scan, score):
    row = {name: getattr(new_prediction(), name) for name in new_prediction().__slots__}
    refuse(engine, insert(predictions).values(row | {"score": score, "created_at": database_now()}))


@pytest.mark.parametrize("score", [0.0, 5e-324, 0.1 + 0.2, 1.0])
def test_a_score_is_stored_without_rounding(engine, scan, score):
    row = {name: getattr(new_prediction(), name) for name in new_prediction().__slots__}
    write(engine, lambda connection: connection.execute(
        insert(predictions).values(row | {"score": score, "created_at": database_now()})
    ))  # fmt: skip
    with reading(engine) as connection:
        assert connection.execute(select(predictions.c.score)).scalar() == score


def test_a_content_has_one_prediction_a_label(engine, scan):
    row = {name: getattr(new_prediction(), name) for name in new_prediction().__slots__}
    statement = insert(predictions).values(row | {"created_at": database_now()})
    write(engine, lambda connection: connection.execute(statement))
    refuse(engine, statement)


@pytest.mark.parametrize(
    "values",
    [
        {"status": "leased"},
        {"status": "leased", "lease_holder": "worker-1"},
        {"status": "leased", "lease_expires_at": database_now()},
        {"status": "done", "lease_holder": "worker-1", "lease_expires_at": database_now()},
    ],
)
def test_a_leased_job_has_holder_and_end_and_no_other_job_has_both(engine, scan, values):
    refuse(engine, update(jobs).values(**values))


def test_rows_point_at_rows_that_are_there(engine, scan):
    refuse(engine, update(scans).values(job_id="0" * 32))
    refuse(engine, update(scans).values(run_id="0" * 32))
    refuse(engine, update(jobs).values(run_id="0" * 32))
    refuse(engine, update(runs).values(model_digest="0" * 64))


def test_a_name_and_version_belong_to_one_digest(engine, scan):
    with reading(engine) as connection:
        model = connection.execute(select(models)).one()._mapping
    refuse(engine, insert(models).values(dict(model) | {"digest": "e" * 64}))
    assert model["digest"] == MODEL_DIGEST
    assert len(job_ids(engine, scan.run_id)) == 1
