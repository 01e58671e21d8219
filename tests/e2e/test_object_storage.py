"""Scans in object storage: the same rows as from a folder, and what becomes of faults."""

import gzip
import json
import re
import shlex
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from tests.archives import write_tar, write_zip
from tests.factories import encode_dicom, encode_jpeg, encode_png16, small_chest
from tests.object_store import OWNER, run_object_server, run_python
from tests.program import last_json, make_environment, run, wait_until, worker
from tests.project import read

#: Requests are tried once and not for long.
_HASTE = """
import nightread.scan.object_store as store
store._MOST_RETRIES, store._REQUEST_S = 0, 0.5
"""
_READ = (
    _HASTE
    + """
import json, sys
from pathlib import Path
from nightread.inference.content import read_content
for line in sys.argv[1:]:
    wanted = json.loads(line)
    found = read_content(wanted.pop("path"), [Path("s3://night")], **{"max_bytes": 10**6} | wanted)
    print(json.dumps([found.reason, found.text, found.sha256, found.grown_bytes]))
"""
)
#: Larger than what is read ahead of an archive.
_NOISE = np.random.default_rng(0).bytes(700_000)


@pytest.fixture(scope="module")
def server():
    with run_object_server() as server:
        yield server


@pytest.fixture
def bucket(server, request):
    """Name of a bucket of this test alone."""
    server.fault = lambda *_: None
    return request.node.name.replace("_", "-").partition("[")[0][:60]


@pytest.fixture
def night(tmp_path):
    """A folder with what a walk meets: scans with and without a suffix, a broken one, others."""
    folder = tmp_path / "night"
    (folder / "ward 1").mkdir(parents=True)
    (folder / "ward 1" / "a#1.txt").write_bytes(b"no scan")
    (folder / "ward 1" / "IM0001").write_bytes(encode_dicom(small_chest(1)))
    (folder / "ward 1" / "b.JPG").write_bytes(encode_jpeg(small_chest(2)))
    (folder / "ü\\%.png").write_bytes(encode_png16(small_chest(3)))
    (folder / "text.dcm").write_bytes(b"no scan, whatever its name says")
    (folder / "empty.png").write_bytes(b"")
    (folder / "other.gif").write_bytes(b"GIF89a" + bytes(100))
    (folder / ".hidden.png").write_bytes(b"hidden")
    return folder


def put_night(server, bucket, night):
    server.put(bucket)
    for path in night.rglob("*"):
        if path.is_file():
            key = str(path.relative_to(night))
            server.put(f"{bucket}/2026/{key}", path.read_bytes())


def read_rows(env, tmp_path, run_id, start):
    rows = json.loads(run("results", run_id, "--format", "json", env=env, cwd=tmp_path).stdout)
    shown = ("status", "reason", "reason_text", "sha256", "label", "score", "decision", "size_bytes")
    return {row["path"].removeprefix(start): [row.get(name) for name in shown] for row in rows}


def test_a_night_in_a_bucket_gets_the_rows_of_a_folder(server, bucket, night, tmp_path):
    put_night(server, bucket, night)
    start = f"s3://{bucket}/2026"
    env = make_environment(tmp_path) | server.env | {"NIGHTREAD_MODEL": "pneumonia-cnn75@1"}
    of_folder = last_json(run("score", night, "--json", env=env, cwd=tmp_path))
    of_bucket = last_json(run("score", f"{start}/", "--json", env=env, cwd=tmp_path))

    rows = read_rows(env, tmp_path, of_bucket["run"], f"{start}/")
    assert rows == read_rows(env, tmp_path, of_folder["run"], f"{night}/")
    assert (of_bucket["found"], of_bucket["scored"]) == (len(rows), 3) == (6, 3)
    assert of_bucket["skipped"] == of_folder["skipped"] == 2

    assert last_json(run("score", start, "--only-new", "--json", env=env, cwd=tmp_path))["found"] == 0
    before = (night / "ward 1" / "b.JPG").read_bytes()
    server.put(f"{bucket}/2026/ward 1/b.JPG", before[:-1] + b"\0")  # of the same size, perhaps in the same second
    assert last_json(run("score", start, "--only-new", "--json", env=env, cwd=tmp_path))["found"] == 1

    shown = json.loads(run("predict", f"{start}/ward 1/IM0001", "--json", env=env, cwd=tmp_path).stdout)
    assert shown[0]["path"] == f"{start}/ward 1/IM0001"
    assert shown[0]["labels"]


