"""Reports of a run as DICOM, read by DCMTK and dicom3tools."""

import shutil
import stat
import subprocess
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydantic import ValidationError
from sqlalchemy import update

from db.engine import reading, write
from db.runs import find_run
from db.study_results import stream_studies
from db.tables import models
from nightread.errors import NightreadError
from nightread.model.finding_code import FindingCode, has_check_digit
from pacs.structured_report import DISCLAIMER, encode
from pacs.study_reports import Kind, StudyReports, write_objects
from tests.db_factories import job_ids
from tests.dicom_peers import find_dcmtk, write_study
from tests.factories import CANARY, small_chest, write_dicom, write_jpeg
from tests.worker_factories import add_run_of, run_process
from worker.jobs.job import score_job

BOTH = (Kind.REPORT, Kind.CAPTURE)


@pytest.fixture
def scored(sqlite_engine, tmp_path):
    """A process, and its run of two studies of two views each, a lateral view and a JPEG."""
    folder = tmp_path / "night"
    write_study(folder, 0)
    write_study(folder, 1)
    lateral = {"StudyInstanceUID": "1.2.276.1", "SOPInstanceUID": "1.2.276.1.1.9", "ViewPosition": "LL"}
    write_dicom(folder / "lateral.dcm", small_chest(5), **lateral)
    write_jpeg(folder / "raster.jpg")
    with run_process(sqlite_engine) as process:
        run_id = add_run_of(process, folder, embedded=True)
        run_all(process, run_id)
        with reading(sqlite_engine) as connection:
            yield process, find_run(connection, run_id), folder


def run_all(process, run_id):
    for job_id in job_ids(process.engine, run_id):
        score_job(process, job_id)


def call(program, *arguments):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: apt-get install dcmtk dicom3tools")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_study_of_two_views_gives_one_report_that_other_programs_read(scored, tmp_path):
    process, run, _ = scored
    find_dcmtk("dsr2html")
    done = write_objects(process, run, tmp_path / "out", [Kind.REPORT])
    assert (done.written, done.missing) == (2, {})
    for file in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        page = call("dsr2html", file, tmp_path / "page.html")
        assert (page.returncode, page.stderr) == (0, "")
        html = (tmp_path / "page.html").read_text()
        for text in (
            "Pneumonia",
            DISCLAIMER,
            run.model,
            "PATIENT CANARY",
            "Artificial Intelligence",
        ):
            assert text in html, text
        assert html.count("CR image") == 2, "the lateral view was not scored"
        assert call("dcmconv", "+te", file, tmp_path / "copy.dcm").returncode == 0
        assert "Error" not in call("dciodvfy", file).stderr


def test_capture_shows_score_and_warning_and_is_valid(scored, tmp_path):
    process, run, _ = scored
    assert write_objects(process, run, tmp_path / "out", [Kind.CAPTURE]).written == 4
    file = next((tmp_path / "out").iterdir())
    capture = pydicom.dcmread(file)
    assert capture.PatientName == CANARY
    assert capture.pixel_array.shape[2] == 3
    lines = capture.pixel_array[-60:], capture.pixel_array[:30]
    assert all(np.any(np.ptp(part.astype(int), axis=2) > 100) for part in lines), "yellow text above and below"
    assert "Error" not in call("dciodvfy", file).stderr


def test_same_results_are_the_same_objects(scored):
    process, run, folder = scored
    reports = StudyReports(process, run)
    planned = list(reports.plan(BOTH))
    first = [encode(reports.make(one)) for one in planned]
    assert [pydicom.dcmread(BytesIO(data)).SOPInstanceUID for data in first] == [one.uid for one in planned]
    again = add_run_of(process, folder, embedded=True)
    run_all(process, again)
    with reading(process.engine) as connection:
        other = StudyReports(process, find_run(connection, again))
    assert list(other.plan(BOTH)) != planned, "another run's rows"
    assert [one.uid for one in other.plan(BOTH)] == [one.uid for one in planned]
    assert [encode(other.make(one)) for one in other.plan(BOTH)] == first
    assert list(reports.plan(BOTH, only=["nothing"])) == []


def test_study_whose_file_is_gone_or_changed_is_missing_without_a_name(scored, tmp_path):
    process, run, folder = scored
    (folder / "0-0.dcm").unlink()
    write_dicom(folder / "1-0.dcm", small_chest(9))
    done = write_objects(process, run, tmp_path / "out", [Kind.REPORT])
    assert done.written == 0
    assert sorted(done.missing.values()) == [1, 1]
    assert all("dcm" not in cause for cause in done.missing)
    (tmp_path / "file").touch()
    with pytest.raises(NightreadError, match="cannot be written"):
        write_objects(process, run, tmp_path / "file", [Kind.REPORT])


def test_card_says_what_a_label_means(scored):
    process, run, _ = scored
    code = {"scheme": "RADLEX", "value": "RID5350", "meaning": "pneumonia"}

    def change(connection):
        card = dict(connection.execute(models.select()).one().card)
        connection.execute(update(models).values(card=card | {"codes": {"pneumonia": code}}))

    write(process.engine, change)
    reports = StudyReports(process, run)
    report = reports.make(next(iter(reports.plan([Kind.REPORT]))))
    assert "RID5350" in str(report)
    assert "233604007" not in str(report)


@pytest.mark.parametrize("value", ["233604008", "12", "RID5350", "0233604007"])
def test_wrong_code_of_snomed_is_refused(value):
    with pytest.raises(ValidationError, match="SNOMED CT"):
        FindingCode(scheme="SCT", value=value, meaning="Pneumonia")


def test_check_digit_of_known_concepts():
    assert all(has_check_digit(code) for code in ("233604007", "52101004", "2667000", "82334004", "399208008"))
    assert FindingCode(scheme="RADLEX", value="RID5350", meaning="pneumonia").value == "RID5350"
    with pytest.raises(ValidationError, match="RadLex"):
        FindingCode(scheme="RADLEX", value="5350", meaning="pneumonia")


def test_instances_of_a_study_come_together(scored):
    process, run, _ = scored
    with reading(process.engine) as connection:
        studies = list(stream_studies(connection, run.id))
    assert [[one.instance_uid for one in study] for study in studies] == [
        ["1.2.276.1.1.1", "1.2.276.1.1.2"],
        ["1.2.276.2.1.1", "1.2.276.2.1.2"],
    ]
