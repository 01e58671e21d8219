"""No patient is in what Nightread keeps or says, though one stands in every text of the instances that come."""

import contextlib
import io
import logging

import pytest
from pydicom import dcmread
from pydicom.datadict import DicomDictionary, keyword_for_tag, repeater_has_tag
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage
from sqlalchemy import select

from db.engine import reading
from db.runs import find_run
from db.tables import metadata
from nightread.logs import configure_logging
from nightread.settings import read_settings
from pacs.destination import open_destination
from pacs.sender import send_run
from pacs.study_reports import Kind, write_objects
from tests.db_factories import claim, expire_lease, fetch_job, fetch_scans, job_ids
from tests.dicom_peers import accepting, listening, storescu, write_study
from tests.factories import CANARY
from tests.program import hook_decoding
from tests.services import find_free_port
from tests.worker_factories import add_run_of, run_process
from worker.exposition import write_metrics
from worker.jobs.job import attend_job, score_job
from worker.report.page import render_page, render_text
from worker.report.run_report import make_report

BIRTH_DATE = "19010203"
#: What a scan is read and told apart by; every other value holds the patient.
_MEANT = {
    "Modality", "TransferSyntaxUID", "SpecificCharacterSet", "PhotometricInterpretation", "SOPClassUID",
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "AcquisitionDate", "AcquisitionDateTime",
    "AcquisitionTime", "PresentationIntentType", "PresentationLUTShape", "PixelIntensityRelationship", "ImageType",
    "PatientOrientation", "LossyImageCompression", "VOILUTFunction", "RescaleType",
}  # fmt: skip
#: A value of each kind that holds text, which its form allows.
_CANARIES = {
    **dict.fromkeys(("PN", "LO", "SH", "ST", "LT", "UT", "UC"), CANARY),
    "CS": "CANARY", "AE": "CANARY", "UR": "http://CANARY/", "UI": f"1.2.826.{BIRTH_DATE}.9", "DA": BIRTH_DATE,
    "DT": f"{BIRTH_DATE}000000", "AS": "119Y",
}  # fmt: skip
#: In none of the forms in which a date, a UID or an age of these is written.
_NOWHERE = ("CANARY", BIRTH_DATE, "1901-02-03", "119Y")


def fill(file, comments=CANARY):
    """Write the patient into every attribute of an instance that holds text, a code, a date, an age or a UID."""
    dataset = dcmread(file)
    for tag, (vr, _, _, is_retired, keyword) in DicomDictionary.items():
        is_meant = keyword in _MEANT or tag >> 16 <= 0x0007  # meta information and commands
        is_known = not is_retired and not repeater_has_tag(tag) and keyword_for_tag(tag)
        if vr in _CANARIES and is_known and not is_meant:
            setattr(dataset, keyword, _CANARIES[vr])
    dataset.ImageComments = comments
    dataset.save_as(file)