def test_throttling_is_a_failure_that_retry_mends(server, bucket, night, tmp_path, postgres_url, redis_url):
    put_night(server, bucket, night)
    env = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, max_attempts=1, threads=1, sweep_s=1, lease_s=4,
        scan_roots=f"s3://{bucket}", model="pneumonia-cnn75@1",
    )  # fmt: skip
    env |= server.env
    run("db", "upgrade", env=env, cwd=tmp_path)
    server.fault = lambda method, path: 503 if path.endswith(("IM0001", "b.JPG")) else None
    hook = tmp_path / "haste"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_HASTE)
    with worker(env | {"PYTHONPATH": str(hook)}, tmp_path, tmp_path / "worker.log"):
        # The list needs the first bytes of what has no suffix: without them it is a row all the same.
        haste = env | {"PYTHONPATH": str(hook)}
        enqueued = run("enqueue", f"s3://{bucket}/2026", "--wait", "--json", env=haste, cwd=tmp_path, expect=3)
        failed = json.loads(run("results", "--status", "failed", "--format", "json", env=env, cwd=tmp_path).stdout)
        assert {row["reason"] for row in failed} == {"storage-error"}
        assert len(failed) == 2
        server.fault = lambda *_: None
        run("retry", last_json(enqueued)["run"], env=env, cwd=tmp_path)
        ended = lambda: last_json(run("status", "--json", env=env, cwd=tmp_path))  # noqa: E731
        wait_until(lambda: ended()["status"] == "finished", "the retried scans")
    assert (ended()["scored"], ended()["failed"]) == (3, 0)
    said = (tmp_path / "worker.log").read_text()
    assert "n0-secret" not in said
    assert "IM0001" not in said


@pytest.fixture
def archives(night, tmp_path):
    """A folder with what a walk meets in archives: scans, others, and what is refused."""
    folder = tmp_path / "archives"
    (folder / "day").mkdir(parents=True)
    paths = [path for path in sorted(night.rglob("*")) if path.is_file()]
    large = encode_png16(np.frombuffer(_NOISE, np.uint16).reshape(500, 700))
    members = [(str(path.relative_to(night)), path.read_bytes()) for path in paths]
    members += [("large.png", large), ("a//b.jpg", b"no scan"), ("../out.png", b"leads out")]
    write_zip(folder / "night.zip", members)
    write_zip(folder / "day" / "stored", members, zipfile.ZIP_STORED)
    write_tar(folder / "night.tar", [*members, ("large.png", large)])
    write_tar(folder / "night.tgz", members, "w:gz")
    (folder / "cut.tar").write_bytes((folder / "night.tar").read_bytes()[:9_000])
    (folder / "damaged.zip").write_bytes((folder / "night.zip").read_bytes()[:-400])
    (folder / "bomb.zip").write_bytes(write_zip(tmp_path / "bomb", [("1.png", bytes(70 * 2**20))]).read_bytes())
    (folder / "text.gz").write_bytes(gzip.compress(b"no archive"))
    return folder


