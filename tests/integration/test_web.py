"""The worklist page on both databases."""

import csv
import html
import io
import re
from datetime import timedelta

import anyio
import pytest
from sqlalchemy import delete, select, update
from starlette.requests import ClientDisconnect

from cli.output.result_rows import write_rows
from db.engine import reading, write
from db.job_results import store_results
from db.jobs import claim_job
from db.results import COLUMNS, ResultFilter
from db.runs import NewScan
from db.tables import runs, tallies
from db.types import ScanStatus
from tests.db_factories import (
    add_run,
    job_ids,
    new_model,
    new_prediction,
    open_scans,
    scored,
)
from tests.web_page import add_night, find_link, follow, read_rows
from web import pages

HOSTILE = [
    "/scans/<script>alert(1)</script>.png",
    '/scans/" onmouseover="alert(1).png',
    "/scans/line\nbreak.png",
    "/scans/\u202egpj.png",
    "/scans/שלום/עולם.png",
    "/scans/{{ 7 * 7 }}.png",
    "/scans/&amp;.png",
]


def read_place(text):
    return re.search(r"<strong>(\d+).(\d+)</strong> of (\d+) rows", text).groups()


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


class TestRuns:
    def test_an_empty_database_says_how_to_begin(self, client):
        response = client.get("/")
        assert response.status_code == 200
        assert "No runs yet" in response.text

    def test_runs_come_newest_first_with_their_counts(self, engine, client):
        older = add_night(engine, [0.5, ScanStatus.REJECTED], name="older")
        newer = add_night(engine, [None], name="newer")
        text = client.get("/").text
        assert re.findall(r"/runs/([0-9a-f]{32})", text) == [newer, older]
        row = text.partition(older)[2].partition("</tr>")[0]
        assert re.findall(r'class="number">(\d+)<', row) == ["2", "1", "1", "0", "0"]
        assert "finished" in row
        assert "cnn@1" in row

    def test_pages_of_runs_show_every_run_once_even_of_the_same_moment(self, engine, client, monkeypatch):
        monkeypatch.setattr(pages, "RUNS_PER_PAGE", 2)
        made = [add_run(engine, 1) for _ in range(5)]
        with reading(engine) as connection:
            moment = connection.execute(select(runs.c.created_at).limit(1)).scalar_one()
        write(engine, lambda connection: connection.execute(
            update(runs).where(runs.c.id.in_(made[1:4])).values(created_at=moment - timedelta(hours=1))
        ))  # fmt: skip
        seen, address = [], "/"
        while address:
            text = client.get(address).text
            seen += re.findall(r"/runs/([0-9a-f]{32})", text)
            following = re.search(r'href="([^"]*)" rel="next"', text)
            address = following and following[1]
        assert len(seen) == 5
        assert sorted(seen) == sorted(made)

    def test_a_name_is_escaped(self, engine, client):
        run_id = add_run(engine, 1, name="<b>\u202e\n")
        for address in ("/", f"/runs/{run_id}"):
            text = client.get(address).text
            assert r"&lt;b&gt;\u202e\n" in text
            assert "<b>" not in text


