import hashlib
import json

import numpy as np
import pytest

from nightread.errors import ExportError
from nightread.model.training_folder import read_training_folder


def write_folder(folder, shape=(4, 16, 16, 3), arrays=None, **card):
    (folder / "checkpoint.keras").write_bytes(b"keras")
    np.savez_compressed(folder / "prepared.npz", inputs=np.zeros(shape, np.float32), **(arrays or {}))
    fields = {
        "labels": ["pneumonia"],
        "thresholds": {"pneumonia": {"low": 0.4, "high": 0.6}},
        "input": {"height_px": 16, "width_px": 16, "channels": 3},
        "preprocessing_version": "1",
        "intended_use": "tests",
    }
    record = {
        "schema_version": 1,
        "sha256": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("checkpoint.keras", "prepared.npz")
        },
        "epochs_done": 3,
    }
    (folder / "card.json").write_text(json.dumps({**fields, **card}))
    (folder / "training.json").write_text(json.dumps(record))
    return folder


def test_what_training_knows_is_read(tmp_path):
    trained = read_training_folder(write_folder(tmp_path))
    assert trained.labels == ("pneumonia",)
    assert [threshold.high for threshold in trained.thresholds] == [0.6]
    assert trained.scans.shape == (4, 16, 16, 3)
    assert trained.card["intended_use"] == "tests"


@pytest.mark.parametrize("name", ["training.json", "card.json", "checkpoint.keras", "prepared.npz"])
def test_an_unfinished_training_is_named_with_the_remedy(tmp_path, name):
    (write_folder(tmp_path) / name).unlink()
    with pytest.raises(ExportError, match=rf"no finished training: {name} cannot be read; .*nightread train"):
        read_training_folder(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint.keras", "prepared.npz"])
def test_a_file_that_has_changed_since_is_refused(tmp_path, name):
    (write_folder(tmp_path) / name).write_bytes(b"another")
    with pytest.raises(ExportError, match=rf"{name} has changed since the training ended"):
        read_training_folder(tmp_path)


@pytest.mark.parametrize("name", ["training.json", "card.json"])
def test_a_damaged_record_is_refused_in_one_line(tmp_path, name):
    (write_folder(tmp_path) / name).write_text("{")
    with pytest.raises(ExportError, match=rf"{name} is not valid: .*train --resume"):
        read_training_folder(tmp_path)


def test_another_preprocessing_version_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"preprocessing version 0; this program has 1, 2, 3: train again"):
        read_training_folder(write_folder(tmp_path, preprocessing_version="0"))


def test_prepared_scans_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ExportError, match=r"the network takes float32 \(N, 16, 16, 3\)"):
        read_training_folder(write_folder(tmp_path, shape=(4, 8, 8, 3)))


def test_targets_files_and_calibration_scans_are_read(tmp_path):
    arrays = {
        "targets": np.array([0, 1, 1, 0], np.float32),
        "sha256": np.array(["0" * 64, "1" * 64, "2" * 64, "3" * 64], "S64"),
        "calibration": np.ones((2, 16, 16, 3), np.float32),
    }
    trained = read_training_folder(write_folder(tmp_path, arrays=arrays))
    assert trained.targets.tolist() == [[False], [True], [True], [False]]
    assert trained.sha256[3] == "3" * 64
    assert trained.calibration.shape == (2, 16, 16, 3)
    assert [trained.name_group(place) for place in range(2)] == ["", "pneumonia"]


def test_a_folder_from_before_they_were_kept_is_read_without_them(tmp_path):
    trained = read_training_folder(write_folder(tmp_path))
    assert (trained.targets, trained.sha256, trained.calibration) == (None, None, None)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"calibration": np.zeros((2, 8, 8, 3), np.float32)}, r"the network takes float32 \(N, 16, 16, 3\)"),
        ({"targets": np.zeros((4, 2), np.float32)}, r"holds targets \(4, 2\) for 4 scans and 1 labels"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    with pytest.raises(ExportError, match=message):
        read_training_folder(write_folder(tmp_path, arrays=arrays))
