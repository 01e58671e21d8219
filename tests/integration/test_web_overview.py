"""Pages about a whole night: failures, models, workers and queue, drift; on both databases."""

import re
from functools import partial

import pytest

from db.engine import write
from db.job_results import store_predictions
from db.jobs import release_job
from db.registry import Request, promote_model, register_model
from db.types import ScanStatus
from nightread.model.bundle import SHIPPED_DIR, load_bundle
from nightread.reasons import MEANINGS, Reason
from tests.db_factories import add_run, claim, job_ids, new_prediction
from tests.web_page import add_night, ids_of, open_page, shipped_model


def url_of(engine):
    return engine.url.render_as_string(hide_password=False)


def read_text(response):
    assert response.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", response.text))


class TestFailures:
    def test_tell_each_reason_with_remedy_and_examples(self, engine, client):
        run_id = add_night(engine, [0.5, *[ScanStatus.REJECTED] * 5, ScanStatus.FAILED], skipped={"hidden": 2})
        text = client.get(f"/runs/{run_id}/failures").text
        for part in (*MEANINGS[Reason.DAMAGED], "5 scans", "1 scan", "cut &lt;short&gt;", "2 hidden"):
            assert part in text
        assert len(re.findall(r'href="/scans/\d+\?reason=damaged"', text)) == 3 + 1
        assert f'href="/runs/{run_id}?reason=damaged"' in text
        assert f"/runs/{run_id}/failures" in client.get(f"/runs/{run_id}").text

    def test_of_a_run_without_any_say_so(self, engine, client):
        run_id = add_night(engine, [0.5])
        assert "has a score" in client.get(f"/runs/{run_id}/failures").text

    def test_offer_a_retry_to_those_who_may(self, engine):
        run_id = add_night(engine, [0.5, ScanStatus.FAILED])
        for role, offered in (("view", False), ("operate", True)):
            with open_page(url_of(engine), web_role=role, broker_url="redis://localhost:1/0") as client:
                assert ("Retry 1 failed" in client.get(f"/runs/{run_id}/failures").text) is offered


class TestQueue:
    def test_tells_who_works_on_what_and_what_waits(self, engine, client):
        run_id = add_run(engine, 40, job_size=16, name="ward-7")
        claim(engine, job_ids(engine, run_id)[0])
        text = read_text(client.get("/queue"))
        assert "1 worker at work" in text
        assert "ward-7" in text
        assert "40 of 40" in text
        assert re.search(r"normal 2 \d", text)  # two jobs wait
        assert "unknown: nothing was scored" in text

    def test_tells_what_waits_for_the_next_try(self, engine, client):
        run_id = add_run(engine, 30, job_size=10)
        held = claim(engine, job_ids(engine, run_id)[0])
        write(engine, partial(release_job, claim=held, retry_in_s=300, is_crash=False))
        text = read_text(client.get("/queue"))
        assert re.search(r"30 of 30 \(10 wait for the next try, at .*\d\d:\d\d.* or later\)", text)

    def test_of_a_quiet_night_says_so(self, client):
        text = read_text(client.get("/queue"))
        assert "No run is open." in text
        assert "No worker holds a job." in text

    def test_tells_the_room_on_disks(self, engine, tmp_path):
        with open_page(url_of(engine), scan_roots=[tmp_path]) as client:
            assert re.search(r"scans 1 [\d.,]+ \w+", read_text(client.get("/queue")))


@pytest.fixture
def models(engine):
    """Two models of which the second is in production; returns their names as in an address."""
    first, second = shipped_model("pneumonia-lite0/5"), shipped_model("pneumonia-cnn75/1")
    write(engine, lambda connection: register_model(connection, first))
    write(engine, lambda connection: promote_model(connection, second, Request("ana@host", why="it is better")))
    return [(model, f"{model.name}/{model.version}") for model in (first, second)]