class TestWorklist:
    def test_scans_come_by_score_and_those_without_one_last(self, engine, client):
        run_id = add_night(engine, [0.25, 0.75, ScanStatus.FAILED, 1.0, None, 0.0])
        rows = read_rows(client.get(f"/runs/{run_id}").text)
        assert [path[-6:] for path, _, _ in rows] == ["03.png", "01.png", "00.png", "05.png", "02.png", "04.png"]
        assert [score for _, _, score in rows] == ["1.0000", "0.7500", "0.2500", "0.0000", "", ""]

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
    def test_pages_show_every_row_once_with_equal_scores_and_without(self, engine, client, monkeypatch, size):
        monkeypatch.setattr(pages, "ROWS_PER_PAGE", size)
        both = {"effusion": 0.5, "pneumonia": 0.5}
        third = 1 / 3
        scores = [0.5, both, 0.5, None, third, third, both, 0.1 + 0.2, 0.3, ScanStatus.REJECTED, ScanStatus.FAILED, 0.5]
        run_id = add_night(engine, scores)
        add_night(engine, [0.4], name="another", found=[NewScan("/other/1.png", 1)])
        rows, addresses = follow(client, f"/runs/{run_id}")
        assert len(rows) == len(set(rows)) == 14
        assert len(addresses) == -(-14 // size)
        assert rows == read_all_at_once(client, monkeypatch, run_id)

    def test_rows_that_stay_come_once_while_others_are_scored(self, engine, client, monkeypatch):
        monkeypatch.setattr(pages, "ROWS_PER_PAGE", 2)
        run_id = add_night(engine, [0.9, 0.8, 0.7, 0.6, None])
        first = client.get(f"/runs/{run_id}").text
        (job_id,) = job_ids(engine, run_id)
        claimed = write(engine, lambda connection: claim_job(connection, job_id, "worker-2", 60, embedded=False))
        (scan,) = open_scans(engine, job_id)
        write(engine, lambda connection: store_results(
            connection, claimed, [scored(scan)], [new_prediction(scan.id, score=0.95)]
        ))  # fmt: skip
        following = html.unescape(re.search(r'href="([^"]*)" rel="next"', first)[1])
        rows = read_rows(first) + follow(client, following)[0]
        assert [score for _, _, score in rows] == ["0.9000", "0.8000", "0.7000", "0.6000"]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("status=scored", {"00", "01", "02"}),
            ("status=rejected", {"03"}),
            ("status=failed", {"04"}),
            ("status=queued", {"05"}),
            ("decision=pneumonia", {"01", "02"}),
            ("label=effusion", {"02"}),
            ("min_score=0.75", {"01", "02"}),
            ("min_score=0.75&label=pneumonia", {"01"}),
            ("status=rejected&min_score=0.1", set()),
            ("label=nothing", set()),
            ("status=&decision=&label=&min_score=&text=&order=", {"00", "01", "02", "03", "04", "05"}),
        ],
    )
    def test_filters_leave_out_the_rest_on_the_page_and_in_the_csv(self, engine, client, query, expected):
        scores = [0.25, 0.75, {"effusion": 0.8, "pneumonia": 0.1}, ScanStatus.REJECTED, ScanStatus.FAILED, None]
        run_id = add_night(engine, scores)
        rows = read_rows(client.get(f"/runs/{run_id}?{query}").text)
        assert {path[-6:-4] for path, _, _ in rows} == expected
        lines = read_csv(client.get(f"/runs/{run_id}/results.csv?{query}").text)
        assert [(line["path"], line["label"]) for line in lines] == [(path, label) for path, label, _ in rows]

    def test_a_filter_stays_through_pages_and_in_the_link_to_the_csv(self, engine, client, monkeypatch):
        monkeypatch.setattr(pages, "ROWS_PER_PAGE", 2)
        run_id = add_night(engine, [0.9, 0.1, 0.8, 0.2, 0.7])
        text = client.get(f"/runs/{run_id}?decision=pneumonia&min_score=0.5").text
        assert f'href="/runs/{run_id}?min_score=0.5" aria-current="true"' in text
        assert f'href="/runs/{run_id}/results.csv?decision=pneumonia&amp;min_score=0.5"' in text
        rows, addresses = follow(client, f"/runs/{run_id}?decision=pneumonia&min_score=0.5")
        assert ([score for _, _, score in rows], len(addresses)) == (["0.9000", "0.8000", "0.7000"], 2)

    @pytest.mark.parametrize(
        "query", ["status=lost", "min_score=x", "label=%00", "after=x", "decision=" + "x" * 65, "order=x"]
    )
    def test_a_wrong_filter_is_told(self, engine, client, query):
        run_id = add_night(engine, [0.5])
        for address in (f"/runs/{run_id}?{query}", f"/runs/{run_id}/results.csv?{query}"):
            if not (address.endswith("after=x") and "csv" in address):
                assert client.get(address).status_code == 400, address

    def test_the_sum_and_the_reasons_are_told(self, engine, client):
        run_id = add_night(engine, [0.5, 0.1, ScanStatus.REJECTED, ScanStatus.FAILED], skipped={"hidden": 2})
        text = client.get(f"/runs/{run_id}").text
        assert "4 found = 2 scored + 1 rejected + 1 failed; 2 hidden skipped" in text
        for query in ("status=rejected", "decision=normal", "reason=damaged"):
            assert f'href="/runs/{run_id}?{query}"' in text
        assert text.count("</code> cut &lt;short&gt;") == 2

    def test_a_run_that_goes_on_says_so(self, engine, client):
        run_id = add_night(engine, [0.5, None, None])
        text = client.get(f"/runs/{run_id}").text
        assert "3 found = 1 scored + 0 rejected + 0 failed + 2 still to be scored" in text
        assert "in progress" in text
        assert "in progress" not in client.get(f"/runs/{add_night(engine, [0.5], name='done')}").text

    def test_a_run_without_scans_has_no_rows(self, engine, client):
        text = client.get(f"/runs/{add_run(engine, 0)}").text
        assert "No rows." in text
        assert "0 found = 0 scored" in text

    def test_a_run_goes_by_its_id_a_beginning_of_it_or_its_name(self, engine, client):
        run_id = add_night(engine, [0.5], name="ward a")
        for reference in (run_id, run_id[:8], "ward%20a"):
            assert len(read_rows(client.get(f"/runs/{reference}").text)) == 1

    def test_the_card_says_what_scores_are(self, engine, client):
        card = {"labels": ["pneumonia", "<i>"], "calibration": "by <Platt>", "intended_use": "research"}
        text = client.get(f"/runs/{add_run(engine, 1, model=new_model(card=card))}").text
        assert "by &lt;Platt&gt;" in text
        assert "&lt;i&gt;" in text
        assert "<i>" not in text
        assert "Not a medical device" in text

    def test_a_card_of_another_release_does_no_harm(self, engine, client):
        text = client.get(f"/runs/{add_run(engine, 1, model=new_model(card={'labels': 'pneumonia'}))}").text
        assert "so a score is not a probability" in text


