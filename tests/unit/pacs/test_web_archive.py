"""DICOMweb servers that answer otherwise than they should."""

import http.server
import threading
from datetime import date
from types import SimpleNamespace

import pytest
from pydicom import Dataset, dcmread

from pacs import archive
from pacs.archive import ArchiveFailed, WebArchive
from pacs.destination import Refused, StowServer
from pacs.fetcher import fetch_night
from pacs.intake import Intake
from pacs.spool import Spool
from tests.factories import small_chest, write_dicom

NIGHT = date(2026, 11, 29)
SERIES = {"0020000D": {"vr": "UI", "Value": ["1.2"]}, "0020000E": {"vr": "UI", "Value": ["1.2.3"]}}


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Return the function that fetches a night from a server with these answers to its searches for instances."""
    spool = Spool(tmp_path / "spool", max_bytes=0, min_free_bytes=0)
    intake = Intake(spool, lambda batch, on_commit: on_commit(SimpleNamespace(run_id=batch.key)), quiet_s=0)
    source = WebArchive("http://pacs.example/dicom-web", spool, intake.note)
    monkeypatch.setattr(archive, "_PAGE", 2)

    def fetch_from(instances, retrieved=None):
        def search(*_, offset, **__):
            return instances if offset < 10 else pytest.fail("the search has no end")

        def retrieve(*uids):
            return retrieved or Dataset.from_json({"00080018": {"vr": "UI", "Value": [uids[-1]]}})

        client = SimpleNamespace(
            search_for_series=lambda **_: [SERIES], search_for_instances=search, retrieve_instance=retrieve
        )
        monkeypatch.setattr(source, "_client", client)
        return fetch_night(source, spool, intake, NIGHT, ["CR"], most_per_minute=0)

    yield fetch_from
    source.close()
    spool.close()


def name_instance(uid):
    return {"00080018": {"vr": "UI", "Value": [uid]}}


def test_an_instance_whose_name_is_a_path_is_refused_and_written_nowhere(fetch, tmp_path):
    for name in (f"{tmp_path}/evil", "../../evil"):
        done = fetch([name_instance(name)])
        assert (done.found, done.refused, done.fetched) == (1, 1, 0)
    assert list(tmp_path.rglob("*.dcm")) == []


def test_a_server_that_ignores_the_offset_is_asked_twice(fetch):
    assert fetch([name_instance("no UID"), name_instance("none")]).found == 2


@pytest.mark.parametrize("answer", [[{"00080018": 5}], [5], [{"x": {"vr": "UI"}}], [None]])
def test_an_answer_that_is_no_dicom_ends_in_one_line(fetch, answer):
    with pytest.raises(ArchiveFailed, match="cannot be read"):
        fetch(answer)


def test_an_instance_that_cannot_be_stored_ends_in_one_line(fetch):
    with pytest.raises(ArchiveFailed, match="does not give an instance"):
        fetch([name_instance("1.2.3.4")], retrieved=object())


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_an_object_that_is_redirected_goes_nowhere_else(tmp_path, code):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            self.send_response(code)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            asked.append(self.path)

        def log_message(self, *_):
            pass

    write_dicom(tmp_path / "chest.dcm", small_chest())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        destination = StowServer(f"http://127.0.0.1:{server.server_port}")
        try:
            with pytest.raises(Refused, match=f"HTTP status {code}") as refused:
                destination.send(dcmread(tmp_path / "chest.dcm"))
        finally:
            destination.close()
            server.shutdown()
    assert asked == ["/studies"]
    assert not refused.value.is_final
