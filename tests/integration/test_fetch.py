"""A night comes from Orthanc, by DICOMweb and by C-MOVE."""

import json
from datetime import date
from types import SimpleNamespace

import pytest
import trustme

from db.engine import make_engine
from db.schema import upgrade
from nightread.errors import NightreadError, SettingsError
from nightread.settings import read_settings
from pacs.ae_title import Peer
from pacs.archive import ArchiveFailed, PeerArchive, WebArchive
from pacs.fetcher import FetchOptions, fetch, fetch_night
from pacs.intake import Intake
from pacs.listener import Listener, ListenerOptions
from pacs.spool import Spool
from pacs.tls import TlsFiles
from tests.dicom_peers import orthanc, post_orthanc, storescu, write_study
from tests.services import find_free_port
from worker.runs.request import Request

#: pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

NIGHT = date(2026, 11, 29)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An Orthanc with three chest studies of the night, a knee, a CT, and a chest of another day."""
    folder, own = tmp_path_factory.mktemp("archive"), find_free_port()
    files = [file for number in range(3) for file in write_study(folder / "in", number)]
    files += write_study(folder / "in", 3, 1, BodyPartExamined="KNEE")
    files += write_study(folder / "in", 4, 1, Modality="CT")
    files += write_study(folder / "in", 5, 1, StudyDate="20261128")
    with orthanc(folder / "orthanc", {"NIGHTREAD": ["NIGHTREAD", "127.0.0.1", own]}) as (http, dicom):
        storescu(dicom, *files)
        yield SimpleNamespace(http=http, dicom=dicom, own=own)


class Place:
    """A spool, its intake, and the runs that it makes."""

    def __init__(self, folder, **limits):
        self.spool = Spool(folder, **{"max_bytes": 0, "min_free_bytes": 0} | limits)
        self.runs = []
        self.intake = Intake(self.spool, self.make_run, quiet_s=0)

    def make_run(self, batch, on_commit):
        self.runs.append(batch.names)
        on_commit(SimpleNamespace(run_id=batch.key))

    def fetch(self, source, modalities=("CR", "DX")):
        done = fetch_night(source, self.spool, self.intake, NIGHT, modalities, most_per_minute=0)
        return done.found, done.present, done.fetched, done.refused


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "spool")
    yield place
    place.spool.close()


def test_dicomweb_gives_the_chests_of_the_day_once(archive, place, monkeypatch):
    source = WebArchive(f"http://127.0.0.1:{archive.http}/dicom-web/", place.spool, place.intake.note)
    bring, brought = source.bring, []

    def bring_and_break(found):
        if len(brought) == 2:
            raise ArchiveFailed("away")
        brought.append(found)
        bring(found)

    monkeypatch.setattr(source, "bring", bring_and_break)
    with pytest.raises(ArchiveFailed):
        place.fetch(source)
    assert place.runs == []
    monkeypatch.undo()
    assert place.fetch(source) == (6, 2, 4, 0)
    assert place.fetch(source) == (6, 6, 0, 0)
    source.close()
    assert [len(names) for names in place.runs] == [6], "one run, with what the first command fetched"


def test_archive_sends_by_c_move(archive, place):
    options = ListenerOptions(title="NIGHTREAD", host="127.0.0.1", port=archive.own, allowed=["ORTHANC"])
    listener = Listener(place.spool, options, place.intake.note)
    source = PeerArchive(Peer("ORTHANC", "127.0.0.1", archive.dicom), "NIGHTREAD")
    try:
        assert place.fetch(source, ["CR"]) == (6, 0, 6, 0)
        assert place.fetch(source, ["CR"]) == (6, 6, 0, 0)
        source.close()
        stranger = PeerArchive(Peer("ORTHANC", "127.0.0.1", archive.dicom), "STRANGER")
        (found, *_) = source.find(NIGHT, ["CR"])
        with pytest.raises(ArchiveFailed, match="know the AE title STRANGER"):
            stranger.bring(found)
        stranger.close()
    finally:
        source.close()
        listener.close()
    assert [len(names) for names in place.runs] == [6]


def test_archive_sends_by_c_move_over_tls_both_ways(tmp_path):
    authority, own = trustme.CA(), find_free_port()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("orthanc", "nightread"):
        made = authority.issue_cert("127.0.0.1")
        made.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        made.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    peers = {"NIGHTREAD": {"AET": "NIGHTREAD", "Host": "127.0.0.1", "Port": own, "UseDicomTls": True}}
    secured = {
        "DicomTlsEnabled": True, "DicomTlsCertificate": str(tmp_path / "orthanc.pem"),
        "DicomTlsPrivateKey": str(tmp_path / "orthanc.key"), "DicomTlsTrustedCertificates": str(tmp_path / "ca.pem"),
    }  # fmt: skip
    tls = TlsFiles(str(tmp_path / "nightread.pem"), str(tmp_path / "nightread.key"), str(tmp_path / "ca.pem"))
    with orthanc(tmp_path / "orthanc", peers, **secured) as (http, dicom):
        for file in write_study(tmp_path / "in", 0):
            post_orthanc(http, "/instances", file.read_bytes())
        options = FetchOptions(
            source=f"ORTHANC@127.0.0.1:{dicom}", spool=str(tmp_path / "spool"), listen=f"127.0.0.1:{own}", tls=tls
        )
        engine = make_engine(f"sqlite:///{tmp_path}/nightread.db")
        upgrade(engine)
        settings = read_settings(database_url=str(engine.url), broker_url="redis://127.0.0.1:1/0")
        done = fetch(engine, settings, options, NIGHT, Request(name="night"))
        assert (done.found, done.fetched, len(done.runs)) == (2, 2, 1)
        plain = PeerArchive(Peer("ORTHANC", "127.0.0.1", dicom), "NIGHTREAD")
        with pytest.raises(ArchiveFailed, match="TLS"):
            list(plain.find(NIGHT, ["CR"]))
        plain.close()
        engine.dispose()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"source": "nowhere"}, "is no DICOM application"),
        ({"source": "PACS@127.0.0.1:104", "listen": "here"}, "--listen"),
        ({"source": "PACS@127.0.0.1:104", "tls": TlsFiles(authority="none.pem")}, "go together"),
        ({"source": "PACS@127.0.0.1:104", "tls": TlsFiles("none.pem", None, "none.pem")}, "cannot be read"),
        ({"source": "https://host/dicom-web", "tls": TlsFiles(authority="none.pem")}, "REQUESTS_CA_BUNDLE"),
        ({"source": "https://me:secret@host/dicom-web"}, "netrc"),
    ],
)
def test_wrong_source_is_named_before_anything_is_asked(tmp_path, fields, line):
    options = FetchOptions(**{"spool": str(tmp_path)} | fields)
    with pytest.raises(SettingsError, match=line) as refused:
        options.check()
    assert "secret" not in str(refused.value)
    assert FetchOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_archive_that_is_away_and_a_full_spool_end_in_one_line(archive, tmp_path):
    place = Place(tmp_path / "full", min_free_bytes=2**62)
    web = WebArchive(f"http://127.0.0.1:{archive.http}/dicom-web", place.spool, place.intake.note)
    with pytest.raises(NightreadError, match="full after 0"):
        place.fetch(web)
    away = WebArchive(f"http://127.0.0.1:{find_free_port()}/dicom-web", place.spool, place.intake.note)
    with pytest.raises(ArchiveFailed, match="does not answer"):
        place.fetch(away)
    peer = PeerArchive(Peer("PACS", "127.0.0.1", find_free_port()), "NIGHTREAD")
    with pytest.raises(ArchiveFailed, match="does not answer"):
        place.fetch(peer)
    for one in (web, away, peer):
        one.close()
    place.spool.close()