class TestModels:
    def test_tell_stages_history_and_agreement(self, engine, client, models):
        text = read_text(client.get("/models"))
        for part in ("pneumonia-lite0@5 candidate", "pneumonia-cnn75@1 production", "promoted", "it is better"):
            assert part in text

    def test_show_their_cards(self, client, models):
        for model, address in models:
            response = client.get(f"/models/{address}")
            text = read_text(response)
            card = load_bundle(SHIPPED_DIR / address).card
            assert card.description[:40] in text
            assert model.digest in text
            assert "<svg" in response.text
            assert "style=" not in response.text  # the page's policy forbids it

    def test_of_another_release_are_told(self, engine, client):
        model = shipped_model()
        model.card["input"] = "unheard of"
        write(engine, lambda connection: register_model(connection, model))
        assert "another release" in client.get(f"/models/{model.name}/{model.version}").text

    def test_that_are_unknown_are_told(self, client):
        assert client.get("/models/none/1").status_code == 404

    def test_are_compared_on_the_newest_run_that_both_have_scored(self, engine, client, models):
        (first, address), (second, other) = models
        page = f"/models/{other}/beside/{address}"
        assert "no scan that both" in client.get(page).text
        run_id = add_night(engine, [0.9, 0.2, 0.4], model=first)
        moved = [
            new_prediction(
                scan_id, label="pneumonia", score=score, decision="pneumonia" if score > 0.5 else "normal",
                model_digest=second.digest, preprocessing=second.preprocessing,
            )
            for scan_id, score in zip(ids_of(engine, run_id), (0.8, 0.7, 0.1), strict=True)
        ]  # fmt: skip
        write(engine, lambda connection: store_predictions(connection, moved))
        text = read_text(client.get(page))
        assert "3 scored in the run = 3 compared" in text
        assert "1 of 3 decisions change" in text
        assert f'href="{page}"' in client.get(f"/models/{other}").text


class TestDrift:
    def test_of_too_few_scans_is_told_with_the_nights_before(self, engine, client):
        for name in ("monday", "tuesday"):
            run_id = add_night(engine, [0.5, 0.2], name=name, sources=["/scans"])
        text = read_text(client.get(f"/runs/{run_id}/drift"))
        assert "holds no reference" in text
        assert "monday" in text

    def test_of_a_run_that_is_too_large_names_the_command(self, engine, client, monkeypatch):
        run_id = add_night(engine, [0.5, 0.2])
        monkeypatch.setattr("web.drift_page._MOST_SCANS", 1)
        assert f"nightread drift {run_id[:8]}" in client.get(f"/runs/{run_id}/drift").text


def test_runs_are_found_by_name_status_and_model(engine, client):
    add_night(engine, [0.5], name="ward-a", model=shipped_model())
    add_run(engine, 1, name="ward-b")
    for query, shown in (
        ("name=WARD", {"ward-a", "ward-b"}), ("name=b", {"ward-b"}), ("status=finished", {"ward-a"}),
        ("model=pneumonia-lite0%405", {"ward-a"}), ("model=other%401", set()), ("status=queued&name=a", {"ward-b"}),
    ):  # fmt: skip
        text = client.get(f"/?{query}").text
        assert set(re.findall(r"<bdi>(ward-\w)</bdi>", text)) == shown, query
    assert client.get("/?status=asleep").status_code == 400


def test_the_bar_tells_test_from_production(engine):
    with open_page(url_of(engine), web_name="<TEST>", web_color="orange") as client:
        text = client.get("/").text
        assert '<header class="bar orange">' in text
        assert '<strong class="environment">&lt;TEST&gt;</strong>' in text


def test_a_scan_leads_to_another_viewer(engine):
    run_id = add_night(engine, [0.5])
    (scan_id,) = ids_of(engine, run_id)
    with open_page(url_of(engine), web_viewer="https://ohif.example/viewer?StudyInstanceUIDs={study}") as client:
        assert (
            f'href="https://ohif.example/viewer?StudyInstanceUIDs=1.2.{scan_id}"'
            in client.get(f"/scans/{scan_id}").text
        )
