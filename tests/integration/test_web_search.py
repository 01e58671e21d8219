"""Searches and facets of a worklist, on both databases."""

import pytest
from sqlalchemy import bindparam, update

from db.marks import NewMark, store_mark
from db.runs import NewScan, find_run
from db.tables import scans
from db.types import MarkKind, ScanStatus
from tests.web_page import add_night, follow, ids_of, read_rows

ORDERS = ["highest", "lowest", "found"]


class TestSearch:
    """Conditions that no index knows: rows are looked through, a bounded number for each page."""

    CONDITIONS = (
        "text=ward-b", "folder=/scans/ward-a", "station=ROOM1", "manufacturer=ACME", "view=PA", "reason=damaged",
        "station=ROOM1&view=PA&decision=pneumonia", "text=ward&order=found&decision=normal", "text=nothing",
        "review=unreviewed&folder=/scans/ward-b", "status=rejected&folder=/scans/ward-b", "station=ROOM1&min_score=0.3",
    )  # fmt: skip

    @pytest.fixture
    def run_id(self, engine):
        found = [NewScan(f"/scans/ward-{'ab'[place % 2]}/{place:02}.png", 1) for place in range(24)]
        rejected = {5: ScanStatus.REJECTED, 11: ScanStatus.FAILED, 17: ScanStatus.REJECTED}
        scores = [rejected.get(place, (place * 7 % 24) / 24) for place in range(24)]
        run_id = add_night(engine, scores, found=found, sources=["/scans"], name="wards")
        told = [
            {
                "scan": scan_id, "view_position": "AP" if place % 5 == 0 else "PA",
                "station": f"ROOM{place % 3}" if place % 4 else None, "manufacturer": "ACME" if place % 2 else "Other",
            }
            for place, scan_id in enumerate(ids_of(engine, run_id))
        ]  # fmt: skip
        with engine.begin() as connection:
            connection.execute(update(scans).where(scans.c.id == bindparam("scan")), told)
        return run_id

    @pytest.mark.parametrize("order", ORDERS)
    def test_finds_each_row_once_however_little_it_looks_through(self, client, monkeypatch, run_id, order):
        for query in self.CONDITIONS:
            address = f"/runs/{run_id}?{query}" + ("" if "order" in query else f"&order={order}")
            whole = read_rows(client.get(address).text)
            monkeypatch.setattr("db.worklist_parts.MOST_SEARCHED", 5)
            monkeypatch.setattr("db.worklist_parts._FIRST_BLOCK", 2)
            rows, addresses = follow(client, address)
            assert rows == whole, query
            back, _ = follow(client, addresses[-1], "prev")
            assert sorted(back) == sorted(whole), query
            monkeypatch.undo()

    def test_says_that_there_is_more_to_look_through(self, client, monkeypatch, run_id):
        monkeypatch.setattr("db.worklist_parts.MOST_SEARCHED", 5)
        monkeypatch.setattr("db.worklist._MOST_COUNTED", 5)
        text = client.get(f"/runs/{run_id}?text=nothing").text
        assert "This search is not over" in text
        assert "Search on" in text
        assert client.get(f"/runs/{run_id}/next?text=nothing", follow_redirects=False).status_code == 303

    def test_facets_count_folders_devices_and_views(self, client, run_id):
        text = client.get(f"/runs/{run_id}").text
        for query, name, count in (
            ("folder=%2Fscans%2Fward-a", "ward-a", 12), ("station=ROOM1", "ROOM1", 6), ("view=AP", "AP", 5),
        ):  # fmt: skip
            assert f'?{query}"><span>{name}</span> <span class="number">{count}</span>' in text
            chosen = client.get(f"/runs/{run_id}?{query}").text
            assert f"{count} rows</span>" in chosen
            assert f'href="/runs/{run_id}" aria-current="true"><span>{name}</span>' in chosen

    def test_facets_of_a_run_that_is_too_large_have_no_counts(self, client, monkeypatch, run_id):
        monkeypatch.setattr("db.facets.MOST_COUNTED", 20)
        assert '?station=ROOM1"><span>ROOM1</span></a>' in client.get(f"/runs/{run_id}").text


class TestReviewed:
    """Rows of the scans that somebody has reviewed: those of the whole worklist, without the others."""

    @pytest.mark.parametrize("order", ORDERS)
    def test_are_the_rows_of_the_worklist_that_have_a_mark(self, engine, client, order):
        scores = [{"a": place / 20, "b": 1 - place / 19} if place % 4 else ScanStatus.REJECTED for place in range(16)]
        found = [NewScan(f"/scans/{place:02}.png", 1) for place in range(16)]
        run_id = add_night(engine, scores, found=found, sources=["/scans"])
        add_night(engine, [0.5, ScanStatus.REJECTED])  # another run
        ids = ids_of(engine, run_id)
        with engine.begin() as connection:
            run = find_run(connection, run_id)
            for place in range(0, 16, 3):
                kind = MarkKind.AGREE if place % 2 else MarkKind.SEEN
                store_mark(connection, run_id, run.model_digest, NewMark(ids[place], "reader", kind))
        for query in ("", "label=a", "decision=normal", "min_score=0.3", "status=rejected", "status=scored", "text=/1"):
            whole = read_rows(client.get(f"/runs/{run_id}?{query}&order={order}").text)
            for review, step in (("reviewed", 3), ("seen", 6)):
                marked = {found[place].path for place in range(0, 16, step)}
                address = f"/runs/{run_id}?{query}&order={order}&review={review}&size=2"
                rows, _ = follow(client, address)
                assert rows or query
                assert rows == [row for row in whole if row[0] in marked], (query, review)
                assert f"{len(rows)} rows</span>" in client.get(address).text or not rows, (query, review)