def test_archives_in_a_bucket_get_the_rows_of_a_folder(server, bucket, archives, tmp_path):
    put_night(server, bucket, archives)
    start = f"s3://{bucket}/2026"
    env = make_environment(tmp_path) | server.env | {"NIGHTREAD_MODEL": "pneumonia-cnn75@1"}
    of_folder = last_json(run("score", archives, "--archives", "--json", env=env, cwd=tmp_path, expect=4))
    server.asked.clear()
    of_bucket = last_json(run("score", start, "--archives", "--json", env=env, cwd=tmp_path, expect=4))

    rows = read_rows(env, tmp_path, of_bucket["run"], f"{start}/")
    assert rows == read_rows(env, tmp_path, of_folder["run"], f"{archives}/")
    assert of_bucket["skipped_by_reason"] == of_folder["skipped_by_reason"]
    assert rows["night.zip!ward 1/IM0001"][0] == rows["day/stored!large.png"][0] == "scored"
    assert {rows[name][1] for name in ("cut.tar", "damaged.zip", "bomb.zip")} == {"damaged", "too-large"}
    # What is read of an archive is its part, not the whole of it for each member.
    assert len(server.asked) < 200, len(server.asked)

    member = f"{start}/night.zip!ward 1/IM0001"
    (shown,) = json.loads(run("predict", member, "--archives", "--json", env=env, cwd=tmp_path).stdout)
    assert shown["path"] == member
    assert shown["labels"]
    anew = [("score", source, "--archives", "--only-new", "--json") for source in (archives, start)]
    skipped = [last_json(run(*words, env=env, cwd=tmp_path, expect=4))["skipped_by_reason"] for words in anew]
    assert skipped[0] == skipped[1]
    assert skipped[1]["already-scored"] > 30


def test_each_fault_of_an_archive_in_a_bucket_has_its_reason(server, tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("1.jpg", encode_jpeg()), ("big.jpg", _NOISE)], zipfile.ZIP_STORED)
    server.put("night")
    for name in ("good", "slow", "throttled", "forbidden"):
        server.put(f"night/{name}.zip", archive.read_bytes())
    server.fault = lambda method, path: {"slow": 2.0, "throttled": 503, "forbidden": 403}.get(Path(path).stem)
    paths = (
        "night/good.zip!1.jpg", "night/good.zip!none.jpg", "night/good.zip!big.jpg", "night/gone.zip!1.jpg",
        "night/slow.zip!1.jpg", "night/throttled.zip!1.jpg", "night/forbidden.zip!1.jpg", "other/good.zip!1.jpg",
    )  # fmt: skip
    asked = [{"path": f"s3://{path}", "archives": True, "max_bytes": 500_000} for path in paths]
    asked += [asked[0] | {"settle_s": 60}, asked[0] | {"archives": False}]
    said = run_python(_READ, server.env, *map(json.dumps, asked))
    assert [json.loads(line)[0] for line in said.splitlines()] == [
        None, "missing-file", "too-large", "missing-file", "storage-error", "storage-error", "permission-denied",
        "outside-roots", "still-changing", "missing-file",
    ]  # fmt: skip


def test_a_member_is_read_of_one_version_of_its_archive(server, bucket, tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("1.jpg", _NOISE)], zipfile.ZIP_STORED)
    server.put(bucket)
    server.put(f"{bucket}/a.zip", archive.read_bytes())
    code = """
import json, sys, urllib.request
from pathlib import Path
from nightread.errors import StorageError
from nightread.scan.archives import list_archive
from nightread.scan.object_store import open_object
path, roots = f"{sys.argv[1]}/a.zip", [Path(sys.argv[1])]
archive = list_archive(open_object(path, roots, 0.0))
request = urllib.request.Request(sys.argv[2], b"other", json.loads(sys.argv[3]), method="PUT")
urllib.request.urlopen(request).read()
try:
    archive.read(archive.members["1.jpg"], 700_000)
except StorageError as error:
    print(error)
"""
    said = run_python(code, server.env, f"s3://{bucket}", f"{server.url}/{bucket}/a.zip", json.dumps(OWNER))
    assert said == "the object was replaced while it was read; retry\n"


