"""A folder with other pictures than chest X-rays, scored with a model that has an input gate."""

import json

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.factories import encode_image, encode_jpeg, small_chest
from tests.onnx_factories import make_gate, write_tiny_bundle
from tests.program import last_json, make_environment, run


@pytest.fixture
def env(tmp_path):
    write_tiny_bundle(tmp_path / "models", gate=make_gate())
    return make_environment(tmp_path, model="tiny@1", models_dir=tmp_path / "models")


@pytest.fixture
def folder(tmp_path):
    """Two chests, a page of text and an inverted scan; the model's gate judges by the mean gray."""
    folder = tmp_path / "night"
    folder.mkdir()
    page = Image.new("L", (640, 800), 255)
    for line in range(30):
        ImageDraw.Draw(page).text((40, 20 + 25 * line), "lorem ipsum " * 6, fill=0, font=ImageFont.load_default(16))
    (folder / "chest-1.jpeg").write_bytes(encode_jpeg(small_chest(1, 300, 360)))
    (folder / "chest-2.png").write_bytes(encode_image(small_chest(2, 300, 360)))
    (folder / "inverted.png").write_bytes(encode_image(255 - small_chest(3, 300, 360)))
    (folder / "page.png").write_bytes(encode_image(page))
    return folder


def test_a_mixed_folder_is_scored_as_far_as_it_shows_chests(env, folder, tmp_path):
    summary = last_json(run("score", folder, "--json", env=env, cwd=tmp_path))
    assert (summary["found"], summary["scored"], summary["rejected"], summary["failed"]) == (4, 2, 2, 0)
    rows = json.loads(run("results", "--status", "rejected", "--format", "json", env=env, cwd=tmp_path).stdout)
    assert {row["path"].rsplit("/")[-1]: row["reason"] for row in rows} == {
        "inverted.png": "inverted", "page.png": "document",
    }  # fmt: skip


def test_no_gate_scores_them_too_and_a_later_run_with_it_rejects_them_again(env, folder, tmp_path):
    every = last_json(run("score", folder, "--no-gate", "--json", env=env, cwd=tmp_path))
    gated = last_json(run("score", folder, "--json", env=env, cwd=tmp_path))
    again = last_json(run("score", folder, "--json", env=env | {"NIGHTREAD_GATE": "false"}, cwd=tmp_path))
    assert (every["scored"], every["rejected"]) == (4, 0)
    assert (gated["scored"], gated["rejected"], gated["reused"]) == (2, 2, 2)
    assert (again["scored"], again["rejected"], again["reused"]) == (4, 0, 4)


def test_predict_rejects_with_the_reason_and_without_the_gate_scores(env, folder, tmp_path):
    scans = [folder / "chest-1.jpeg", folder / "inverted.png"]
    told = json.loads(run("predict", *scans, "--json", env=env, cwd=tmp_path, expect=3).stdout)
    assert [(row["status"], row["gate_verdict"]) for row in told] == [("scored", "passed"), ("rejected", "inverted")]
    assert "--no-gate" in told[1]["message"]
    told = json.loads(run("predict", *scans, "--no-gate", "--json", env=env, cwd=tmp_path).stdout)
    # The inverted one needs a second look for a verdict, and gets none with the gate off.
    assert [(row["status"], row.get("gate_verdict")) for row in told] == [("scored", "passed"), ("scored", None)]
