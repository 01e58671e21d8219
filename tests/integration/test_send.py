"""Results go back: to pynetdicom and DCMTK by C-STORE, and to Orthanc by both ways."""

import subprocess

import pydicom
import pytest
import trustme
from pydicom.uid import ComprehensiveSRStorage, CTImageStorage, SecondaryCaptureImageStorage
from sqlalchemy import select, update

from cli.exits import Exit, explain
from db.deliveries import deliveries
from db.engine import reading, write
from db.runs import find_run
from db.tables import runs
from db.types import DeliveryStatus
from nightread.errors import NightreadError, SettingsError
from nightread.failpoints import Struck, arm
from pacs.destination import open_destination
from pacs.sender import send_run
from pacs.study_reports import Kind
from pacs.tls import NO_TLS, TlsFiles
from tests.db_factories import at_once, job_ids
from tests.dicom_peers import accepting, ask_orthanc, find_dcmtk, orthanc, wait_for, write_study
from tests.factories import CANARY
from tests.services import find_free_port
from tests.worker_factories import add_run_of, run_process
from worker.errors import GuardTripped
from worker.jobs.job import score_job

#: pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

CLASSES = (ComprehensiveSRStorage, SecondaryCaptureImageStorage)


def score_two_studies(engine, folder):
    write_study(folder, 0)
    write_study(folder, 1, instances=1)
    with run_process(engine) as process:
        run_id = add_run_of(process, folder, embedded=True)
        for job_id in job_ids(engine, run_id):
            score_job(process, job_id)
        with reading(engine) as connection:
            yield process, find_run(connection, run_id)


@pytest.fixture
def scored(engine, tmp_path):
    """A process, and its run of two studies; SQLite and PostgreSQL in turn."""
    yield from score_two_studies(engine, tmp_path / "night")


@pytest.fixture
def scored_once(sqlite_engine, tmp_path):
    yield from score_two_studies(sqlite_engine, tmp_path / "night")


def send(process, run, place, *, kinds=(Kind.REPORT,), tls=NO_TLS, **options):
    destination = open_destination(place, "NIGHTREAD", tls)
    try:
        done = send_run(process, run, destination, kinds, **options)
    finally:
        destination.close()
    return done.sent, done.waiting, done.dead


def list_rows(process):
    with reading(process.engine) as connection:
        return connection.execute(select(deliveries).order_by(deliveries.c.id)).all()


def end_back_off(process):
    write(process.engine, lambda connection: connection.execute(update(deliveries).values(not_before=None)))


def test_each_object_is_sent_once(scored):
    process, run = scored
    with accepting(*CLASSES) as (port, got):
        place = f"PACS@127.0.0.1:{port}"
        assert send(process, run, place) == (2, 0, 0)
        assert send(process, run, place) == (2, 0, 0)
        assert len(got) == 2
        assert {str(one.PatientName) for one in got} == {CANARY}
        assert send(process, run, place, kinds=list(Kind)) == (5, 0, 0)
    assert sorted(one.SOPClassUID for one in got) == sorted([ComprehensiveSRStorage] * 2 + [CLASSES[1]] * 3)
    assert CANARY not in str(list_rows(process))


def test_two_senders_at_once_send_each_object_once(scored):
    process, run = scored
    with accepting(*CLASSES) as (port, got):
        at_once([lambda: send(process, run, f"PACS@127.0.0.1:{port}", kinds=list(Kind)) for _ in range(2)])
    assert len(got) == len({one.SOPInstanceUID for one in got}) == 5


def test_sender_that_dies_before_its_commit_sends_the_same_object_again(scored):
    process, run = scored
    with accepting(*CLASSES) as (port, got):
        place = f"PACS@127.0.0.1:{port}"
        arm("send-after:raise")
        try:
            with pytest.raises(Struck):
                send(process, run, place)
        finally:
            arm("")
        assert send(process, run, place) == (0, 2, 0), "its claims hold until their lease is over"
        end_back_off(process)
        assert send(process, run, place) == (2, 0, 0)
    assert len(got) == 3
    assert got[0] == got[1], "the PACS knows it"


def test_destination_that_is_away_gets_it_later_and_dead_letters_on_request(scored_once):
    process, run = scored_once
    place = f"PACS@127.0.0.1:{find_free_port()}"
    assert send(process, run, place) == (0, 2, 0)
    assert [row.attempts for row in list_rows(process)] == [1, 0], "the second one was not tried in vain"
    assert send(process, run, place) == (0, 2, 0)
    assert [row.attempts for row in list_rows(process)] == [1, 0], "they back off"
    write(process.engine, lambda c: c.execute(update(deliveries).values(not_before=None, attempts=7)))
    assert send(process, run, place) == (0, 1, 1)
    assert "does not answer" in list_rows(process)[0].error
    assert send(process, run, place, revive=True) == (0, 2, 0)


