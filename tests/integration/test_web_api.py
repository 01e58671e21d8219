"""The HTTP API: tokens and roles, pages that give each row once, formats, requests for runs, and any value at all."""

import csv
import io
import json
import os

import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from sqlalchemy import String, cast, select, update

from db.engine import reading
from db.studies import list_study_uids, roll_up
from db.tables import scans
from db.types import ScanStatus
from db.views import studies
from nightread.settings import Settings
from tests.db_factories import add_run
from tests.factories import small_chest, write_jpeg
from tests.web_page import add_night, open_page, shipped_model
from web.api import OPERATIONS, PREFIX
from web.app import make_app

VIEWER, OPERATOR = "v" * 40, "o" * 40
#: Of each request that Schemathesis makes up.
HEADERS = {"Authorization": f"Bearer {OPERATOR}"}
USERS = f"ada view {VIEWER}\ngrace operate {OPERATOR}"
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
#: Requests of each operation; NIGHTREAD_TEST_EXAMPLES=200 asks longer.
EXAMPLES = int(os.environ.get("NIGHTREAD_TEST_EXAMPLES", "6"))
SCORES = [0.9, 0.2, 0.7, 0.1, 0.5, ScanStatus.REJECTED]


def url_of(engine):
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture
def night(engine):
    return add_night(engine, SCORES, model=shipped_model())


@pytest.fixture
def api(engine, night):
    with open_page(url_of(engine), web_users=USERS) as client:

        def call(address, token=OPERATOR, method="GET", **options):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return client.request(method, f"{PREFIX}{address}", headers=headers, **options)

        yield call


def post(api, address, body=None, **options):
    return api(address, method="POST", json=body if body is not None else {}, **options)


@pytest.mark.parametrize("token", [None, "", "x" * 40, VIEWER[:-1]])
def test_a_program_without_a_known_token_gets_nothing(api, token):
    answer = api("/runs", token)
    assert answer.status_code == 401
    assert "error" in answer.json()
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_viewer_reads_and_changes_nothing(api, night):
    assert api("/runs", VIEWER).status_code == 200
    for address in ("/runs", f"/runs/{night}/retry", f"/runs/{night}/cancel"):
        assert post(api, address, {"paths": ["/"]}, token=VIEWER).status_code == 403


def test_a_form_of_another_site_is_no_request_of_a_program(engine, night):
    """Without users, everybody on this host operates: what a browser may send from elsewhere must not count."""
    with open_page(url_of(engine), web_role="operate") as client:
        address = f"{PREFIX}/runs/{night}/cancel"
        assert client.post(address, data={"a": "b"}).status_code == 415
        foreign = {"Origin": "https://evil.example"}
        assert client.post(address, json={}, headers=foreign).status_code == 403
        assert client.get(f"{PREFIX}/runs").status_code == 200


@pytest.mark.parametrize("address", ["/runs/{run}/results?limit=2", "/runs/{run}/results?limit=2&order=found"])
def test_pages_give_each_row_once_and_files_the_same_rows(api, night, address):
    address = address.format(run=night)
    rows, page = [], api(address).json()
    while True:
        assert len(page["rows"]) <= 2
        rows += page["rows"]
        if page["next"] is None:
            break
        page = api(f"{address}&after={page['next']}").json()
    assert len(rows) == len({(row["scan_id"], row["label"]) for row in rows}) == len(SCORES)
    lines = [json.loads(line) for line in api(f"/runs/{night}/results.jsonl").text.splitlines()]
    listed = list(csv.DictReader(io.StringIO(api(f"/runs/{night}/results.csv").text)))
    assert sorted(row["path"] for row in rows) == sorted(row["path"] for row in lines)
    assert [row["path"] for row in listed] == [row["path"] for row in lines]
    assert sorted(row["score"] or 0 for row in rows) == sorted(row["score"] or 0 for row in lines)


def test_studies_come_by_uid_page_by_page_and_filtered(api, night, engine):
    listed = [row["study"] for row in api(f"/runs/{night}/results").json()["rows"] if row["study"]]
    found, page = [], api("/studies?limit=2").json()
    while page["next"]:
        found += page["studies"]
        page = api(f"/studies?limit=2&after={page['next']}").json()
    found += page["studies"]
    assert [one["study"] for one in found] == sorted(set(listed))
    for one in found:
        assert one["labels"] == api(f"/studies/{one['study']}").json()["labels"]
    positive = api("/studies?decision=pneumonia&min_score=0.5").json()["studies"]
    assert {one["study"] for one in positive} == {
        one["study"] for one in found if any(label["decision"] == "pneumonia" for label in one["labels"])
    }
    assert api("/studies?model=other@1").json() == {"studies": [], "next": None}


def test_studies_are_rolled_up_as_the_view_does(engine, night):
    add_night(engine, [{"a": 0.25, "b": 0.75}, ScanStatus.REJECTED, ScanStatus.FAILED, 0.9, None], name="other")
    with engine.begin() as connection:  # two scans each of one study
        connection.execute(update(scans).values(study_uid="1.2." + cast(scans.c.id / 2, String)))
    with reading(engine) as connection:
        expected = [dict(row) for row in connection.execute(select(studies)).mappings()]
        rolled = roll_up(connection, list_study_uids(connection, 100))
    names = ("model", "label", "score", "decision", "scored", "rejected", "failed", "time")
    told = [(uid, *(row[name] for name in names)) for uid, rows in rolled.items() for row in rows]
    assert sorted(told, key=repr) == sorted(
        ((row["study"], *(row[name] for name in names)) for row in expected), key=repr
    )
    assert len(told) > 5


