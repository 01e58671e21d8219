"""No patient is in what Nightread keeps or says, though one stands in every text of the instances that come."""

import logging

from pydicom import dcmread
from pydicom.datadict import DicomDictionary, keyword_for_tag, repeater_has_tag
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage
from sqlalchemy import select

from db.engine import reading
from db.runs import find_run
from db.tables import metadata
from pacs.destination import open_destination
from pacs.sender import send_run
from pacs.study_reports import Kind, write_objects
from tests.db_factories import job_ids
from tests.dicom_peers import accepting, listening, storescu, write_study
from tests.factories import CANARY
from tests.services import find_free_port
from tests.worker_factories import add_run_of, run_process
from worker.exposition import write_metrics
from worker.jobs.job import score_job
from worker.report.page import render_page, render_text
from worker.report.run_report import make_report

BIRTH_DATE = "19010203"
#: What a scan's picture is read by; all other texts hold the patient.
_MEANT = {"Modality", "TransferSyntaxUID", "SpecificCharacterSet", "PhotometricInterpretation"}


def fill(file):
    """Write the patient into every attribute of an instance that holds text."""
    dataset = dcmread(file)
    for tag, (vr, _, _, is_retired, keyword) in DicomDictionary.items():
        is_text = vr in {"PN", "LO", "SH", "ST", "LT", "UT", "UC"} and keyword not in _MEANT and tag >> 16 > 0x0007
        if is_text and not is_retired and not repeater_has_tag(tag) and keyword_for_tag(tag):
            setattr(dataset, keyword, CANARY)
    dataset.PatientBirthDate = BIRTH_DATE
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

    with reading(sqlite_engine) as connection:
        rows = [str(row) for table in metadata.sorted_tables for row in connection.execute(select(table))]
    assert len(rows) > 10
    written = capfd.readouterr()
    for text in (*told, *rows, write_metrics(sqlite_engine), caplog.text, written.out, written.err):
        assert "CANARY" not in text
        assert BIRTH_DATE not in text