def test_a_key_that_reads_like_a_member_is_refused_beside_archives(server, bucket, tmp_path):
    server.put(bucket)
    server.put(f"{bucket}/a!1.png", encode_png16(small_chest(1)))
    env = make_environment(tmp_path, model="pneumonia-cnn75@1") | server.env
    run("score", f"s3://{bucket}", env=env, cwd=tmp_path)
    run("score", f"s3://{bucket}", "--archives", env=env, cwd=tmp_path, expect=4)
    (row,) = json.loads(run("results", "--format", "json", env=env, cwd=tmp_path).stdout)
    assert (row["status"], row["reason"]) == ("rejected", "unsupported-format")
    assert "copy it to another one" in row["reason_text"]


def test_each_fault_of_an_object_has_its_reason(server, tmp_path):
    server.put("night")
    for name in ("good", "big", "late", "slow", "throttled", "broken", "forbidden", "empty", "new"):
        server.put(f"night/{name}", b"" if name == "empty" else name.encode() * 100)
    faults = {"slow": 2.0, "throttled": 503, "broken": 500, "forbidden": 403}
    server.fault = lambda method, path: faults.get(path.rpartition("/")[2])
    asked = [
        {"path": "s3://night/good"}, {"path": "s3://night/big", "max_bytes": 10},
        {"path": "s3://night/late", "expected_bytes": 10}, {"path": "s3://night/gone"},
        *({"path": f"s3://night/{name}"} for name in (*faults, "empty")), {"path": "s3://night/new", "settle_s": 60},
        {"path": "s3://other/good"},
    ]  # fmt: skip
    said = run_python(_READ, server.env, *map(json.dumps, asked))
    found = [json.loads(line) for line in said.splitlines()]
    assert [reason for reason, *_ in found] == [
        None, "too-large", "storage-error", "missing-file", *["storage-error"] * 3, "permission-denied", "empty-file",
        "still-changing", "outside-roots",
    ]  # fmt: skip
    assert found[0][2] == sha256(b"good" * 100).hexdigest()
    assert found[2][3] == 400
    assert not any("night" in text or server.url in text for _, text, *_ in found)


def test_what_is_read_is_one_version_of_an_object_that_changed_after_it_was_listed(server, bucket, tmp_path):
    server.put(bucket)
    server.put(f"{bucket}/a.png", b"first")
    code = """
import json, sys, urllib.request
from hashlib import sha256
from pathlib import Path
from nightread.inference.content import read_content
from nightread.scan.walk import Walk, find_scans
start, = roots = [Path(sys.argv[1])]
(listed,) = find_scans(roots, Walk(), roots=roots)
request = urllib.request.Request(sys.argv[2], b"other", json.loads(sys.argv[3]), method="PUT")
urllib.request.urlopen(request).read()
(again,) = find_scans(roots, Walk(), roots=roots)
content = read_content(listed.path, roots, 100, listed.size_bytes)
assert content.sha256 == sha256(b"other").hexdigest(), content
assert content.data == b"other"
assert listed.size_bytes == again.size_bytes == 5
assert listed.modified_ns != again.modified_ns
print("alike")
"""
    said = run_python(code, server.env, f"s3://{bucket}", f"{server.url}/{bucket}/a.png", json.dumps(OWNER))
    assert said == "alike\n"


def test_a_list_that_fails_enqueues_nothing(server, bucket, tmp_path):
    server.put(bucket)
    server.put(f"{bucket}/a/a.png", b"first")
    env = make_environment(tmp_path) | server.env

    def refuse(path, expect, why, **given):
        done = run("score", path, env=env | given, cwd=tmp_path, expect=expect)
        assert re.search(why, done.stderr), done.stderr
        assert done.stdout == ""
        assert "SECRET" not in done.stderr

    refuse(f"s3://{bucket}/none", 6, "no scans in s3://")
    refuse("s3://nowhere", 1, "there is no bucket s3://nowhere")
    refuse(f"https://x.example/{bucket}?X-Amz-Signature=SECRET", 2, "not read")
    refuse(f"s3://{bucket}/a?sig=SECRET", 2, "no \\?")
    refuse(f"s3://{bucket}/a", 2, "outside", NIGHTREAD_SCAN_ROOTS=f"s3://{bucket}/b:{tmp_path}")
    server.fault = lambda *_: 403
    refuse(f"s3://{bucket}", 1, "credentials")
    server.fault = lambda *_: 503
    refuse(f"s3://{bucket}", 5, "nothing was enqueued", PYTHONPATH=str(write_hook(tmp_path)))
    assert json.loads(run("runs", "--json", env=env, cwd=tmp_path).stdout)[0]["found"] == 0


