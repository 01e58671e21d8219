"""The shipped bundle: `nightread score` without any setting."""

import csv

import numpy as np
import pytest
from PIL import Image

from nightread.model.bundle import SHIPPED_DIR, find_bundle, load_bundle
from tests.program import last_json, make_environment, run

BUNDLE = load_bundle(find_bundle("", SHIPPED_DIR))


@pytest.fixture
def env(tmp_path):
    return make_environment(tmp_path, model="")


def write_parity_scans(folder):
    """Write the real scans of the bundle's parity file as 16-bit files of the network's input size."""
    low, high = BUNDLE.card.input.value_range
    for number, prepared in enumerate(BUNDLE.parity_inputs):
        gray = np.round((prepared[:, :, 0] - low) / (high - low) * 65535).astype(np.uint16)
        Image.fromarray(gray).save(folder / f"scan-{number}.png")


def read_rows(env, folder):
    done = run("results", "--format", "csv", env=env, cwd=folder)
    return {row["path"].rpartition("/")[2]: row for row in csv.DictReader(done.stdout.splitlines())}


def test_real_scans_pass_the_gate_and_get_the_scores_of_the_export(tmp_path, env):
    folder = tmp_path / "night"
    folder.mkdir()
    write_parity_scans(folder)
    done = last_json(run("score", folder, "--json", env=env, cwd=tmp_path))
    assert (done["scored"], done["rejected"], done["failed"]) == (len(BUNDLE.parity_inputs), 0, 0)
    assert done["model"] == BUNDLE.card.reference
    rows = read_rows(env, tmp_path)
    for number, expected in enumerate(BUNDLE.parity_scores[:, 0]):
        row = rows[f"scan-{number}.png"]
        assert float(row["score"]) == pytest.approx(expected, abs=0.002)  # of 16 bits
        assert row["decision"] in {"pneumonia", "normal", "uncertain"}


def test_what_is_no_chest_x_ray_gets_a_reason_and_no_score(tmp_path, env):
    folder = tmp_path / "night"
    folder.mkdir()
    write_parity_scans(folder)
    upright = np.asarray(Image.open(folder / "scan-0.png"))
    Image.fromarray(65535 - upright).save(folder / "inverted.png")
    Image.fromarray(np.ascontiguousarray(upright[::-1, ::-1])).save(folder / "upside-down.png")
    page = np.full((800, 600), 255, np.uint8)
    page[100:700:20, 60:540] = 0
    Image.fromarray(page).save(folder / "page.png")
    y, x = np.mgrid[0:400, 0:500]
    sky = np.stack([40 + y // 4, 90 + y // 4, 255 - y // 3 + 0 * x], axis=2).clip(0, 255).astype(np.uint8)
    Image.fromarray(sky).save(folder / "sky.jpeg")
    done = last_json(run("score", folder, "--json", env=env, cwd=tmp_path))
    assert (done["scored"], done["rejected"], done["failed"]) == (len(BUNDLE.parity_inputs), 4, 0)
    rows = read_rows(env, tmp_path)
    for name in ("inverted.png", "upside-down.png", "page.png", "sky.jpeg"):
        assert rows[name]["status"] == "rejected"
        assert rows[name]["score"] == ""
        assert rows[name]["reason"]
    again = last_json(run("score", folder, "--no-gate", "--json", env=env, cwd=tmp_path))
    assert (again["scored"], again["rejected"]) == (len(BUNDLE.parity_inputs) + 4, 0)


def test_a_real_night_passes_the_gate(tmp_path, env, real_data):
    done = last_json(run("score", real_data / "nightly", "--json", env=env, cwd=tmp_path))
    assert done["scored"] + done["rejected"] == done["found"] == 240
    assert done["rejected"] <= 2
    truth = [
        (row["score"], "person" in name) for name, row in read_rows(env, tmp_path).items() if row["status"] == "scored"
    ]
    scores = np.array([float(score) for score, _ in truth])
    present = np.array([is_present for _, is_present in truth])
    # They were in training, and prove no accuracy; but full resolution must not turn the scores about.
    threshold = BUNDLE.card.operating_points["pneumonia"]["balanced"].threshold
    assert np.mean((scores >= threshold) == present) > 0.95
