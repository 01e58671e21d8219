"""A run that is scored again: every scan is equal, within tolerance, changed or missing, and nothing is stored."""

import pytest
from sqlalchemy import func, select, update

from db.engine import reading, write
from db.tables import measurements, predictions, scans
from nightread.errors import NightreadError
from tests.db_factories import add_run
from tests.factories import small_chest, write_jpeg
from tests.onnx_factories import write_tiny_bundle
from tests.worker_factories import fetch_info, run_process
from worker.runs.embedded import run_embedded
from worker.runs.enqueue import Request, write_run
from worker.runs.verification import Agreement, verify_run

FILES = 5


@pytest.fixture
def process(engine, tmp_path):
    with run_process(engine, models_dir=tmp_path / "models", job_size=2, batch_size=2) as process:
        yield process


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "night"
    for number in range(FILES):
        write_jpeg(folder / f"{number}.jpg", small_chest(number))
    (folder / "cut.jpg").write_bytes((folder / "0.jpg").read_bytes()[:900])
    return folder


@pytest.fixture
def run(process, folder):
    """Five scored scans and a rejected one; thresholds 0.4 and 0.6."""
    bundle = write_tiny_bundle(process.settings.models_dir, "1", bias=-2.0)
    process.open_bundle(bundle)
    enqueued = write_run(process.engine, process.settings, bundle, [folder], Request(), embedded=True)
    return run_embedded(process, enqueued.run_id, lambda counts: None)


def verify(process, run, **options):
    progress = []
    verification = verify_run(process, run, on_progress=lambda *now: progress.append(now), **options)
    assert progress[-1] == (verification.checked, verification.checked)
    return verification


def differing(verification, folder):
    return {scan.path.removeprefix(f"{folder}/"): (scan.agreement, scan.why) for scan in verification.differing}


def change_score(process, path, by):
    of_path = select(scans.c.sha256).where(scans.c.path == str(path)).scalar_subquery()
    changed = update(predictions).where(predictions.c.sha256 == of_path)
    write(process.engine, lambda connection: connection.execute(changed.values(score=predictions.c.score + by)))


def sizes(process):
    with reading(process.engine) as connection:
        tables = (scans, predictions, measurements)
        return [connection.execute(select(func.count()).select_from(table)).scalar() for table in tables]


def test_an_untouched_run_is_equal_and_nothing_is_stored(process, run):
    before = sizes(process)
    verification = verify(process, run)
    assert verification.counts == {Agreement.EQUAL: FILES + 1}
    assert verification.differing == []
    assert verification.largest_difference == 0.0
    assert sizes(process) == before
    assert fetch_info(process, run.id) == run


def test_a_score_within_tolerance_is_told_apart_from_one_that_changed(process, run, folder):
    change_score(process, folder / "0.jpg", 1e-6)
    change_score(process, folder / "1.jpg", 0.01)
    verification = verify(process, run)
    assert verification.counts == {Agreement.EQUAL: FILES - 1, Agreement.CLOSE: 1, Agreement.CHANGED: 1}
    assert verification.largest_difference == pytest.approx(0.01)
    ((name, (agreement, why)),) = differing(verification, folder).items()
    assert (name, agreement) == ("1.jpg", Agreement.CHANGED)
    assert why.startswith("pneumonia 0.")


def test_files_that_are_gone_hold_other_bytes_or_are_another_case_by_now(process, run, folder):
    (folder / "0.jpg").unlink()
    write_jpeg(folder / "1.jpg", small_chest(99))
    (folder / "2.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes((folder / "3.jpg").read_bytes())
    verification = verify(process, run)
    found = differing(verification, folder)
    assert found["0.jpg"][0] is Agreement.MISSING
    assert found["1.jpg"] == (Agreement.CHANGED, "the file holds other bytes")
    assert found["2.jpg"] == (
        Agreement.CHANGED,
        "still-changing: the file is empty, and was not when it was listed",
    )
    assert found["cut.jpg"] == (Agreement.CHANGED, "the file holds other bytes")
    assert verification.counts[Agreement.EQUAL] == 2


def test_a_decision_that_changed_is_told_although_the_score_did_not(process, run, folder):
    write(process.engine, lambda connection: connection.execute(update(predictions).values(decision="uncertain")))
    verification = verify(process, run)
    assert set(differing(verification, folder).values()) == {
        (Agreement.CHANGED, "pneumonia: uncertain in the run, normal now")
    }


def test_a_score_that_was_deleted_by_hand_is_a_change(process, run, folder):
    write(process.engine, lambda connection: connection.execute(predictions.delete()))
    assert verify(process, run).counts[Agreement.CHANGED] == FILES


def test_a_sample_is_as_large_as_asked_for(process, run):
    verification = verify(process, run, sample=3)
    assert (verification.checked, verification.ended) == (3, FILES + 1)
    assert verify(process, run, sample=100).checked == FILES + 1


def test_the_description_adds_up(process, run, folder):
    (folder / "0.jpg").unlink()
    told = verify(process, run).describe()
    assert told["checked"] == told["equal"] + told["within_tolerance"] + told["changed"] + told["missing"]
    assert told["missing"] == len(told["scans"]) == 1


def test_a_run_without_a_verdict_is_refused(process, run):
    model = {"model_digest": run.model_digest}
    run_id = add_run(process.engine, 1)
    write(process.engine, lambda connection: connection.exec_driver_sql(
        f"UPDATE runs SET model_digest = '{model['model_digest']}' WHERE id = '{run_id}'"
    ))  # fmt: skip
    with pytest.raises(NightreadError, match="no scored or rejected scan: there is nothing to verify"):
        verify(process, fetch_info(process, run_id))