@pytest.mark.parametrize(
    ("answer", "classes", "expected", "line"),
    [
        (0xA700, CLASSES, (0, 2, 0), "status A700"),
        (0xC000, CLASSES, (0, 0, 2), "status C000"),
        (0xB000, CLASSES, (2, 0, 0), None),
        (0x0000, (CTImageStorage,), (0, 0, 2), "takes no objects"),
    ],
)
def test_refusal_is_final_unless_there_is_no_room(scored_once, answer, classes, expected, line):
    process, run = scored_once
    with accepting(*classes, answer=answer) as (port, _):
        assert send(process, run, f"PACS@127.0.0.1:{port}") == expected
    assert line is None or line in list_rows(process)[0].error


def test_only_some_decisions_are_sent_and_no_open_run(scored_once):
    process, run = scored_once
    with accepting(*CLASSES) as (port, got):
        assert send(process, run, f"PACS@127.0.0.1:{port}", only=["nothing"]) == (0, 0, 0)
    assert got == []
    write(process.engine, lambda connection: connection.execute(update(runs).values(finished_at=None)))
    with reading(process.engine) as connection:
        still_open = find_run(connection, run.id)
    with pytest.raises(NightreadError, match="not ended"):
        send(process, still_open, "PACS@127.0.0.1:1")
    for wrong in ("http://user:secret@host/dicom-web", "https://host/x?y=1", "PACS"):
        with pytest.raises(SettingsError) as refused:
            open_destination(wrong, "NIGHTREAD")
        assert "secret" not in str(refused.value)


def test_run_whose_guard_tripped_is_sent_only_if_somebody_says_so(scored_once):
    process, run = scored_once
    write(process.engine, lambda c: c.execute(update(runs).values(guards={"least": 100}, guard=None)))
    with accepting(*CLASSES) as (port, got):
        place = f"PACS@127.0.0.1:{port}"
        with pytest.raises(GuardTripped, match=r"too-few.*--despite-guard") as refused:
            send(process, run, place)
        assert explain(refused.value) == (str(refused.value), Exit.GUARD)
        assert (got, list_rows(process)) == ([], [])
        assert send(process, run, place, only=["nothing"]) == (0, 0, 0), "there is nothing to refuse"
        assert send(process, run, place, despite_guard=True) == (2, 0, 0)


def test_sends_over_tls_to_whom_its_authority_vouches_for(scored_once, tmp_path):
    process, run = scored_once
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    server = TlsFiles(str(tmp_path / "server.pem"), authority=str(tmp_path / "ca.pem")).listen()
    with accepting(*CLASSES, tls=server) as (port, got):
        place = f"PACS@127.0.0.1:{port}"
        trusted, strange = (
            TlsFiles(str(tmp_path / "client.pem"), None, str(tmp_path / f"{n}.pem")) for n in ("ca", "other")
        )
        for tls in (NO_TLS, strange):
            assert send(process, run, place, tls=tls) == (0, 2, 0)
            assert "TLS" in list_rows(process)[0].error
            end_back_off(process)
        assert got == []
        assert send(process, run, place, tls=trusted) == (2, 0, 0)
    for wrong in (
        TlsFiles(certificate="x"),
        TlsFiles(authority="x"),
        TlsFiles(key="x", authority=str(tmp_path / "ca.pem")),
    ):
        with pytest.raises(SettingsError):
            open_destination(place, "NIGHTREAD", wrong)


def test_dcmtk_receives_reports(scored_once, tmp_path):
    process, run = scored_once
    port = find_free_port()
    (tmp_path / "got").mkdir()
    program = subprocess.Popen([find_dcmtk("storescp"), "-od", tmp_path / "got", "-pm", str(port)])
    try:
        wait_for(lambda: send(process, run, f"ANY@127.0.0.1:{port}", revive=True)[0] == 2 or end_back_off(process))
    finally:
        program.kill()
        program.wait()
    got = [pydicom.dcmread(file) for file in (tmp_path / "got").iterdir()]
    assert sorted(one.SOPInstanceUID for one in got) == sorted(row.instance_uid for row in list_rows(process))
    assert {row.status for row in list_rows(process)} == {DeliveryStatus.SENT}


def test_orthanc_receives_reports_and_captures_once_by_two_ways(scored_once, tmp_path):
    process, run = scored_once
    with orthanc(tmp_path / "orthanc") as (http, dicom):
        by_store = send(process, run, f"ORTHANC@127.0.0.1:{dicom}", kinds=list(Kind))
        by_stow = send(process, run, f"http://127.0.0.1:{http}/dicom-web", kinds=list(Kind))
        assert (by_store, by_stow) == ((5, 0, 0), (5, 0, 0)), [row.error for row in list_rows(process)]
        instances = ask_orthanc(http, "/instances?expand")
        assert len(instances) == 5, "the same objects by both ways"
        assert len(ask_orthanc(http, "/studies")) == 2
        tags = [one["MainDicomTags"]["SOPInstanceUID"] for one in instances]
    assert sorted(tags) == sorted({row.instance_uid for row in list_rows(process)})
    assert len(list_rows(process)) == 10