def test_nobody_is_kept_or_told_of(sqlite_engine, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    files = write_study(tmp_path / "CANARY^PATIENT", 0) + write_study(tmp_path / "CANARY^PATIENT", 1)
    for file in files:
        fill(file)
    with listening(tmp_path / "spool") as (listener, filed):
        storescu(listener.port, *files)
        storescu(listener.port, "-aet", "CANARY", files[0], expect=None)
    assert len(filed) == 4
    cut = tmp_path / "spool" / filed[0].name
    cut.write_bytes(cut.read_bytes()[:-2000])

    told = []
    with run_process(sqlite_engine) as process:
        run_id = add_run_of(process, tmp_path / "spool", embedded=True)
        for job_id in job_ids(sqlite_engine, run_id):
            score_job(process, job_id)
        with reading(sqlite_engine) as connection:
            run = find_run(connection, run_id)
        report = make_report(process, run, with_pictures=True)
        told += [render_page([report], "night"), render_text(report), str(report.facts)]
        with accepting(ComprehensiveSRStorage, SecondaryCaptureImageStorage) as (port, got):
            for place in (f"PACS@127.0.0.1:{port}", f"PACS@127.0.0.1:{find_free_port()}"):
                destination = open_destination(place, "NIGHTREAD")
                told.append(str(send_run(process, run, destination, list(Kind))))
                destination.close()
        (tmp_path / "spool" / filed[1].name).unlink()
        told.append(str(write_objects(process, run, tmp_path / "out", [Kind.REPORT]).missing))
    assert {str(one.PatientName) for one in got} == {CANARY}, "the report that goes back names its patient"
    assert {one.PatientBirthDate for one in got} == {BIRTH_DATE}

    assert_nobody(sqlite_engine, [*told, caplog.text], capfd)


def assert_nobody(engine, told, capfd):
    """Check what is stored, measured, told and printed."""
    with reading(engine) as connection:
        rows = [str(row) for table in metadata.sorted_tables for row in connection.execute(select(table))]
    assert len(rows) > 10
    written = capfd.readouterr()
    for text in (*told, *rows, write_metrics(engine), written.out, written.err):
        assert [line for line in text.splitlines() if any(canary in line for canary in _NOWHERE)] == []


#: What a decoder does to a scan: it dies, prints, and fails with all that it was given.
_POISONS = {
    b"POISON-SEGV": "import ctypes; ctypes.string_at(0)",
    b"POISON-TELL": "import sys; os.write(2, data); sys.stderr.write(str(data))",
    b"POISON-DEEP": "raise RecursionError(data)",
}


@pytest.fixture
def own_log():
    """The log as a worker writes it."""
    root, text = logging.getLogger(), io.StringIO()
    kept = root.handlers[:], root.level
    with contextlib.redirect_stderr(text):
        configure_logging(read_settings(log_level="DEBUG"))
    yield text
    root.handlers[:] = kept[0]
    root.setLevel(kept[1])


def test_nobody_is_told_of_where_decoders_and_workers_die(sqlite_engine, tmp_path, monkeypatch, own_log, capfd):
    for name, value in hook_decoding(tmp_path, _POISONS).items():
        monkeypatch.setenv(name, value)
    for number, mark in enumerate([*_POISONS, b""]):
        (file,) = write_study(tmp_path / "night", number, instances=1)
        fill(file, f"{CANARY} {mark.decode()}")
    with run_process(sqlite_engine, embedded=False, max_attempts=2, decode_limit_s=60) as process:
        run_id = add_run_of(process, tmp_path / "night")
        (job_id,) = job_ids(sqlite_engine, run_id)
        claim(sqlite_engine, job_id)  # by a worker that dies of it
        expire_lease(sqlite_engine, job_id)
        attend_job(process, job_id)
        assert sorted(scan.reason_code or scan.status.value for scan in fetch_scans(sqlite_engine, run_id)) == [
            "decoder-crash", "internal-error", "scored", "scored",
        ]  # fmt: skip

        second = add_run_of(process, tmp_path / "night")
        waiting = job_ids(sqlite_engine, second)
        while waiting:  # each dies as often as it takes to be split, until each scan stands alone
            for job_id in waiting:
                for _ in range(2):
                    claim(sqlite_engine, job_id)
                    expire_lease(sqlite_engine, job_id)
                attend_job(process, job_id)
            waiting = [
                one for one in job_ids(sqlite_engine, second) if fetch_job(sqlite_engine, one).status == "queued"
            ]
        assert {scan.reason_code for scan in fetch_scans(sqlite_engine, second)} == {"worker-crash"}

        unforeseen = OSError(5, "Input/output error", f"/spool/{CANARY}/1.dcm")

        def fail(*_, **__):
            raise unforeseen

        monkeypatch.setattr("worker.jobs.job.score_scans", fail)
        third = add_run_of(process, tmp_path / "night")
        for job_id in job_ids(sqlite_engine, third):
            attend_job(process, job_id)
        with reading(sqlite_engine) as connection:
            reports = [make_report(process, find_run(connection, one), with_pictures=True) for one in (run_id, second)]
    told = [text for report in reports for text in (render_page([report], "night"), render_text(report))]
    assert_nobody(sqlite_engine, [*told, own_log.getvalue()], capfd)
    assert "split in two" in own_log.getvalue()
    assert "OSError" in own_log.getvalue()
