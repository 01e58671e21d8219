"""The rows of the library are the rows of a run: same outcome, scores, decisions, gate and provenance."""

import os

import pytest
from PIL import Image, ImageDraw, ImageFont
from sqlalchemy import select

import nightread
from db.engine import reading
from db.tables import measurements, predictions, scans
from nightread.model.bundle import DEFAULT_MODEL
from nightread.reasons import Reason
from nightread.scan.files import decode_path
from tests.db_factories import job_ids
from tests.factories import (
    UNGATED_MODEL,
    encode_image,
    encode_jpeg,
    encode_png16,
    encode_tiff,
    make_nasty_folder,
    small_chest,
    write_dicom,
)
from tests.worker_factories import run_process
from worker.jobs.job import score_job
from worker.runs.enqueue import write_run
from worker.runs.request import Request


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Drawn scans in every format, and files with all common faults."""
    folder = tmp_path_factory.mktemp("night")
    make_nasty_folder(folder / "nasty", can_read_locked=True)
    (folder / "nasty" / "locked").chmod(0o700)
    page = Image.new("L", (640, 800), 255)
    for line in range(30):
        ImageDraw.Draw(page).text((40, 20 + 25 * line), "lorem ipsum " * 6, fill=0, font=ImageFont.load_default(16))
    for name, content in {
        "one.jpeg": encode_jpeg(small_chest(11)), "copy-of-one.jpeg": encode_jpeg(small_chest(11)),
        "deep.png": encode_png16(small_chest(12)), "gray.tiff": encode_tiff(small_chest(13)),
        "inverted.png": encode_image(255 - small_chest(14, 300, 360)), "page.png": encode_image(page),
        "strip.png": encode_image(small_chest(15, 60, 400)), "blank.png": encode_image(small_chest(16) * 0),
        "away.jpeg": encode_jpeg(small_chest(17)),
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    write_dicom(folder / "scan.dcm", small_chest(18))
    write_dicom(folder / "inverted.dcm", small_chest(19), PhotometricInterpretation="MONOCHROME1")
    return folder


def read_run(process, run_id):
    """Return the stored results of a run by path, in the shape of `describe`."""
    with reading(process.engine) as connection:
        rows = connection.execute(select(scans).where(scans.c.run_id == run_id)).all()
        scored = connection.execute(select(predictions)).all()
        measured = {row.sha256: row for row in connection.execute(select(measurements))}
    found = {}
    for row in rows:
        of_scan = [one for one in scored if one.sha256 == row.sha256 and row.status == "scored"]
        gate = measured.get(row.sha256)
        found[decode_path(row.path)] = {
            "outcome": (row.status.value, row.reason_code, row.reason_text or ""),
            "scores": {one.label: pytest.approx(one.score, abs=1e-6) for one in of_scan},
            "decisions": {one.label: one.decision for one in of_scan},
            "gate": None if gate is None else gate.gate_verdict,
            "distance": None if gate is None or gate.distance is None else pytest.approx(gate.distance, abs=1e-4),
            "sha256": row.sha256,
            "uids": (row.study_uid, row.series_uid, row.instance_uid),
            "origin": {
                (one.model_digest, one.preprocessing, one.runtime, one.provider, one.device) for one in of_scan
            },
        }  # fmt: skip
    return found


def describe(row):
    uids, origin = row.uids, row.provenance
    return {
        "outcome": (row.status, row.reason and row.reason.value, row.text),
        "scores": row.scores,
        "decisions": row.decisions,
        "gate": row.gate_verdict,
        "distance": row.distance,
        "sha256": row.sha256,
        "uids": (None, None, None) if uids is None else (uids.study, uids.series, uids.instance),
        "origin": {(origin.digest, origin.preprocessing, origin.runtime, origin.provider, origin.device)}
        if row.status == "scored"
        else set(),
    }


@pytest.mark.parametrize(
    ("model", "gate"), [(DEFAULT_MODEL, True), (DEFAULT_MODEL, False), ("pneumonia-cnn75@1", True)]
)
def test_rows_are_those_of_a_run(sqlite_engine, night, model, gate):
    away = night / "away.jpeg"
    content = away.read_bytes()
    with run_process(sqlite_engine, model=model, gate=gate, max_attempts=1) as process:
        bundle = process.open_default()
        run_id = write_run(process.engine, process.settings, bundle, [night], Request(), embedded=False).run_id
        away.unlink()
        for job_id in job_ids(process.engine, run_id):
            assert score_job(process, job_id) is not None
        stored = read_run(process, run_id)
    rows = list(nightread.open_model(model, device="cpu", threads=2, gate=gate).predict(stored, batch_size=5))
    away.write_bytes(content)

    assert [row.path for row in rows] == list(stored)
    for path, row in zip(stored, rows, strict=True):
        assert describe(row) == stored[path], os.fsencode(path)
    reasons = {os.path.basename(row.path): row.reason for row in rows}  # noqa: PTH119  # as Python holds file names
    assert reasons["away.jpeg"] is Reason.MISSING_FILE
    assert Reason.INTERNAL_ERROR not in reasons.values()
    if model == UNGATED_MODEL:
        good = {"one.jpeg", "deep.png", "gray.tiff", "scan.dcm", "inverted.dcm", "rgba.png"}
        assert {name for name in good if reasons[name] is None} == good
    assert {(row.provenance.model, row.provenance.version) for row in rows} == {tuple(model.split("@"))}
