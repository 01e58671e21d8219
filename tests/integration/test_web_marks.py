"""Marks on the page: stored, shown, undone, counted, exported, and never more than a mark. Retry and cancel by role."""

import csv
import re

import pytest
from sqlalchemy import select, update

from cli.commands.marks import export
from db.engine import reading, write
from db.marks import count_agreement, list_labels
from db.page_tables import marks, page_actions
from db.retention import find_cutoff, prune
from db.runs import NewScan
from db.tables import jobs, predictions, runs
from db.types import JobStatus, RunStatus, ScanStatus
from nightread.model.bundle import SHIPPED_DIR, load_bundle
from tests.db_factories import new_model
from tests.web_page import add_night, ids_of, open_page
from trainer.evaluation.site_scores import list_site

CARD = {"labels": ["pneumonia"], "negative_decision": "normal"}
ORIGIN = {"Origin": "http://localhost"}


def decide(score):
    return "pneumonia" if score > 0.7 else "uncertain" if score > 0.3 else "normal"


@pytest.fixture
def run_id(engine):
    return add_night(engine, [0.9, 0.8, 0.5, 0.1, ScanStatus.FAILED, None], model=new_model(card=CARD), decide=decide)


@pytest.fixture
def ids(engine, run_id):
    return ids_of(engine, run_id)


def send(client, path, **fields):
    form_token = re.search(r'name="form_token" value="([^"]+)"', client.get("/login").text)[1]
    return client.post(path, data={"form_token": form_token, **fields}, headers=ORIGIN, follow_redirects=False)


def mark(client, scan_id, kind, **fields):
    return send(client, f"/scans/{scan_id}/marks", kind=kind, **fields)


def fetch(engine, table):
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def read_reviews(text):
    return [
        re.sub(r"<[^>]*>|\s+", " ", cell).split() for cell in re.findall(r"data-review>(.*?)</td>", text, re.DOTALL)
    ]


