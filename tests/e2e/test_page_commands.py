"""The commands of the pages that need neither TensorFlow nor a PACS, in the order of their page."""

import contextlib
import csv
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from datetime import timedelta

import numpy as np
import pytest
import trustme
from PIL import Image
from sqlalchemy import select

from db.engine import make_engine, reading, write
from db.marks import NewMark, store_mark
from db.runs import find_run
from db.tables import scans
from db.types import MarkKind
from nightread.model.drift import summarise
from tests.factories import encode_dicom, make_metric, make_operating_points, small_chest, write_jpeg
from tests.faults.forking import Forker
from tests.onnx_factories import make_gate, write_tiny_bundle
from tests.program import PROGRAM, make_environment, run, worker
from tests.services import run_webhook

#: What stands for the words of the pages here.
WORDS = {
    "/media/new/pneumonia-cnn75/2": "new/tiny/2", "build/bundles/pneumonia-lite0/5": "new/tiny/5",
    "pneumonia-cnn75": "tiny", "pneumonia-lite0": "tiny", "our-scans": "site", "/srv/results": "objects",
    "RUN": "ward-a", "2026-11-20": "ward-a", "ward-a 2026-11-28": "ward-a",
}  # fmt: skip


@pytest.fixture(scope="module")
def forker(tmp_path_factory):
    forker = Forker(tmp_path_factory.mktemp("forker"))
    yield forker
    forker.close()


@pytest.fixture
def webhook():
    with run_webhook() as server:
        yield server


def draw_site(folder):
    """Write scans that are brighter with pneumonia, in a folder for each label, and their labels as a file."""
    rng = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for label, mean in (("normal", 110), ("pneumonia", 150)):
            (folder / "site" / label).mkdir(parents=True)
            for number in range(30):
                pixels = np.clip(rng.normal(mean + rng.normal(0, 10), 30, (40, 48)), 0, 255).astype(np.uint8)
                path = folder / "site" / label / f"{number}.png"
                Image.fromarray(pixels).save(path)
                writer.writerow([path, label])


def write_bundles(models, new):
    rng = np.random.default_rng(1)
    names = ("brightness", "contrast", "darkest", "brightest", "detail", "symmetry", "score")
    measured = {name: rng.uniform(0.2, 0.8, 700) for name in names}
    card = {
        "operating_points": {"pneumonia": make_operating_points()},
        "metrics": {"hold-out": {"auc": make_metric(0.9), "ece": make_metric(0.1)}},
        "gate": make_gate(max_distance=9.0, doubtful_distance=8.0),
        "drift_reference": summarise(measured, rejected_share=0.0).model_dump(mode="json"),
    }
    write_tiny_bundle(models, "1", **card)
    for version in ("2", "5"):
        write_tiny_bundle(new, version, **card)


def mark_all(database_url):
    engine = make_engine(database_url)
    with reading(engine) as connection:
        run = find_run(connection, "ward-a")
        ids = connection.execute(select(scans.c.id).where(scans.c.run_id == run.id)).scalars().all()
    for scan_id in ids:
        mark = NewMark(scan_id, "ana", MarkKind.AGREE)
        write(engine, lambda connection, mark=mark: store_mark(connection, run.id, run.model_digest, mark))
    engine.dispose()


def replace_words(text, replaced):
    for shown, here in replaced.items():
        text = text.replace(shown, str(here))
    return text


def read_exports(text):
    """Return the variables of a line `export NAME=VALUE ...`."""
    command, *assignments = shlex.split(text)
    assert command == "export", text
    return dict(assignment.split("=", 1) for assignment in assignments)


def find_night(database_url):
    """Return the night of the run: the module may have been imported before noon, and the run begun after it."""
    engine = make_engine(database_url)
    with reading(engine) as connection:
        begun = find_run(connection, "ward-a").created_at
    engine.dispose()
    return (begun.astimezone() - timedelta(hours=12)).date().isoformat()


def fit(words, night):
    words = [replace_words(word, WORDS | {"2026-11-28": night}) for word in words]
    if words[:2] == ["models", "promote"]:
        return [*words, "--yes"]  # there is no terminal to ask on
    if words[0] == "evaluate" and importlib.util.find_spec("matplotlib") is None:
        return words[: words.index("--out")]  # the report needs the extra `train`
    return words


