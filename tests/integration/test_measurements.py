"""Measurements of scans are stored once, with their predictions, and reused."""

import math

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from db.contents import find_stored
from db.engine import reading, write
from db.job_results import store_results
from db.measurements import store_measurements, stream_measured
from db.tables import measurements
from db.tallies import ScanOutcome
from db.types import ScanStatus
from tests.db_factories import (
    MODEL_DIGEST,
    add_job,
    at_once,
    claim,
    expire_lease,
    fetch_job,
    new_measurement,
    new_prediction,
    open_scans,
    scored,
    sha256_of,
)


def store(engine, *rows):
    write(engine, lambda connection: store_measurements(connection, rows))


def fetch(engine):
    with reading(engine) as connection:
        return connection.execute(select(measurements).order_by(measurements.c.sha256)).all()


def find(engine, digests, model_digest=MODEL_DIGEST, preprocessing="1"):
    with reading(engine) as connection:
        return find_stored(connection, digests, model_digest, preprocessing, 1).verdicts


@pytest.fixture
def held(engine):
    """A claimed job of three scans."""
    return claim(engine, add_job(engine, 3))


def test_measurements_are_stored_with_the_results_of_their_job(engine, held):
    found = open_scans(engine, held.job_id)
    rows = [new_measurement(scan.id, distance=scan.id / 3) for scan in reversed(found)]
    outcomes = [scored(scan) for scan in found]
    assert write(engine, lambda connection: store_results(connection, held, outcomes, [], rows))
    assert [(row.sha256, row.distance, row.components) for row in fetch(engine)] == [
        (sha256_of(scan.id), scan.id / 3, [0.5, -1.25]) for scan in found
    ]


def test_a_measurement_that_is_there_already_stays(engine, held):
    store(engine, new_measurement(gate_verdict="passed"))
    store(engine, new_measurement(gate_verdict="document"), new_measurement(2))
    assert [row.gate_verdict for row in fetch(engine)] == ["passed", "passed"]


def test_a_worker_that_lost_its_job_still_leaves_what_it_measured(engine, held):
    (scan, *_) = open_scans(engine, held.job_id)
    expire_lease(engine, held.job_id)
    assert claim(engine, held.job_id, "worker-2") is not None
    late = [new_measurement(scan.id)]
    assert not write(engine, lambda connection: store_results(connection, held, [scored(scan)], [], late))
    assert len(fetch(engine)) == 1


def test_writers_that_meet_in_opposite_order_store_each_measurement_once(engine, held):
    rows = [new_measurement(number) for number in range(50)]
    at_once([lambda: store(engine, *rows), lambda: store(engine, *reversed(rows))])
    assert len(fetch(engine)) == 50


def test_a_distance_below_zero_or_of_no_known_model_is_refused(engine, held):
    for wrong in (new_measurement(distance=-0.5), new_measurement(model_digest="e" * 64)):
        with pytest.raises(IntegrityError):
            store(engine, wrong)


def test_what_was_not_inferred_has_neither_distance_nor_components(engine, held):
    store(engine, new_measurement(distance=None, components=None))
    with reading(engine) as connection:
        no_distance = measurements.c.distance.is_(None) & measurements.c.components.is_(None)
        assert connection.execute(select(no_distance)).scalar()


def test_verdicts_are_found_by_content_model_and_preprocessing_version(engine, held):
    store(engine, new_measurement(1), new_measurement(2, gate_verdict="document"), new_measurement(3))
    digests = [sha256_of(number) for number in (1, 2, 9)]
    assert find(engine, digests) == {sha256_of(1): "passed", sha256_of(2): "document"}
    assert find(engine, digests, model_digest="e" * 64) == {}
    assert find(engine, digests, preprocessing="2") == {}
    assert find(engine, []) == {}


def test_a_model_without_a_gate_leaves_no_verdict(engine, held):
    store(engine, new_measurement(gate_verdict=None))
    assert find(engine, [sha256_of(1)]) == {}


def test_the_measured_scans_of_a_run_come_with_their_status_and_score(engine, held):
    one, two, three = open_scans(engine, held.job_id)
    outcomes = [
        scored(one),
        ScanOutcome(two.id, ScanStatus.REJECTED, sha256_of(two.id), reason_code="document", reason_text="a document"),
        ScanOutcome(three.id, ScanStatus.REJECTED, reason_code="damaged", reason_text="damaged"),
    ]
    found = [new_prediction(one.id, score=0.75), new_prediction(two.id, score=0.125)]
    rows = [new_measurement(one.id), new_measurement(two.id, gate_verdict="document", distance=None, components=None)]
    assert write(engine, lambda connection: store_results(connection, held, outcomes, found, rows))
    run_id = fetch_job(engine, held.job_id).run_id
    with reading(engine) as connection:
        first, second, third = stream_measured(connection, run_id, "pneumonia")
    assert (first.status, first.score, first.gate_verdict, first.components) == ("scored", 0.75, "passed", [0.5, -1.25])
    assert (second.reason_code, second.score, second.distance) == ("document", None, None)
    assert math.isclose(second.brightness, 0.5)
    assert (third.reason_code, third.gate_verdict, third.brightness) == ("damaged", None, None)
