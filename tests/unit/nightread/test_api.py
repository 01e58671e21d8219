"""The library on single scans and arrays, and what importing it brings in."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nightread
from nightread.errors import CardMismatch, NightreadError, SettingsError
from nightread.reasons import Reason
from tests.factories import ROOT, UNGATED_MODEL, encode_image, encode_png16, small_chest
from tests.onnx_factories import USUAL_GRAY, make_gate, write_tiny_bundle


@pytest.fixture(scope="module")
def model():
    return nightread.open_model(UNGATED_MODEL, device="cpu", threads=2)


def score(model, *scans, **options):
    return [row.scores.get("pneumonia") for row in model.predict(scans, **options)]


class TestRows:
    def test_rows_come_in_order_whatever_the_batch_size(self, model):
        chests = [small_chest(seed) for seed in range(11)]
        together = score(model, *chests)
        assert len(set(together)) == 11
        for batch_size in (1, 2, 7):
            assert score(model, *chests, batch_size=batch_size) == pytest.approx(together, abs=1e-6)

    def test_scans_are_taken_as_they_are_needed(self, model):
        taken = []
        rows = model.predict((taken.append(seed) or small_chest(seed) for seed in range(100)), batch_size=2)
        next(rows)
        assert len(taken) == 4
        rows.close()

    def test_nothing_gives_no_rows(self, model):
        assert list(model.predict([])) == []

    def test_a_row_cannot_be_changed(self, model):
        (row,) = model.predict([small_chest()])
        with pytest.raises(dataclasses.FrozenInstanceError):
            row.status = "failed"

    def test_a_file_that_cannot_be_read_is_a_row(self, model, tmp_path):
        (tmp_path / "letter.txt").write_text("no scan")
        (tmp_path / "loop").symlink_to("loop")
        names = ["letter.txt", "gone.png", "loop", "nul\0", ".", "x" * 300]
        rows = list(model.predict([tmp_path / name for name in names]))
        assert [row.reason for row in rows] == [
            Reason.NOT_AN_IMAGE, Reason.MISSING_FILE, Reason.OUTSIDE_ROOTS, Reason.NOT_A_FILE, Reason.NOT_A_FILE,
            Reason.STORAGE_ERROR,
        ]  # fmt: skip
        assert [row.status for row in rows[:2]] == ["rejected", "failed"]
        assert all(row.text and not row.scores and not row.decisions for row in rows)

    def test_a_relative_path_and_a_link_are_followed(self, model, tmp_path, monkeypatch):
        (tmp_path / "scan.png").write_bytes(encode_image(small_chest(1)))
        (tmp_path / "link").symlink_to("scan.png")
        monkeypatch.chdir(tmp_path)
        assert len(set(score(model, "scan.png", "link", tmp_path / "scan.png"))) == 1

    def test_a_batch_of_none_is_refused(self, model):
        with pytest.raises(ValueError, match="at least 1"):
            model.predict([], batch_size=0)

    @pytest.mark.parametrize("size", ["8", 1.5])
    def test_a_batch_size_that_is_no_whole_number_is_refused(self, model, size):
        with pytest.raises(TypeError, match="batch_size is a"):
            model.predict([], batch_size=size)

    @pytest.mark.parametrize("scans", ["scan.png", Path("scan.png"), b"\xff\xd8", small_chest(1)])
    def test_a_single_scan_is_refused_rather_than_its_characters_or_rows(self, model, scans):
        with pytest.raises(TypeError, match="put it into a list"):
            model.predict(scans)

    def test_a_path_that_no_file_system_can_spell_is_rejected(self, model):
        (row,) = model.predict(["\ud800"])
        assert (row.status, row.reason) == ("rejected", Reason.NOT_A_FILE)


class TestArrays:
    @pytest.mark.parametrize(
        "convert",
        [
            lambda chest: chest.astype(np.uint16) * 257,
            lambda chest: chest.astype(">u2") * 257,
            lambda chest: chest / 255.0,
            lambda chest: (chest / 255.0).astype(np.float32),
            np.asfortranarray,
        ],
    )
    def test_black_and_white_follow_from_the_dtype(self, model, convert):
        chest = small_chest(1)
        plain, converted = score(model, chest, convert(chest))
        assert converted == pytest.approx(plain, abs=1e-5)

    def test_an_array_is_scored_as_the_file_that_holds_it(self, model, tmp_path):
        chest = small_chest(2)
        deep = chest.astype(np.uint16) * 16  # 12 of 16 bits
        for name, content in {"8.png": encode_image(chest), "16.png": encode_png16(deep)}.items():
            (tmp_path / name).write_bytes(content)
        assert score(model, chest, deep) == score(model, tmp_path / "8.png", tmp_path / "16.png")

    @pytest.mark.parametrize(
        ("pixels", "reason"),
        [
            (np.zeros((50, 50)), Reason.BLANK), (np.full((50, 50), np.nan), Reason.DAMAGED),
            (np.zeros((4, 0), np.uint16), Reason.TOO_SMALL), (np.zeros((8000, 8000), np.uint8), Reason.TOO_LARGE),
        ],
    )  # fmt: skip
    def test_pixels_that_are_no_scan_are_rejected(self, model, pixels, reason):
        (row,) = model.predict([pixels])
        assert (row.status, row.reason, row.path, row.sha256) == ("rejected", reason, None, None)

    @pytest.mark.parametrize(
        "scan",
        [
            np.zeros((50, 50, 3), np.uint8),
            np.zeros((50, 50), np.int32),
            np.zeros((50, 50), bool),
            7,
            bytearray(b"x.png"),
        ],
    )
    def test_what_is_neither_a_path_nor_a_gray_array_raises(self, model, scan):
        with pytest.raises(TypeError, match="a scan is"):
            list(model.predict([scan]))


class TestOpening:
    def test_a_folder_of_a_bundle_with_a_gate_is_opened(self, tmp_path):
        write_tiny_bundle(tmp_path, gate=make_gate())
        usual = np.full((40, 40), USUAL_GRAY) + np.linspace(-0.02, 0.02, 40)
        dark = usual - 0.28
        rows = list(nightread.open_model(tmp_path / "tiny" / "1", device="cpu").predict([usual, dark]))
        every = list(nightread.open_model(tmp_path / "tiny" / "1", device="cpu", gate=False).predict([usual, dark]))
        # With the gate off a doubtful scan gets no second look, so there is no verdict on it.
        assert [row.gate_verdict for row in every] == ["passed", None]
        assert [row.status for row in every] == ["scored", "scored"]
        assert rows[1].status == "rejected"
        assert rows[1].reason.value == rows[1].gate_verdict
        assert rows[1].distance > rows[0].distance

    def test_the_bundle_that_ships_is_the_default(self):
        assert nightread.open_model(device="cpu").provenance.model == "pneumonia-lite0"

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"model": "adult-model"}, CardMismatch), ({"device": "tpu"}, SettingsError),
            ({"threads": -1}, SettingsError), ({"model": "/nowhere/at/all"}, CardMismatch),
            ({"model": "a" * 5000}, CardMismatch), ({"model": "a\0b"}, CardMismatch),
        ],
    )  # fmt: skip
    def test_faults_of_model_and_settings_are_errors_of_nightread(self, arguments, error):
        assert issubclass(error, NightreadError)
        with pytest.raises(error):
            nightread.open_model(**arguments)

    @pytest.mark.parametrize("arguments", [{"model": None}, {"model": b"tiny"}, {"gate": "no"}])
    def test_arguments_of_another_type_are_refused_by_name(self, arguments):
        with pytest.raises(TypeError, match=f"^{next(iter(arguments))} is a "):
            nightread.open_model(**arguments)

    def test_a_damaged_bundle_is_refused(self, tmp_path):
        write_tiny_bundle(tmp_path)
        (tmp_path / "tiny/1/model.onnx").write_bytes(b"no model")
        with pytest.raises(CardMismatch):
            nightread.open_model(tmp_path / "tiny/1")


def run_python(code, cwd):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT), "NIGHTREAD_DEVICE": "cpu", "HOME": str(cwd)},
    )  # fmt: skip
    return json.loads(done.stdout)


class TestImport:
    def test_brings_in_nothing_heavy(self, tmp_path):
        code = "import json, sys, nightread; print(json.dumps([*sys.modules]))"
        heavy = {"numpy", "onnxruntime", "pydicom", "PIL", "pydantic", "sqlalchemy", "celery"}
        loaded = set(run_python(code, tmp_path))
        assert not loaded & heavy
        assert {name for name in loaded if name.startswith("nightread")} == {"nightread"}

    def test_names_what_it_offers(self):
        assert all(getattr(nightread, name) for name in nightread.__all__)
        with pytest.raises(AttributeError, match="no attribute 'open_mode'"):
            nightread.open_mode  # noqa: B018  # a typing error

    def test_works_beside_a_user_s_own_modules_of_any_name(self, tmp_path):
        """A script's folder comes first on Python's path, so only the name `nightread` may be imported there."""
        foreign = ("bench", "cli", "db", "exporter", "trainer", "web", "worker")
        for name in foreign:
            (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')")
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(f"raise AssertionError('{name} was imported')")
        (tmp_path / "scan.png").write_bytes(encode_image(small_chest(3)))
        code = (
            "import json, sys; import nightread\n"
            f"rows = list(nightread.open_model({UNGATED_MODEL!r}).predict(['scan.png']))\n"
            "print(json.dumps([rows[0].status, [*sys.modules]]))"
        )
        status, loaded = run_python(code, tmp_path)
        assert status == "scored"
        assert not {name.partition(".")[0] for name in loaded} & set(foreign)