def test_the_commands_of_the_pages_run(page_lines, forker, webhook, tmp_path):
    database_url = f"sqlite:///{tmp_path / 'night.db'}"
    told = f"json://127.0.0.1:{webhook.server_port}/"
    env = make_environment(
        tmp_path, database_url=database_url, models_dir=tmp_path / "models", model="tiny@1", device="cpu", threads=1,
        notify_urls=told, broker_url="redis://127.0.0.1:1/0",  # `schedule` asks for one, and sends nothing to it here
    )  # fmt: skip
    draw_site(tmp_path)
    write_bundles(tmp_path / "models", tmp_path / "new")

    def run(*words):
        before = forker.log.stat().st_size if forker.log.exists() else 0
        code = forker.run(*words, env=env)
        said = forker.log.read_bytes()[before:].decode(errors="replace")
        assert (code, "Traceback" in said) == (0, False), f"{words}\n{said}"

    for ward in ("ward-may", "ward-a"):
        run("score", tmp_path / "site", "--name", ward)
    mark_all(database_url)
    night = find_night(database_url)
    labels = (tmp_path / "labels.csv").read_text()
    for line in sorted(page_lines, key=lambda line: line.page == "README.md"):  # another page imports its model
        (tmp_path / "labels.csv").write_text(labels)
        if line.words:
            run(*fit(line.words, night))
        else:
            assert read_exports(line.text).keys() <= env.keys(), line
    assert len(webhook.told) >= 3, "two ends of runs, and the one that was asked for"
    assert {file.name for file in tmp_path.glob("*.html")} >= {"ward-a.html"}
    assert (tmp_path / "models" / "tiny" / "5-our-ward").is_dir()


def test_workers_of_the_readme_score_a_night(page_lines, tmp_path, postgres_url, redis_url):
    for number in range(3):
        write_jpeg(tmp_path / "scans" / "2026-11-20" / f"{number}.jpg", small_chest(number))
    places = {
        "postgresql://nightread:PASSWORD@db.example/nightread": postgres_url,
        "redis://:PASSWORD@queue.example:6379/0": redis_url, "/scans": tmp_path / "scans",
    }  # fmt: skip
    env = make_environment(tmp_path, device="cpu", sweep_s=1)
    with contextlib.ExitStack() as stack:
        for line in page_lines:
            if not line.words:
                env |= read_exports(replace_words(line.text, places))
            elif line.words == ["worker"]:
                stack.enter_context(worker(env, tmp_path, tmp_path / "worker.log"))
            else:
                done = run(*(replace_words(word, places) for word in line.words), env=env, cwd=tmp_path)
    assert "3 found = 3 scored + 0 rejected + 0 failed" in done.stdout


@contextlib.contextmanager
def serving(words, env, folder):
    """Start `nightread web` on a free port of this host, and yield its address."""
    if "--listen" not in words:
        words = [*words, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([PROGRAM, *words], env=env, cwd=folder, stderr=subprocess.PIPE, text=True)
    with process:
        found = (re.search(r"https?://[\d.]+:\d+", line) for line in process.stderr)
        try:
            yield next(filter(None, found))[0]
        finally:
            process.terminate()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_page_and_its_api_answer(page_lines, tmp_path, redis_url):
    scan = tmp_path / "scans" / "ward-a" / "1.dcm"
    scan.parent.mkdir(parents=True)
    scan.write_bytes(encode_dicom(small_chest(1), StudyInstanceUID="1.2.840.1"))
    certificate = trustme.CA().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    users = tmp_path / "users"
    (tmp_path / "oidc").write_text("n0-secret" * 4)  # as long as one that signs sessions
    places = {
        "/etc/nightread/users": users,
        "/etc/nightread/oidc": tmp_path / "oidc",
        "0.0.0.0:8443": "127.0.0.1:0",
        '"/scans': f'"{tmp_path / "scans"}',
    }
    env = make_environment(
        tmp_path, broker_url=redis_url, scan_roots=tmp_path / "scans", web_users_file=users, device="cpu"
    )

    def shell(text):
        command = ["bash", "-c", f"set -o pipefail; {text}"]
        return subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    (make_token,) = [line.text for line in page_lines if line.text.startswith("openssl")]
    env["TOKEN"] = shell(make_token).strip()
    users.write_text(f"cem operate {env['TOKEN']}\n")
    users.chmod(0o600)
    run("score", scan.parent, env=env, cwd=tmp_path)
    asked = [line.text for line in page_lines if line.text.startswith("curl")]
    served = [line for line in page_lines if line.text not in {make_token, *asked}]
    exported = {}
    for line in served:
        if not line.words:
            exported |= read_exports(replace_words(line.text, places))
            continue
        if exported.keys() & {"NIGHTREAD_WEB_PROXY", "NIGHTREAD_WEB_OIDC_ISSUER"}:
            users.write_text("cem operate\n")  # without a token
        words = [replace_words(word, places) for word in line.words]
        with serving(words, env | exported, tmp_path) as address:
            shell(f"curl --fail --silent --insecure {address}/healthz")
            for text in [] if exported else asked:
                answer = json.loads(shell(replace_words(text, places | {"http://127.0.0.1:8000": address})))
                assert "error" not in answer, text
        exported.clear()
    assert len(asked) == 4
