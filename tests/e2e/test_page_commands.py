"""Every command of the program that a page shows runs: here, in the order of its page, or in the test named here."""

import csv
import importlib.util
from datetime import datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from db.engine import make_engine, reading, write
from db.marks import NewMark, store_mark
from db.runs import find_run
from db.tables import scans
from db.types import MarkKind
from nightread.model.drift import summarise
from tests.factories import ROOT, make_metric, make_operating_points
from tests.faults.forking import Forker
from tests.onnx_factories import make_gate, write_tiny_bundle
from tests.program import make_environment
from tests.project import PAGES, find_command_lines
from tests.services import run_webhook

#: Pages whose commands are run in a test of their own.
PAGES_ELSEWHERE = {
    "README.md": "tests/e2e/test_terminal.py",  # the first night; each further step has a page
    "docs/exporting.md": "tests/train/test_export_of_a_training.py",
    "docs/how-to/deploy.md": "tests/e2e/test_containers.py",
    "docs/how-to/object-storage.md": "tests/e2e/test_object_storage.py",
    "docs/how-to/operations.md": "tests/e2e/test_operations_page.py",
    "docs/performance.md": "tests/e2e/test_bench.py",
    "docs/reproduction.md": "tests/train/test_architectures.py",
}
#: Commands that need TensorFlow, a PACS or a browser.
COMMANDS_ELSEWHERE = {
    "train": "tests/train/test_report.py", "export": "tests/train/test_export_of_a_training.py",
    "web": "tests/integration/test_web_server.py", "receive": "tests/e2e/test_receive.py",
    "send": "tests/integration/test_send.py", "fetch": "tests/integration/test_fetch.py",
}  # fmt: skip
#: What stands for the words of the pages here.
WORDS = {
    "/media/new/pneumonia-cnn75/2": "new/tiny/2", "build/bundles/pneumonia-lite0/4": "new/tiny/4",
    "pneumonia-cnn75": "tiny", "pneumonia-lite0": "tiny", "our-scans": "site", "/srv/results": "objects",
    "RUN": "ward-a", "2026-11-28": (datetime.now().astimezone() - timedelta(hours=12)).date().isoformat(),
}  # fmt: skip
#: The pages whose commands run here; a model is imported before others name it.
HERE = (
    "docs/drift.md", "docs/how-to/morning.md", "docs/how-to/change-the-model.md", "docs/how-to/calibrate.md",
    "docs/training.md", "docs/how-to/worklist.md", "docs/how-to/pacs.md", "docs/queries.md",
)  # fmt: skip


def read_lines(page):
    return list(find_command_lines((ROOT / page).read_text(encoding="utf-8")))


def test_each_page_with_commands_has_its_test():
    with_commands = {str(page.relative_to(ROOT)) for page in PAGES if read_lines(page)}
    assert with_commands == {*HERE, *PAGES_ELSEWHERE}
    for test in {*PAGES_ELSEWHERE.values(), *COMMANDS_ELSEWHERE.values()}:
        assert (ROOT / test).is_file(), test


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
    for version in ("2", "4"):
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


def fit(words):
    for shown, here in WORDS.items():
        words = [word.replace(shown, here) for word in words]
    if words[:2] == ["models", "promote"]:
        return [*words, "--yes"]  # there is no terminal to ask on
    if words[0] == "evaluate" and importlib.util.find_spec("matplotlib") is None:
        return words[: words.index("--out")]  # the report needs the extra `train`
    return words


@pytest.mark.timeout(300)
def test_the_commands_of_the_pages_run(forker, webhook, tmp_path):
    database_url = f"sqlite:///{tmp_path / 'night.db'}"
    env = make_environment(
        tmp_path, database_url=database_url, models_dir=tmp_path / "models", model="tiny@1", device="cpu", threads=1,
        notify_urls=f"json://127.0.0.1:{webhook.server_port}/",
        broker_url="redis://127.0.0.1:1/0",  # `schedule` asks for one, and sends nothing to it here
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
    labels = (tmp_path / "labels.csv").read_text()
    for page in HERE:
        for words in read_lines(page):
            (tmp_path / "labels.csv").write_text(labels)
            if words[0] not in COMMANDS_ELSEWHERE:
                run(*fit(words))
    assert len(webhook.told) >= 3, "two ends of runs, and the one that was asked for"
    assert {file.name for file in tmp_path.glob("*.html")} >= {"ward-a.html"}
    assert (tmp_path / "models" / "tiny" / "4-our-ward").is_dir()
