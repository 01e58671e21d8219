"""The worklist page over a test database, runs for it to show, and what its rows say."""

import hashlib
import html
import re
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select
from starlette.testclient import TestClient

from db.engine import reading, write
from db.job_results import store_results
from db.runs import NewModel, NewScan, close_finished_runs
from db.tables import scans
from db.tallies import ScanOutcome
from db.types import ScanStatus
from nightread.model.bundle import SHIPPED_DIR, load_bundle
from nightread.settings import Settings
from tests.db_factories import add_run, claim, job_ids, new_prediction, new_scans, open_scans, scored, sha256_of
from web.app import make_app

#: Where a request of this host comes from.
LOCAL = ("127.0.0.1", 50000)


@contextmanager
def open_page(database_url, *, client=LOCAL, **settings):
    settings = Settings(**{"database_url": database_url, "web_cache_bytes": 0, **settings})
    with TestClient(make_app(settings), base_url="http://localhost", client=client) as opened:
        yield opened


def add_night(engine, scores, *, found=None, decide=lambda score: "pneumonia" if score >= 0.5 else "normal", **fields):
    """Insert a run of one job and end its scans.

    `scores` has one entry per scan: a score, scores by label, a status for a scan without a score, or None to leave it
    queued.
    """
    run_id = add_run(engine, found or new_scans(len(scores)), job_size=len(scores), **fields)
    (job_id,) = job_ids(engine, run_id)
    claimed = claim(engine, job_id)
    outcomes, predictions = [], []
    model = fields.get("model")
    of_model = {} if model is None else {"model_digest": model.digest, "preprocessing": model.preprocessing}
    for scan, score in zip(open_scans(engine, job_id), scores, strict=True):
        file = Path(scan.path)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else sha256_of(scan.id)
        if isinstance(score, ScanStatus):
            outcomes.append(ScanOutcome(scan.id, score, sha256, reason_code="damaged", reason_text="cut <short>"))
        elif score is not None:
            by_label = score if isinstance(score, dict) else {"pneumonia": score}
            study = f"1.2.{scan.id}"
            outcomes.append(scored(scan, sha256=sha256, study_uid=study, acquired_at="2026-11-28 23:15:02.000000"))
            predictions += [
                new_prediction(sha256=sha256, label=label, score=value, decision=decide(value), **of_model)
                for label, value in by_label.items()
            ]
    retry_in_s = 0.0 if None in scores else None
    write(engine, lambda connection: store_results(connection, claimed, outcomes, predictions, retry_in_s=retry_in_s))
    write(engine, close_finished_runs)
    return run_id


def shipped_model(reference="pneumonia-lite0/5"):
    """Return a bundle that ships, as a run names its model."""
    card = load_bundle(SHIPPED_DIR / reference).card
    return NewModel(card.digest, card.name, card.version, card.preprocessing_version, card.model_dump(mode="json"))


def list_files(folder):
    """Return the files of a folder as a run lists them."""
    return [NewScan(str(file), file.stat().st_size) for file in sorted(folder.iterdir())]


def ids_of(engine, run_id):
    """Return the ids of a run's scans, in the order they were found."""
    with reading(engine) as connection:
        query = select(scans.c.id).where(scans.c.run_id == run_id).order_by(scans.c.id)
        return list(connection.execute(query).scalars())


def read_rows(text):
    """Return the rows of a worklist as (path, label, score), in the order of the page."""
    body = text.partition('aria-label="Worklist">\n<thead')[2].partition("</table>")[0]
    rows = []
    for row in body.split('<tr role="row" data-row=')[1:]:
        path = html.unescape(re.search(r'title="([^"]*)"', row)[1])
        label = re.search(r'data-label="Label">([^<]*)<', row)[1]
        score = re.search(r'data-label="Score">(?:.*?class="number">)?([^<]*)<', row, re.DOTALL)[1]
        rows.append((path, label, score))
    return rows


def find_link(text, rel):
    found = re.search(rf'href="([^"]*)" rel="{rel}"', text)
    return html.unescape(found[1]) if found else None


def follow(client, address, rel="next"):
    """Return the rows of all pages from an address on, and the addresses of these pages."""
    rows, addresses = [], []
    while address:
        response = client.get(address)
        assert response.status_code == 200
        rows += read_rows(response.text)
        addresses.append(address)
        address = find_link(response.text, rel)
    return rows, addresses
