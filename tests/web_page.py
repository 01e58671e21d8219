"""The worklist page over a test database, and runs for it to show."""

from contextlib import contextmanager

from starlette.testclient import TestClient

from db.engine import write
from db.job_results import store_results
from db.runs import close_finished_runs
from db.tallies import ScanOutcome
from db.types import ScanStatus
from nightread.settings import Settings
from tests.db_factories import add_run, claim, job_ids, new_prediction, new_scans, open_scans, scored
from web.app import make_app


@contextmanager
def open_page(database_url):
    with TestClient(make_app(Settings(database_url=database_url)), base_url="http://localhost") as client:
        yield client


def add_night(engine, scores, *, found=None, decide=lambda score: "pneumonia" if score >= 0.5 else "normal", **fields):
    """Insert a run of one job and end its scans.

    `scores` has one entry per scan: a score, scores by label, a status for a scan without a score, or None to leave it
    queued.
    """
    run_id = add_run(engine, found or new_scans(len(scores)), job_size=len(scores), **fields)
    (job_id,) = job_ids(engine, run_id)
    claimed = claim(engine, job_id)
    outcomes, predictions = [], []
    for scan, score in zip(open_scans(engine, job_id), scores, strict=True):
        if isinstance(score, ScanStatus):
            outcomes.append(ScanOutcome(scan.id, score, reason_code="damaged", reason_text="cut <short>"))
        elif score is not None:
            by_label = score if isinstance(score, dict) else {"pneumonia": score}
            outcomes.append(scored(scan, study_uid=f"1.2.{scan.id}", acquired_at="2026-11-28 23:15:02.000000"))
            predictions += [
                new_prediction(scan.id, label=label, score=value, decision=decide(value))
                for label, value in by_label.items()
            ]
    retry_in_s = 0.0 if None in scores else None
    write(engine, lambda connection: store_results(connection, claimed, outcomes, predictions, retry_in_s=retry_in_s))
    write(engine, close_finished_runs)
    return run_id
