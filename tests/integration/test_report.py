"""The report of a run says what the ledger holds, shows what was scored, and nothing that a name hides in it."""

import base64
import io
import json
import math
import re
from datetime import datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import update

from db.engine import reading, write
from db.run_report import list_runs_of_night
from db.tables import runs
from nightread.inference.scorer import Scorer
from nightread.model.bundle import DEFAULT_MODEL, find_bundle, load_bundle
from nightread.settings import Device
from tests.db_factories import add_run
from tests.factories import small_chest, write_jpeg
from tests.onnx_factories import write_tiny_bundle
from tests.worker_factories import fetch_info, run_process
from worker.report.page import render_page, render_text
from worker.report.pictures import lay_over
from worker.report.run_report import make_report
from worker.runs.embedded import run_embedded
from worker.runs.enqueue import Request, write_run

HOSTILE = "<img src=x onerror=alert(1)>\u202egpj.\x1b[31m"
FILES = 4


class Tags(HTMLParser):
    """Collects tags with their attributes, and all text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.said = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture
def process(engine, tmp_path):
    with run_process(engine, models_dir=tmp_path / "models", job_size=2) as process:
        yield process


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "night"
    for number in range(FILES):
        write_jpeg(folder / f"{number}.jpg", small_chest(number))
    (folder / "cut.jpg").write_bytes((folder / "0.jpg").read_bytes()[:900])
    return folder


@pytest.fixture
def score(process, folder):
    """Score the folder with a model whose thresholds are 0.4 and 0.6; returns the run."""

    def score(name="ward-a"):
        bundle = write_tiny_bundle(process.settings.models_dir, "1", bias=0.0)
        process.open_bundle(bundle)
        run_id = write_run(process.engine, process.settings, bundle, [folder], Request(name=name), embedded=True).run_id
        return run_embedded(process, run_id, lambda counts: None)

    return score


def test_the_facts_are_those_of_the_ledger(process, score, folder):
    facts = make_report(process, score(), with_pictures=False).facts
    assert facts["reconciliation"] == f"{FILES + 1} found = {FILES} scored + 1 rejected + 0 failed"
    pneumonia = facts["labels"]["pneumonia"]
    assert sum(pneumonia["histogram"]["counts"]) == FILES
    assert pneumonia["thresholds"] == {"low": 0.4, "high": 0.6}
    scores = [scan["score"] for scan in pneumonia["highest"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == FILES
    uncertain = facts["decisions"].get("uncertain", 0)
    assert pneumonia["near"]["count"] == len(pneumonia["near"]["scans"]) == uncertain
    (reason,) = facts["reasons"]
    assert (reason["status"], reason["reason"], reason["count"]) == ("rejected", "damaged", 1)
    assert reason["examples"][0]["path"] == str(folder / "cut.jpg")
    assert sum(facts["throughput"]["scans"]) == FILES + 1
    assert sum(facts["stages"]["shares"].values()) == pytest.approx(1, abs=0.001)
    assert facts["stages"]["batches"] * facts["stages"]["mean_batch_size"] == pytest.approx(FILES, abs=0.2)
    assert sum(facts["provenance"]["provider"].values()) == FILES
    assert facts["drift"]["sentence"].startswith("not compared: the card of tiny@1 holds no reference")
    json.dumps(facts, default=str)


def test_the_page_is_one_file_that_asks_for_nothing(process, score):
    report = make_report(process, score(), with_pictures=True)
    page = Tags(render_page([report], "Report"))
    assert not {"script", "link", "iframe", "object", "form", "a"} & {tag for tag, _ in page.tags}
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == FILES
    for source in sources:
        picture = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
        assert max(picture.size) == 240
    policy = next(attributes for _, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy["content"]
    assert any("tiny@1 computes no activation map" in text for text in page.said)


def test_hostile_names_are_text_and_hide_nothing(process, score, folder):
    (folder / "0.jpg").rename(folder / HOSTILE.replace("/", "_"))
    report = make_report(process, score(f"</title>{HOSTILE}"), with_pictures=True)
    for written in (render_page([report], f"Report of {report.run.name}"), render_text(report)):
        assert "\u202e" not in written
        assert "\x1b" not in written
    page = Tags(render_page([report], f"Report of {report.run.name}"))
    assert all(attributes["src"].startswith("data:") for tag, attributes in page.tags if tag == "img")
    assert any("<img src=x onerror=alert(1)>" in text for text in page.said)


def test_a_file_with_other_bytes_than_those_that_were_scored_is_not_shown(process, score, folder):
    run = score()
    (folder / "0.jpg").unlink()
    write_jpeg(folder / "1.jpg", small_chest(77))
    shown = make_report(process, run, with_pictures=True).pictures["pneumonia"]
    whys = sorted(picture.why for picture in shown if not picture.scan)
    assert len(whys) == 2
    assert "has changed since it was scored" in whys[1]
    assert str(folder) not in "".join(whys)


def test_pictures_are_read_where_this_host_has_the_folder(process, score, folder, tmp_path):
    run = score()
    folder.rename(tmp_path / "mounted")
    process.settings = process.settings.model_copy(update={"path_map": f"{folder}={tmp_path / 'mounted'}"})
    shown = make_report(process, run, with_pictures=True).pictures["pneumonia"]
    assert [picture.why for picture in shown] == [""] * FILES


def test_a_guard_that_tripped_stands_on_top(process, score):
    run = score()
    tripped = update(runs).where(runs.c.id == run.id).values(guard="max-rejected", guard_text="30 % are rejected")
    write(process.engine, lambda connection: connection.execute(tripped))
    report = make_report(process, fetch_info(process, run.id), with_pictures=False)
    assert "This night looks wrong: max-rejected." in render_page([report], "Report")
    assert "GUARD max-rejected: 30 % are rejected" in render_text(report)


def test_an_open_run_and_one_without_a_score_have_a_report(process, score):
    run = score()
    run_id = add_run(process.engine, 3)
    model = update(runs).where(runs.c.id == run_id).values(model_digest=run.model_digest)
    write(process.engine, lambda connection: connection.execute(model))
    report = make_report(process, fetch_info(process, run_id), with_pictures=True)
    assert report.facts["queued"] == 3
    assert "No scan was scored." in render_page([report], "Report")
    assert "pneumonia: no score" in render_text(report)


def test_a_model_that_is_gone_costs_the_maps_alone(process, score):
    run = score()
    for file in (process.settings.models_dir / "tiny/1").iterdir():
        file.unlink()
    process._scorers.clear()
    report = make_report(process, run, with_pictures=True)
    assert report.no_maps.startswith("no activation maps: ")
    assert all(picture.scan for picture in report.pictures["pneumonia"])


def test_a_night_has_the_runs_from_noon_to_noon_and_those_that_say_so(engine):
    noon = datetime(2026, 11, 28, 12).astimezone()
    made = {name: add_run(engine, 1, name=name) for name in ("before", "late", "early", "after", "said", "other")}

    def place(connection):
        for name, hours in (("before", -1), ("late", 1), ("early", 23), ("after", 24), ("said", 48), ("other", 2)):
            at = update(runs).where(runs.c.id == made[name]).values(created_at=noon + timedelta(hours=hours))
            connection.execute(at)
        for name, night in (("said", "2026-11-28"), ("other", "2026-11-27")):
            connection.execute(update(runs).where(runs.c.id == made[name]).values(night=night))

    write(engine, place)
    with reading(engine) as connection:
        assert [run.name for run in list_runs_of_night(connection, noon)] == ["late", "early", "said"]


def test_an_activation_map_adds_up_to_the_score(tmp_path):
    scorer = Scorer(load_bundle(find_bundle(DEFAULT_MODEL, tmp_path)), Device.CPU, 1)
    batch = load_bundle(find_bundle(DEFAULT_MODEL, tmp_path)).parity_inputs
    maps, scores = scorer.map_activation(batch), scorer.score_batch(batch)
    assert maps.shape == (len(batch), 4, 4, 1)
    logits = [math.log(score / (1 - score)) for score in scores[:, 0].astype(float)]
    bias = logits - maps.mean(axis=(1, 2))[:, 0]
    assert np.ptp(bias) < 1e-3


def test_evidence_is_laid_where_it_is_and_only_what_speaks_for_the_label():
    gray = Image.new("L", (80, 40), 100)
    evidence = np.full((2, 4), -1.0, np.float32)
    evidence[0, 3] = 2.0
    drawn = np.asarray(lay_over(gray, evidence)).astype(int)
    assert drawn[5, 75, 0] - drawn[5, 75, 2] > 100  # orange, top right
    assert abs(drawn[35, 5] - 100).max() <= 1
    assert np.array_equal(np.asarray(lay_over(gray, -np.abs(evidence)))[:, :, 0], np.full((40, 80), 100))


def test_the_page_names_no_study_and_no_digest_of_a_scan(process, score):
    page = render_page([make_report(process, score(), with_pictures=True)], "Report")
    digests = set(re.findall(r"\b[0-9a-f]{64}\b", page))
    assert len(digests) == 1  # the model's