@pytest.mark.parametrize(("suffix", "read"), [("parquet", pd.read_parquet), ("xlsx", pd.read_excel)])
def test_binary_files_hold_the_rows_of_the_csv(api, night, suffix, read):
    answer = api(f"/runs/{night}/results.{suffix}?status=scored")
    assert answer.headers["content-disposition"] == f'attachment; filename="nightread-{night[:8]}.{suffix}"'
    rows = read(io.BytesIO(answer.content))
    listed = list(csv.DictReader(io.StringIO(api(f"/runs/{night}/results.csv?status=scored").text)))
    assert rows["path"].tolist() == [row["path"] for row in listed]
    assert rows["score"].tolist() == [float(row["score"]) for row in listed]


def test_a_sheet_that_cannot_be_written_is_told(api, night, monkeypatch):
    monkeypatch.setattr("db.result_files._SHEET_ROWS", 3)
    answer = api(f"/runs/{night}/results.xlsx")
    assert answer.status_code == 409
    assert "parquet" in answer.json()["error"]


def test_studies_lead_to_another_viewer(engine, night):
    viewer = "https://ohif.example/viewer?StudyInstanceUIDs={study}"
    with open_page(url_of(engine), web_viewer=viewer) as client:
        study = client.get(f"{PREFIX}/studies").json()["studies"][0]
        assert study["viewer"] == viewer.replace("{study}", study["study"])
        assert client.get(f"{PREFIX}/studies/{study['study']}").json()["viewer"] == study["viewer"]


def test_runs_studies_models_and_changes_tell_the_same(api, night):
    run = api("/runs").json()["runs"][0]
    assert run == api(f"/runs/{night[:8]}").json()
    assert (run["id"], run["counts"]["scored"], run["counts"]["rejected"]) == (night, 5, 1)
    changes = api("/changes?cursor=start").json()
    assert len(changes["rows"]) == len(SCORES)
    assert api(f"/changes?cursor={changes['cursor']}").json()["rows"] == []
    row = next(row for row in changes["rows"] if row["study"])
    study = api(f"/studies/{row['study']}").json()
    assert [one["score"] for one in study["labels"]] == [row["score"]]
    assert [one["scan_id"] for one in study["rows"]] == [row["scan_id"]]
    (model,) = [one for one in api("/models").json()["models"] if one["model"] == run["model"]]
    name, _, version = model["model"].partition("@")
    assert api(f"/models/{name}/{version}").json()["card"]["labels"] == model["labels"]


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("/runs/none", 404), ("/studies/1.2.none", 404), ("/models/none/1", 404), ("/none", 404),
        ("/runs?limit=0", 400), ("/runs?limit=many", 400), ("/runs?unknown=1", 400), ("/runs?after=x", 400),
        ("/changes?cursor=x", 400), ("/runs?status=asleep", 400),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_json(api, address, code):
    answer = api(address)
    assert (answer.status_code, list(answer.json())) == (code, ["error"])


def test_a_run_is_enqueued_once_for_a_key_cancelled_and_retried(engine, redis_url, tmp_path):
    roots = tmp_path / "scans"
    write_jpeg(roots / "1.jpg", small_chest())
    options = {"web_users": USERS, "broker_url": redis_url, "scan_roots": (roots,)}
    with open_page(url_of(engine), **options) as client:
        headers = {"Authorization": f"Bearer {OPERATOR}"}

        def ask(address, body):
            return client.post(f"{PREFIX}{address}", json=body, headers=headers)

        made = ask("/runs", {"paths": [str(roots)], "key": "night", "priority": "urgent"})
        assert (made.status_code, made.json()["found"]) == (201, 1)
        run_id = made.json()["run"]
        assert ask("/runs", {"paths": [str(roots)], "key": "night"}).json() | {"skipped": {}} == {
            "run": run_id, "found": 1, "skipped": {}, "existed": True,
        }  # fmt: skip
        assert ask(f"/runs/{run_id}/cancel", {}).json() == {"run": run_id, "scans": 1}
        assert ask(f"/runs/{run_id}/cancel", {}).status_code == 409
        assert ask(f"/runs/{run_id}/retry", {}).json() == {"run": run_id, "scans": 1}
        assert ask("/runs", {"paths": ["/etc"]}).status_code == 400
        assert ask("/runs", {"paths": []}).status_code == 400
        assert (
            client.post(
                f"{PREFIX}/runs", content=b"{", headers=headers | {"Content-Type": "application/json"}
            ).status_code
            == 400
        )
        actions = client.get(f"{PREFIX}/runs", headers=headers).json()
        assert actions["runs"][0]["priority"] == "urgent"


def test_without_roots_nothing_is_enqueued(api, tmp_path):
    answer = post(api, "/runs", {"paths": [str(tmp_path)]})
    assert answer.status_code == 409
    assert "NIGHTREAD_SCAN_ROOTS" in answer.json()["error"]


@pytest.fixture
def document(sqlite_engine):
    add_night(sqlite_engine, SCORES, model=shipped_model())
    add_run(sqlite_engine, 2)
    address = "http://testserver"  # as Schemathesis calls it
    given = {"database_url": url_of(sqlite_engine), "web_users": USERS, "web_address": address, "web_cache_bytes": 0}
    app = make_app(Settings(**given))
    return schemathesis.openapi.from_asgi(f"{PREFIX}/openapi.json", app, headers=HEADERS)


def test_no_value_is_a_server_error_and_each_answer_is_as_described(document):
    called = set()
    for result in document.get_all_operations():
        operation = result.ok()
        called.add(operation.label)

        @given(case=operation.as_strategy())
        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def call(case):
            case.call_and_validate(headers=HEADERS, checks=CHECKS)

        call()
    assert len(called) == len(OPERATIONS)
