"""Downloads from a local server that disconnects, changes its file, fails or sends wrong headers."""

import hashlib
import io
import json
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from cli.main import app
from trainer.data import download as download_module
from trainer.data.download import download, unpack
from trainer.data.sources import SOURCES, fetch, find_source
from trainer.errors import DatasetError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
COMMIT = "6" * 40


def ignore(done, total):
    pass


@dataclass
class Behaviour:
    """Behaviour of the server, and the requests that it received."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    break_after: list[int] = field(default_factory=list)  # bytes of the first answers, then whole ones
    errors: list[int] = field(default_factory=list)  # of the first answers
    understands_ranges: bool = True
    seen: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serve(behaviour):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            behaviour.seen.append(dict(self.headers))
            if behaviour.errors:
                self.send_error(behaviour.errors.pop(0))
                return
            content, start = behaviour.content, 0
            asked = self.headers.get("Range")
            if asked and behaviour.understands_ranges and self.headers.get("If-Range") == behaviour.etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if behaviour.etag:
                self.send_header("ETag", behaviour.etag)
            self.end_headers()
            end = start + behaviour.break_after.pop(0) if behaviour.break_after else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/data.zip"
    finally:
        server.shutdown()
        server.server_close()


def pack(files, comment=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


def test_a_whole_file_comes_with_its_digest(tmp_path):
    told = []
    with serve(Behaviour()) as url:
        got = download(url, tmp_path / "a.zip", report=lambda *progress: told.append(progress))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert got.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_a_broken_download_goes_on_where_it_was(tmp_path):
    behaviour = Behaviour(break_after=[300_000, 200_000, *[50_000] * 6])  # more often than is waited for in vain
    with serve(behaviour) as url:
        download(url, tmp_path / "a.zip", report=ignore, pause_s=0.01)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    asked = [headers.get("Range") for headers in behaviour.seen]
    assert asked[:4] == [None, "bytes=300000-", "bytes=500000-", "bytes=550000-"]
    assert len(asked) == 9


def test_a_download_that_was_killed_goes_on_in_the_next_process(tmp_path):
    def kill(done, total):
        if done:
            raise KeyboardInterrupt

    behaviour = Behaviour(content=CONTENT * 3)
    with serve(behaviour) as url:
        with pytest.raises(KeyboardInterrupt):
            download(url, tmp_path / "a.zip", report=kill)
        assert not (tmp_path / "a.zip").exists()
        download(url, tmp_path / "a.zip", report=ignore)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT * 3
    assert behaviour.seen[1]["Range"] == f"bytes={download_module._PIECE_BYTES}-"


def test_two_editions_of_a_file_are_never_joined(tmp_path):
    behaviour = Behaviour(break_after=[300_000])
    with serve(behaviour) as url:
        behaviour.errors = []

        def change(done, total):
            behaviour.content, behaviour.etag = CONTENT[::-1], '"two"'

        download(url, tmp_path / "a.zip", report=change, pause_s=0.01)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("change", [{"understands_ranges": False}, {"etag": None}, {"etag": 'W/"one"'}])
def test_a_server_that_cannot_go_on_is_asked_for_everything(tmp_path, change):
    behaviour = replace(Behaviour(break_after=[300_000]), **change)
    with serve(behaviour) as url:
        download(url, tmp_path / "a.zip", report=ignore, pause_s=0.01)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_server_that_stumbles_is_asked_again(tmp_path):
    behaviour = Behaviour(errors=[503, 500])
    with serve(behaviour) as url:
        download(url, tmp_path / "a.zip", report=ignore, pause_s=0.01)
    assert len(behaviour.seen) == 3


def test_a_refusal_is_told_at_once(tmp_path):
    behaviour = Behaviour(errors=[404])
    with serve(behaviour) as url, pytest.raises(DatasetError, match=r"was refused \(404 .*--data"):
        download(url, tmp_path / "a.zip", report=ignore)
    assert len(behaviour.seen) == 1


def test_without_a_network_one_line_says_what_to_do(tmp_path):
    with serve(Behaviour()) as url:
        pass
    with pytest.raises(DatasetError, match=r"could not be fetched .*Connection refused.*repeat the command"):
        download(url, tmp_path / "a.zip", report=ignore, pause_s=0.001)


def test_another_digest_is_refused_and_nothing_stays(tmp_path):
    with serve(Behaviour()) as url, pytest.raises(DatasetError, match="not 0000"):
        download(url, tmp_path / "a.zip", sha256="0" * 64, report=ignore)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_told_before_anything_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with serve(Behaviour()) as url, pytest.raises(DatasetError, match=r"1,000 bytes free; 1,048,576 are needed"):
        download(url, tmp_path / "a.zip", report=ignore)


def test_an_archive_is_unpacked_without_its_top_folder_and_clutter(tmp_path):
    (tmp_path / "a.zip").write_bytes(
        pack(
            {"repo/metadata.csv": "a", "repo/images/1.png": "b", "__MACOSX/repo/x": "c", "repo/.DS_Store": "d"},
            COMMIT.encode(),
        )
    )
    assert unpack(tmp_path / "a.zip", tmp_path / "out", comment=COMMIT) == 2
    assert (tmp_path / "out/metadata.csv").read_text() == "a"
    assert (tmp_path / "out/images/1.png").read_text() == "b"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil"])
def test_paths_that_lead_out_unpack_nothing(tmp_path, name):
    (tmp_path / "a.zip").write_bytes(pack({"fine": "a", name: "b"}))
    with pytest.raises(DatasetError, match="out of its folder; nothing was unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_links_unpack_nothing(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DatasetError, match="holds a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_bombs_unpack_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_MAX_UNPACKED_BYTES", 10_000)
    (tmp_path / "a.zip").write_bytes(pack({"bomb": b"\0" * 20_000}))
    with pytest.raises(DatasetError, match="would unpack to 20,000 bytes"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-30], lambda data: data.replace(b"\x4b", b"\x4c", 1), lambda _: b"no"]
)
def test_damaged_archives_leave_nothing(tmp_path, damage):
    (tmp_path / "a.zip").write_bytes(damage(pack({"a": b"\x4b" * 1000})))
    with pytest.raises(DatasetError, match="is no intact ZIP archive"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_byte_that_changed_inside_is_found(tmp_path):
    data = bytearray(pack({"a": b"scan" * 1000}))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        data[archive.infolist()[0].header_offset + 40] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DatasetError, match="is no intact ZIP archive"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_another_commit_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(pack({"a": "b"}, b"7" * 40))
    with pytest.raises(DatasetError, match="is another edition"):
        unpack(tmp_path / "a.zip", tmp_path / "out", comment=COMMIT)


@pytest.fixture
def covid_zip():
    rows = "patientid,finding,filename,modality\n1,SARS,a.jpg,X-ray\n2,COVID-19,b.jpg,X-ray\n"
    return pack({"repo-6/metadata.csv": rows, "repo-6/images/a.jpg": "a", "repo-6/images/b.jpg": "b"}, COMMIT.encode())


def test_a_data_set_is_fetched_once_and_says_what_came(tmp_path, covid_zip):
    behaviour = Behaviour(content=covid_zip)
    with serve(behaviour) as url:
        source = replace(find_source("covid", None), url=url, comment=COMMIT)
        fetched = fetch(source, tmp_path / "covid", report=ignore)
        again = fetch(source, tmp_path / "covid", report=ignore)
    assert (fetched.scans, fetched.new, again.scans, again.new) == (2, True, 2, False)
    assert len(behaviour.seen) == 1
    told = json.loads((tmp_path / "covid/SOURCE.json").read_text())
    assert told["sha256"] == hashlib.sha256(covid_zip).hexdigest()
    assert (told["scans"], told["files"]) == (2, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["covid"]


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("x")
    with pytest.raises(DatasetError, match="was not fetched by this command"):
        fetch(find_source("covid", None), tmp_path / "mine", report=ignore)


def test_too_few_scans_are_told(tmp_path):
    archive = pack({"chest_xray/train/NORMAL/IM-1-1.jpeg": "a", "chest_xray/train/PNEUMONIA/person1_virus_1.jpeg": "b"})
    with serve(Behaviour(content=archive)) as url:
        source = replace(find_source("pediatric", "mendeley"), url=url)
        with pytest.raises(DatasetError, match="holds 2 scans; pediatric has 5856"):
            fetch(source, tmp_path / "chest_xray", report=ignore)


def test_unknown_places_are_told():
    with pytest.raises(DatasetError, match="it is from: mendeley, kaggle"):
        find_source("pediatric", "github")
    with pytest.raises(DatasetError, match="there are: covid, pediatric"):
        find_source("adult", None)


def test_kaggle_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kagglehub", None)
    with pytest.raises(DatasetError, match="uv sync --extra data"):
        fetch(find_source("pediatric", "kaggle"), tmp_path / "out", report=ignore)


def test_kaggles_errors_become_one_line(tmp_path, monkeypatch):
    class Library:
        @staticmethod
        def dataset_download(handle, output_dir):
            raise ConnectionError("no\nroute")

    monkeypatch.setitem(__import__("sys").modules, "kagglehub", Library)
    with pytest.raises(DatasetError, match=r"did not send paultimothymooney/chest-xray-pneumonia \(no route\)"):
        fetch(find_source("pediatric", "kaggle"), tmp_path / "out", report=ignore)


def test_every_address_is_encrypted():
    assert all(source.url.startswith("https://") or source.kaggle for places in SOURCES.values() for source in places)


def test_help_ends_in_an_example():
    result = CliRunner().invoke(app, ["data", "fetch", "--help"])
    assert "Example: nightread data fetch pediatric --out chest_xray" in " ".join(result.stdout.split())
