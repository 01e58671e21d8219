"""A run applies its model's input gate unless it is switched off; verdicts are stored in both cases."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from sqlalchemy import select

from db.engine import reading
from db.measurements import stream_measured
from db.tables import measurements, predictions
from db.views import results
from nightread.inference.content import decode_content
from nightread.inference.scorer import Scorer
from nightread.model.bundle import find_bundle, load_bundle
from nightread.scan.preprocessing import InputSpec
from nightread.settings import read_settings
from tests.db_factories import fetch_run, job_ids
from tests.factories import encode_dicom, encode_image, encode_jpeg, small_chest
from tests.onnx_factories import make_gate, write_tiny_bundle
from tests.worker_factories import run_process
from worker.decoder.sandbox import IsolatedDecoders, IsolationLimits
from worker.jobs.job import score_job
from worker.runs.enqueue import write_run
from worker.runs.request import Request
from worker.runs.shadow import shadow_run

SPEC = InputSpec(height_px=8, width_px=8, channels=1)
FILES = ("bright.png", "chest.jpeg", "colors.png", "dark.png", "page.png", "strip.png")


def with_mean(gray: float):
    """Draw a chest with mean gray `gray`, 0 to 1."""
    chest = small_chest(1, 300, 360).astype(np.float32)
    return np.clip(chest - chest.mean() + 255 * gray, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    page = Image.new("L", (640, 800), 255)
    for line in range(30):
        ImageDraw.Draw(page).text((40, 20 + 25 * line), "lorem ipsum " * 6, fill=0, font=ImageFont.load_default(16))
    colors = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8)
    contents = {
        "chest.jpeg": encode_jpeg(with_mean(0.4)),
        "bright.png": encode_image(with_mean(0.62)),  # 2.2 away, and 0.2 once inverted
        "dark.png": encode_image(with_mean(0.12)),  # 2.8 away, and 4.8 once inverted
        "page.png": encode_image(page),
        "colors.png": encode_image(Image.fromarray(colors).resize((300, 300))),
        "strip.png": encode_image(small_chest(2, 60, 400)),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def process(engine, tmp_path):
    write_tiny_bundle(tmp_path / "models", gate=make_gate())
    with run_process(engine, models_dir=tmp_path / "models", model="tiny@1") as process:
        yield process


def score(process, folder, **settings):
    """Score a folder as a new run; returns its id."""
    asked = process.settings.model_copy(update=settings)
    run_id = write_run(process.engine, asked, process.open_default(), [folder], Request(), embedded=False).run_id
    for job_id in job_ids(process.engine, run_id):
        assert score_job(process, job_id) is not None
    return run_id


def statuses(process, run_id):
    with reading(process.engine) as connection:
        query = select(results.c.path, results.c.status, results.c.reason, results.c.reused)
        rows = connection.execute(query.where(results.c.run_id == run_id)).all()
    return {row.path.rsplit("/")[-1]: row.reason or ("reused" if row.reused else row.status.value) for row in rows}


def verdicts(process):
    with reading(process.engine) as connection:
        return sorted(connection.execute(select(measurements.c.gate_verdict)).scalars(), key=str)


def count_predictions(process):
    with reading(process.engine) as connection:
        return len(connection.execute(select(predictions)).all())


REJECTED = {
    "bright.png": "inverted", "chest.jpeg": "scored", "colors.png": "color-photograph", "dark.png": "not-a-chest-xray",
    "page.png": "document", "strip.png": "aspect-ratio",
}  # fmt: skip
VERDICTS = ["aspect-ratio", "color-photograph", "document", "inverted", "not-a-chest-xray", "passed"]


def test_what_the_gate_rejects_gets_its_reason_and_no_prediction(process, folder):
    assert statuses(process, score(process, folder)) == REJECTED
    assert verdicts(process) == VERDICTS
    assert count_predictions(process) == 1


def test_rejections_tell_what_is_allowed_and_the_way_around(process, folder):
    run_id = score(process, folder)
    with reading(process.engine) as connection:
        query = select(results.c.reason_text).where(results.c.run_id == run_id, results.c.reason.is_not(None))
        texts = connection.execute(query).scalars().all()
    assert len(texts) == 5
    assert all("--no-gate" in text for text in texts)


def test_a_rejection_names_a_window_that_contradicts_the_pixels(process, tmp_path):
    """A window of 12 bits leaves pixels of 8 bits nearly black."""
    night = tmp_path / "windows"
    night.mkdir()
    (night / "dark.dcm").write_bytes(encode_dicom(small_chest(), WindowCenter="2048", WindowWidth="4096"))
    for run_id in (score(process, night), score(process, night)):  # the second one restores the stored verdict
        with reading(process.engine) as connection:
            row = connection.execute(select(results).where(results.c.run_id == run_id)).one()
        assert (row.reason, row.contradictions) == ("not-a-chest-xray", "window")
        assert row.reason_text.endswith("; its window contradicts its pixels")


def count_inferred(process, monkeypatch):
    """Return a list that takes the number of scans of each inference from now on, those of opening the model apart."""
    process.open_default()
    infer_batch, counts = Scorer.infer_batch, []
    monkeypatch.setattr(
        Scorer, "infer_batch", lambda scorer, batch: counts.append(len(batch)) or infer_batch(scorer, batch)
    )
    return counts


def test_only_doubtful_scans_get_a_second_look(process, folder, monkeypatch):
    counts = count_inferred(process, monkeypatch)
    score(process, folder)
    # Three scans pass the rules; two of them are doubtful and have four variants each.
    assert sum(counts) == 3 + 2 * 4


def test_without_the_gate_everything_is_scored_and_doubtful_scans_get_neither_second_look_nor_verdict(
    process, folder, monkeypatch
):
    counts = count_inferred(process, monkeypatch)
    run_id = score(process, folder, gate=False)
    assert sum(counts) == len(FILES)
    assert fetch_run(process.engine, run_id).settings["gate"] is False
    assert set(statuses(process, run_id).values()) == {"scored"}
    assert verdicts(process) == [None, None, "aspect-ratio", "color-photograph", "document", "passed"]
    assert count_predictions(process) == 6
    with reading(process.engine) as connection:
        found = [scan for scan in stream_measured(connection, run_id, "pneumonia") if scan.gate_verdict is None]
    assert all(scan.distance > 1.5 for scan in found)  # drift is told of them all the same


def test_what_was_scored_without_the_gate_is_judged_once_with_it_and_reused_without_again(process, folder, monkeypatch):
    score(process, folder, gate=False)
    before = count_predictions(process)
    assert statuses(process, score(process, folder)) == REJECTED | {"chest.jpeg": "reused"}
    assert verdicts(process) == VERDICTS
    assert count_predictions(process) == before
    monkeypatch.setattr(Scorer, "infer_batch", None)  # nothing is inferred any more
    assert statuses(process, score(process, folder)) == REJECTED | {"chest.jpeg": "reused"}
    assert set(statuses(process, score(process, folder, gate=False)).values()) == {"reused"}


def test_what_was_rejected_is_rejected_again_without_decoding_and_scored_once_the_gate_is_off(process, folder):
    score(process, folder)
    decoder, process.decoder.start = process.decoder.start, None
    assert statuses(process, score(process, folder)) == REJECTED | {"chest.jpeg": "reused"}
    process.decoder.start = decoder
    assert statuses(process, score(process, folder, gate=False)) == dict.fromkeys(FILES, "scored") | {
        "chest.jpeg": "reused"
    }
    assert verdicts(process) == VERDICTS


def test_copies_of_a_rejected_file_are_rejected_too(process, folder):
    (folder / "copy.png").write_bytes((folder / "page.png").read_bytes())
    assert statuses(process, score(process, folder))["copy.png"] == "document"
    assert verdicts(process) == VERDICTS


def test_a_scan_that_the_rules_reject_is_not_inferred_and_has_no_distance(process, folder):
    run_id = score(process, folder)
    with reading(process.engine) as connection:
        found = {scan.gate_verdict: scan for scan in stream_measured(connection, run_id, "pneumonia")}
    assert found["document"].distance is None
    assert found["document"].components is None
    assert found["document"].brightness > 0.8
    assert found["inverted"].distance == pytest.approx(2.2, abs=0.1)
    assert found["passed"].distance == pytest.approx(0, abs=0.1)
    assert len(found["passed"].components) == 8


def test_a_model_without_a_gate_rejects_and_measures_nothing(process, folder, tmp_path):
    write_tiny_bundle(tmp_path / "models", "2")
    process.settings = process.settings.model_copy(update={"model": "tiny@2"})
    assert set(statuses(process, score(process, folder)).values()) == {"scored"}
    assert verdicts(process) == []


def test_decoder_processes_find_the_same_faults_and_pixels(folder):
    gate = load_gate(folder)
    decoders = IsolatedDecoders(IsolationLimits(60, 10**6, 10**7))
    for name in FILES:
        data = (folder / name).read_bytes()
        apart, here = decoders.decode(data, SPEC, gate), decode_content(data, SPEC, 10**6, gate)
        assert apart.finding == here.finding
        np.testing.assert_array_equal(apart.tensor, here.tensor)
    decoders.close()


def load_gate(folder):
    return write_tiny_bundle(folder.parent / "others", gate=make_gate()).card.gate


def test_a_shadow_obeys_the_gate_of_its_model_and_stores_what_it_measures(process, folder, tmp_path):
    write_tiny_bundle(tmp_path / "models", "2")
    process.settings = process.settings.model_copy(update={"model": "tiny@2"})
    run_id = score(process, folder)
    from tests.worker_factories import fetch_info

    bundle = load_bundle(find_bundle("tiny@1", tmp_path / "models"))
    shadow = shadow_run(process, fetch_info(process, run_id), bundle, most_moved=1, on_progress=lambda *_: None)
    assert shadow.compared == 1
    assert sorted(shadow.without_score) == [verdict for verdict in VERDICTS if verdict != "passed"]
    assert verdicts(process) == VERDICTS


def test_the_setting_turns_the_gate_off(monkeypatch):
    assert read_settings().gate is True
    monkeypatch.setenv("NIGHTREAD_GATE", "false")
    assert read_settings().gate is False