class TestMark:
    def test_is_stored_with_user_time_model_and_content_and_changes_no_prediction(self, engine, client, ids, run_id):
        before = fetch(engine, predictions)
        assert mark(client, ids[0], "disagree", label="normal").status_code == 303
        (stored,) = fetch(engine, marks)
        assert stored["user_name"] == client.app.state.access.local.name
        assert (stored["run_id"], stored["scan_id"], stored["model_digest"]) == (run_id, ids[0], "d" * 64)
        assert (stored["kind"].value, stored["label"], stored["undone_at"]) == ("disagree", "normal", None)
        assert stored["sha256"] is not None
        assert fetch(engine, predictions) == before
        (action,) = fetch(engine, page_actions)
        assert (action["action"], action["scan_id"], action["detail"]) == ("mark", ids[0], "disagree: normal")

    def test_leads_to_the_next_scan_that_nobody_reviewed_in_the_order_of_the_filter(self, client, ids, run_id):
        assert mark(client, ids[0], "agree", then="next").headers["Location"] == f"/scans/{ids[1]}"
        mark(client, ids[2], "seen")
        assert mark(client, ids[1], "agree", then="next").headers["Location"] == f"/scans/{ids[3]}"
        answer = mark(client, ids[3], "agree", then="next", query="?decision=normal")
        assert answer.headers["Location"] == f"/runs/{run_id}?decision=normal"  # none is left
        assert mark(client, ids[3], "agree", then="stay").headers["Location"] == f"/scans/{ids[3]}"

    def test_next_goes_on_at_the_top(self, client, ids, run_id):
        for order, expected in (("lowest", [ids[2], ids[1], ids[0]]), ("found", [ids[4], ids[5], ids[0]])):
            at, seen = ids[3], []
            for _ in expected:
                where = client.get(f"/runs/{run_id}/next?order={order}&scan={at}", follow_redirects=False).headers[
                    "Location"
                ]
                at = int(re.search(r"/scans/(\d+)", where)[1])
                seen.append(at)
            assert seen == expected

    def test_random_one_is_unreviewed(self, client, ids, run_id):
        for scan_id in ids[1:5]:
            mark(client, scan_id, "seen")
        found = {
            client.get(f"/runs/{run_id}/next?pick=random&status=scored", follow_redirects=False).headers["Location"]
            for _ in range(5)
        }
        assert found == {f"/scans/{ids[0]}?status=scored"}

    def test_is_shown_with_counts_and_filters(self, client, ids, run_id):
        mark(client, ids[0], "agree")
        mark(client, ids[1], "disagree", label="normal")
        mark(client, ids[1], "note", note="<b>rib</b>")
        text = client.get(f"/runs/{run_id}").text
        assert read_reviews(text)[:3] == [["✓", "agree"], ["✗", "disagree:", "normal"], []]
        for name, count in (("unreviewed", 3), ("reviewed", 2), ("agree", 1), ("disagree", 1)):
            assert re.search(rf'review={name}"><span>{name}</span> <span class="number">{count}<', text), name
        for review, shown in (("agree", [0]), ("disagree", [1]), ("reviewed", [0, 1]), ("unreviewed", [2, 3, 4, 5])):
            page = client.get(f"/runs/{run_id}?review={review}").text
            assert [int(found) for found in re.findall(r'data-row="(\d+)"', page)] == [ids[place] for place in shown]
            assert f"{len(shown)} rows</span>" in page
        page = client.get(f"/scans/{ids[1]}").text
        assert "“&lt;b&gt;rib&lt;/b&gt;”" in page

    def test_undo_takes_back_the_newest_of_the_same_user(self, engine, client, ids, run_id):
        mark(client, ids[0], "agree")
        mark(client, ids[1], "agree")
        for scan_id in (ids[1], ids[0]):
            assert send(client, f"/runs/{run_id}/undo").headers["Location"] == f"/scans/{scan_id}"
        assert send(client, f"/runs/{run_id}/undo").status_code == 400
        assert read_reviews(client.get(f"/runs/{run_id}").text)[0] == []
        assert all(stored["undone_at"] for stored in fetch(engine, marks))  # kept, as the audit is
        assert [row["action"] for row in fetch(engine, page_actions)] == ["mark", "mark", "undo", "undo"]

    @pytest.mark.parametrize(
        ("place", "fields"),
        [
            (0, {"kind": "hate"}), (0, {}), (0, {"kind": "disagree"}), (0, {"kind": "disagree", "label": "pneumonia"}),
            (0, {"kind": "disagree", "label": "<script>"}), (0, {"kind": "note", "note": " "}),
            (0, {"kind": "note", "note": "x" * 1001}), (4, {"kind": "agree"}), (5, {"kind": "seen"}),
        ],
    )  # fmt: skip
    def test_that_says_nothing_is_refused(self, engine, client, ids, place, fields):
        assert send(client, f"/scans/{ids[place]}/marks", **fields).status_code == 400
        assert fetch(engine, marks) == []

    def test_of_no_scan_is_refused(self, client, ids):
        for scan_id in ("0", "999999", "x"):
            assert mark(client, scan_id, "seen").status_code == 404

    def test_needs_its_role(self, engine, ids, run_id):
        with open_page(engine.url.render_as_string(hide_password=False), web_role="view") as client:
            assert mark(client, ids[0], "seen").status_code == 403
            assert send(client, f"/runs/{run_id}/undo").status_code == 403
            for page in (f"/runs/{run_id}", f"/scans/{ids[0]}"):
                assert '<form method="post"' not in client.get(page).text
        assert fetch(engine, marks) == []


class TestLabels:
    def test_are_what_users_say_is_right(self, engine, client, ids, run_id):
        mark(client, ids[0], "agree")  # pneumonia
        mark(client, ids[1], "disagree", label="normal")
        mark(client, ids[2], "agree")  # with uncertain: no label
        mark(client, ids[3], "disagree", label="pneumonia")
        mark(client, ids[3], "agree")  # the newest counts
        mark(client, ids[3], "note", note="a note is no verdict")
        with reading(engine) as connection:
            labels = list_labels(connection, run_id)
            assert list_labels(connection) == labels
            assert count_agreement(connection) == {"d" * 64: {"agree": 3, "disagree": 1}}
        assert [(path[-6:], found) for path, found in labels] == [
            ("00.png", ["pneumonia"]), ("01.png", ["normal"]), ("03.png", ["normal"]),
        ]  # fmt: skip

    def test_of_users_who_contradict_each_other_are_several(self, engine, ids, run_id):
        users = f"ana mark {'a' * 64}\nben mark {'b' * 64}"
        for token, fields in (("a" * 64, {"kind": "agree"}), ("b" * 64, {"kind": "disagree", "label": "normal"})):
            with open_page(engine.url.render_as_string(hide_password=False), web_users=users) as client:
                send(client, "/login", token=token)
                assert send(client, f"/scans/{ids[0]}/marks", **fields).status_code == 303
                # Each undoes their own marks alone.
        with reading(engine) as connection:
            assert [labels for _, labels in list_labels(connection, run_id)] == [["normal", "pneumonia"]]


