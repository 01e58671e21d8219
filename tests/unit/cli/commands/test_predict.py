"""`predict` in the default installation: the library's rows, printed."""

import json
import os
import zipfile

import pytest
from typer.testing import CliRunner

import nightread
from cli.main import app
from nightread.inference.scorer import Scorer
from nightread.model.bundle import DEFAULT_MODEL
from nightread.scan.files import encode_path
from tests.factories import encode_image, encode_jpeg, small_chest


@pytest.fixture(autouse=True)
def _own_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NIGHTREAD_DEVICE", "cpu")


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "chest.jpeg"
    path.write_bytes(encode_jpeg(small_chest(1)))
    return path


def invoke(*arguments, expect=0):
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == expect, result.output
    return result.stdout


def test_scans_are_predicted_in_order_and_faults_are_told(scan, tmp_path):
    letter, damaged = tmp_path / "letter.txt", tmp_path / "damaged.png"
    letter.write_text("no scan")
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    rows = json.loads(invoke(scan, letter, damaged, "--model", "pneumonia-cnn75@1", "--json", expect=3))
    assert [(row["path"], row["status"], row.get("reason")) for row in rows] == [
        (str(scan), "scored", None), (str(letter), "rejected", "not-an-image"), (str(damaged), "rejected", "damaged"),
    ]  # fmt: skip
    assert rows[0]["model"] == "pneumonia-cnn75@1"
    assert "rejected: not-an-image" in invoke(letter, expect=3)


def test_scores_are_those_of_the_library_to_the_last_digit(scan):
    (row,) = nightread.open_model("pneumonia-cnn75@1", device="cpu").predict([scan])
    (told,) = json.loads(invoke(scan, "--model", "pneumonia-cnn75@1", "--json"))
    assert told["labels"]["pneumonia"] == {
        "score": row.scores["pneumonia"], "decision": row.decisions["pneumonia"],
    }  # fmt: skip


def test_a_scan_that_a_rule_of_the_gate_rejects_is_not_inferred(tmp_path, monkeypatch):
    strip = tmp_path / "strip.png"
    strip.write_bytes(encode_image(small_chest(2, 60, 400)))
    infer, batches = Scorer.infer_batch, []
    monkeypatch.setattr(Scorer, "infer_batch", lambda scorer, batch: batches.append(len(batch)) or infer(scorer, batch))
    (row,) = json.loads(invoke(strip, "--model", DEFAULT_MODEL, "--json", expect=3))
    assert (row["status"], row["reason"], row["gate_verdict"]) == ("rejected", "aspect-ratio", "aspect-ratio")
    opening = len(batches)
    nightread.open_model(DEFAULT_MODEL, device="cpu")
    assert len(batches) == 2 * opening  # what opening a model takes, and no more


def test_a_name_that_is_no_text_is_told_as_a_run_stores_it(scan, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/not-utf-8-\xff\n.jpeg")
    scan.rename(odd)
    (row,) = json.loads(invoke(odd, "--json"))
    assert row["path"] == encode_path(odd)
    assert row["path"].endswith("/not-utf-8-\\xff\n.jpeg")
    assert r"\xff\n.jpeg" in invoke(odd)


class TestModel:
    def test_without_a_database_it_is_the_one_that_ships_and_none_is_made(self, scan, tmp_path, monkeypatch):
        monkeypatch.setenv("NIGHTREAD_MODEL", "")
        (row,) = json.loads(invoke(scan, "--json"))
        assert row["model"] == DEFAULT_MODEL
        assert not (tmp_path / "data").exists()

    def test_a_database_knows_the_production_model(self, scan, tmp_path, monkeypatch):
        monkeypatch.setenv("NIGHTREAD_MODEL", "")
        call = CliRunner().invoke(app, ["models", "promote", "pneumonia-cnn75@1", "--yes"], catch_exceptions=False)
        assert call.exit_code == 0
        assert json.loads(invoke(scan, "--json"))[0]["model"] == "pneumonia-cnn75@1"
        assert json.loads(invoke(scan, "--model", "pneumonia-lite0", "--json"))[0]["model"] == DEFAULT_MODEL


@pytest.mark.parametrize(("name", "told"), [("", "nightread score"), ("gone.png", "there is no file")])
def test_a_folder_and_a_missing_file_are_wrong_usage(tmp_path, name, told):
    result = CliRunner().invoke(app, ["predict", str(tmp_path / name)], catch_exceptions=False)
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())


def test_a_scan_in_an_archive_is_predicted_by_its_path(scan, tmp_path):
    archive = tmp_path / "night.zip"
    with zipfile.ZipFile(archive, "w") as night:
        night.write(scan, "ward/1.jpeg")
    member = f"{archive}!ward/1.jpeg"
    model = ("--model", "pneumonia-cnn75@1", "--json")
    plain, packed = (json.loads(invoke(path, *model, *more)) for path, more in ((scan, ()), (member, ("--archives",))))
    assert [{**row, "path": str(scan)} for row in packed] == plain
    (absent,) = json.loads(invoke(f"{archive}!ward/2.jpeg", *model, "--archives", expect=3))
    assert absent["reason"] == "missing-file"
    assert CliRunner().invoke(app, ["predict", member]).exit_code == 2
