"""Scans in object storage: the same rows as from a folder, and what becomes of faults."""

import json
import re
import shlex
from hashlib import sha256
from pathlib import Path

import pytest

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