ORDERS = ("highest", "lowest", "found")
#: Each query shows some rows of the run below, in each order.
QUERIES = (
    "",
    "label=pneumonia",
    "decision=normal",
    "min_score=0.3",
    "status=scored",
    "status=failed",
    "text=0000",
    "reason=damaged",
)


class TestOrder:
    @pytest.fixture(params=[True, False], ids=["kept", "counted"])
    def run_id(self, request, engine):
        both = {"effusion": 0.5, "pneumonia": 0.5}
        scores = [0.5, both, None, 1 / 3, 0.25, ScanStatus.REJECTED, both, 0.9, ScanStatus.FAILED, 0.25]
        run_id = add_night(engine, scores)
        if not request.param:
            write(engine, lambda connection: connection.execute(delete(tallies).where(tallies.c.run_id == run_id)))
        return run_id

    @pytest.mark.parametrize("order", ORDERS)
    def test_of_pages_is_that_of_the_whole_both_ways(self, client, monkeypatch, run_id, order):
        for query in QUERIES:
            address = f"/runs/{run_id}?order={order}&{query}"
            whole = read_rows(client.get(address).text)
            assert len(whole) == len(set(whole)) > 0, query
            monkeypatch.setattr(pages, "ROWS_PER_PAGE", 3)
            rows, addresses = follow(client, address)
            assert rows == whole, query
            back, _ = follow(client, addresses[-1], "prev")
            assert sorted(set(back)) == sorted(whole), query
            assert len(back) == len(whole), query
            monkeypatch.undo()

    def test_turns_with_the_score_and_leaves_scans_without_one_last(self, client, run_id):
        scores = {
            order: [score for _, _, score in read_rows(client.get(f"/runs/{run_id}?order={order}").text)]
            for order in ORDERS
        }
        assert scores["highest"][:-3] == scores["lowest"][:-3][::-1]
        assert scores["highest"][-3:] == scores["lowest"][-3:] == [""] * 3
        assert sorted(scores["found"]) == sorted(scores["highest"])

    def test_tells_the_place_and_the_total(self, client, monkeypatch, run_id):
        monkeypatch.setattr(pages, "ROWS_PER_PAGE", 5)
        first = client.get(f"/runs/{run_id}").text
        assert read_place(first) == ("1", "5", "12")
        second = client.get(find_link(first, "next")).text
        assert read_place(second) == ("6", "10", "12")
        assert read_place(client.get(find_link(second, "prev")).text) == ("1", "5", "12")
        assert read_place(client.get(find_link(second, "next")).text) == ("11", "12", "12")

    @pytest.mark.parametrize(
        ("query", "total"),
        [
            ("status=failed", 1), ("status=scored", 9), ("decision=pneumonia", 6), ("label=effusion", 2),
            ("label=pneumonia&decision=normal", 3), ("min_score=0.5", 6), ("text=00001", 2), ("reason=damaged", 2),
            ("status=failed&label=pneumonia", 0), ("text=100%25", 0), ("text=_", 0), ("text=1.2.", 9),
        ],
    )  # fmt: skip
    def test_total_counts_the_rows_of_the_filter(self, client, run_id, query, total):
        text = client.get(f"/runs/{run_id}?{query}").text
        assert f"{total} rows</span>" in text
        assert len(read_rows(text)) == total

    def test_search_finds_paths_in_any_case_and_those_with_a_backslash(self, engine, client):
        found = [NewScan(path, 1) for path in ("/scans/Ward-A/1.png", "/scans/ward-b/2.png", r"/scans/c\\d.png")]
        run_id = add_night(engine, [0.1, 0.2, 0.3], found=found, name="wards")
        for text, paths in (("WARD-a", ["/scans/Ward-A/1.png"]), ("c\\d", [r"/scans/c\\d.png"]), ("'", []), ("%", [])):
            response = client.get(f"/runs/{run_id}", params={"text": text})
            assert [path for path, _, _ in read_rows(response.text)] == paths, text