def write_hook(folder: Path) -> Path:
    hook = folder / "haste"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_HASTE)
    return hook


def test_paths_from_a_list_may_be_objects(server, bucket, night, tmp_path):
    put_night(server, bucket, night)
    env = make_environment(tmp_path, model="pneumonia-cnn75@1") | server.env
    (tmp_path / "list").write_text(
        f"s3://{bucket}/2026/ward 1/b.JPG\ns3://{bucket}/2026/gone.png\n"
        f"{night}/ward 1/IM0001\ns3://{bucket}/2026/ward 1/IM0001\n"
    )
    run("score", "--from-file", tmp_path / "list", env=env, cwd=tmp_path, expect=3)
    rows = json.loads(run("results", "--format", "json", env=env, cwd=tmp_path).stdout)
    assert {row["path"].rpartition("/")[2]: row["status"] for row in rows} == {
        "b.JPG": "scored", "gone.png": "failed", "IM0001": "scored",
    }  # fmt: skip
    assert len(rows) == 4


def test_google_cloud_storage_is_read_alike(server, bucket, night, tmp_path):
    put_night(server, bucket, night)
    key = {
        "gcs_base_url": server.url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    env = make_environment(tmp_path, model="pneumonia-cnn75@1") | server.env
    env |= {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key), "GOOGLE_ALLOW_HTTP": "true"}
    scored = last_json(run("score", f"gs://{bucket}/2026", "--json", env=env, cwd=tmp_path))
    assert (scored["found"], scored["scored"], scored["failed"]) == (6, 3, 0)


def test_keys_come_from_the_file_of_aws_too(server, bucket, tmp_path):
    server.put(bucket)
    server.put(f"{bucket}/a.png", b"first")
    (tmp_path / "keys").write_text(
        "[default]\naws_access_key_id=other\n[night]\naws_access_key_id=owner\naws_secret_access_key=n0-secret\n"
    )
    env = {name: value for name, value in server.env.items() if "KEY" not in name}
    env |= {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "keys"), "AWS_PROFILE": "night"}
    code = (
        "import os; from nightread.scan.object_store import _read_key_file; print(sorted(_read_key_file(os.environ)))"
    )
    assert run_python(code, env) == "['access_key_id', 'secret_access_key']\n"


def test_the_commands_of_the_page_run(page_lines, server, tmp_path, night, postgres_url, redis_url):
    """With the page's bucket on this server, and the server's own keys and address."""
    page = read("docs/how-to/object-storage.md")
    put_night(server, "hospital-scans", night)
    for path in night.rglob("*.JPG"):
        for place in ("ward-a/2026-11-28", "ward-a/2026-11-28/b"):
            server.put(f"hospital-scans/{place}/{path.name}", path.read_bytes())
    env = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, model="pneumonia-cnn75@1",
        scan_roots=re.search(r"NIGHTREAD_SCAN_ROOTS=(\S+)", page)[1],
    )  # fmt: skip
    env |= server.env
    run("db", "upgrade", env=env, cwd=tmp_path)
    for line in page_lines:
        if line.words:
            run(*line.words, env=env, cwd=tmp_path)
        else:
            exported = shlex.split(line.text)[1:]
            assert {word.partition("=")[0] for word in exported} <= set(server.env), exported