class TestOperation:
    @pytest.fixture
    def operator(self, engine):
        settings = {"web_role": "operate", "broker_url": "redis://127.0.0.1:1/0"}  # nobody answers there
        with open_page(engine.url.render_as_string(hide_password=False), **settings) as client:
            yield client

    def test_cancel_ends_a_run_and_retry_queues_its_failed_scans(self, engine, operator, run_id, ids):
        assert "Cancel run" in operator.get(f"/runs/{run_id}").text
        assert send(operator, f"/runs/{run_id}/cancel").status_code == 303
        assert [run["status"] for run in fetch(engine, runs)] == [RunStatus.CANCELLED]
        assert send(operator, f"/runs/{run_id}/cancel").status_code == 400
        assert "Retry 2 failed" in operator.get(f"/runs/{run_id}").text
        assert (
            send(operator, f"/runs/{run_id}/retry").status_code == 303
        )  # the broker is away: the next sweep publishes
        assert [run["status"] for run in fetch(engine, runs)] == [RunStatus.QUEUED]
        assert [job["status"] for job in fetch(engine, jobs)].count(JobStatus.QUEUED) >= 1
        assert [row["action"] for row in fetch(engine, page_actions)] == ["cancel", "retry"]

    def test_retry_of_a_run_of_score_is_told_where(self, engine, operator):
        run_id = add_night(engine, [ScanStatus.FAILED], name="here")
        write(engine, lambda connection: connection.execute(update(runs).values(embedded=True)))
        assert "Retry 1 failed" not in operator.get(f"/runs/{run_id}").text
        answer = send(operator, f"/runs/{run_id}/retry")
        assert (answer.status_code, f"nightread retry {run_id[:8]}" in answer.text) == (400, True)

    def test_needs_its_role(self, engine, client, run_id):
        for action in ("retry", "cancel"):
            assert send(client, f"/runs/{run_id}/{action}").status_code == 403
        assert "Cancel run" not in client.get(f"/runs/{run_id}").text
        assert fetch(engine, page_actions) == []


def test_marks_go_with_their_run_and_the_audit_stays(engine, client):
    run_id = add_night(engine, [0.5])
    assert mark(client, ids_of(engine, run_id)[0], "seen").status_code == 303
    with reading(engine) as connection:
        cutoff = find_cutoff(connection, -1)
    assert prune(engine, cutoff, keep_positives=False).runs == 1
    assert fetch(engine, marks) == []
    assert len(fetch(engine, page_actions)) == 1


def test_export_writes_what_calibrate_reads(engine, client, tmp_path, monkeypatch, capsysbinary):
    found = [NewScan(str(tmp_path / name).encode().decode(), 1) for name in ("a.png", "b,c.png", "night.zip!d.png")]
    run_id = add_night(engine, [0.9, 0.8, 0.1], found=found, model=new_model(card=CARD), decide=decide)
    for scan_id in ids_of(engine, run_id):
        mark(client, scan_id, "agree")
    monkeypatch.setenv("NIGHTREAD_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    export(run_id, all_runs=False, out=tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = [(row["path"], row["label"]) for row in csv.DictReader(file)]
    assert rows == [(str(tmp_path / name), "pneumonia") for name in ("a.png", "b,c.png")]
    listed = list_site(tmp_path / "labels.csv", load_bundle(SHIPPED_DIR / "pneumonia-lite0/5").card)
    assert [(str(scan.path), scan.label) for scan in listed] == rows
    assert b"2 labels; 1 scans in archives left out." in capsysbinary.readouterr().err