class TestHostilePaths:
    @pytest.fixture
    def run_id(self, engine):
        return add_night(engine, [0.5] * len(HOSTILE), found=[NewScan(path, 1) for path in HOSTILE])

    def test_are_escaped_and_made_visible(self, client, run_id):
        text = client.get(f"/runs/{run_id}").text
        assert "<script>" not in text
        assert ' onmouseover="' not in text
        assert "\u202e" not in text
        assert r"line\nbreak.png" in text
        assert "{{ 7 * 7 }}.png" in text
        assert "&amp;amp;.png" in text
        assert text.count("<script ") == 1
        assert [path for path, _, _ in read_rows(text)] == [
            path.replace("\n", r"\n").replace("\u202e", r"\u202e") for path in HOSTILE
        ]

    def test_stand_in_the_csv_as_they_are(self, client, run_id):
        assert [line["path"] for line in read_csv(client.get(f"/runs/{run_id}/results.csv").text)] == HOSTILE


class TestCsv:
    def test_is_that_of_the_program_in_the_order_of_the_page(self, engine, client, tmp_path):
        run_id = add_night(engine, [1 / 3, 0.9, ScanStatus.FAILED, None])
        response = client.get(f"/runs/{run_id}/results.csv")
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert response.headers["Content-Disposition"] == f'attachment; filename="nightread-{run_id[:8]}.csv"'
        with reading(engine) as connection:
            write_rows(connection, ResultFilter(run_id), "csv", tmp_path / "night.csv")
        lines, written = response.text.splitlines(), (tmp_path / "night.csv").read_text(encoding="utf-8").splitlines()
        assert lines[0] == written[0] == ",".join(COLUMNS)
        assert sorted(lines) == sorted(written)
        assert [line["score"] for line in read_csv(response.text)] == ["0.9", repr(1 / 3), "", ""]

    def test_of_many_rows_is_whole_and_gives_its_connection_back(self, engine, client):
        run_id = add_night(engine, [number / 1200 for number in range(1200)])
        lines = read_csv(client.get(f"/runs/{run_id}/results.csv").text)
        assert len({line["path"] for line in lines}) == len(lines) == 1200
        assert client.app.state.engine.pool.checkedout() == 0

    def test_gives_its_connection_back_when_the_reader_leaves(self, engine, client):
        run_id = add_night(engine, [number / 1200 for number in range(1200)])
        sent = []

        async def send(message):
            sent.append(message)
            if len(sent) == 3:
                raise OSError("the reader has left")

        async def receive():
            await anyio.sleep_forever()

        scope = {
            "type": "http", "method": "GET", "path": f"/runs/{run_id}/results.csv", "query_string": b"",
            "headers": [(b"host", b"localhost")], "http_version": "1.1", "asgi": {"spec_version": "2.4"},
            "root_path": "",
        }  # fmt: skip
        with pytest.raises(ClientDisconnect):
            anyio.run(client.app, scope, receive, send)
        assert [message.get("status") for message in sent] == [200, None, None]
        assert client.app.state.engine.pool.checkedout() == 0

    def test_of_an_unknown_run_is_a_page_that_says_so(self, client):
        assert client.get("/runs/none/results.csv").status_code == 404


def read_all_at_once(client, monkeypatch, run_id):
    monkeypatch.setattr(pages, "ROWS_PER_PAGE", 1000)
    return read_rows(client.get(f"/runs/{run_id}").text)
