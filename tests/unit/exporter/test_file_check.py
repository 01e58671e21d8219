import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from exporter.file_check import check_files
from nightread.errors import ExportError, ParityMismatch
from nightread.model.training_folder import TrainingFolder
from nightread.scan.preprocessing import InputSpec, read_and_prepare

SPEC = InputSpec(height_px=16, width_px=16, channels=1)


def score(scans):
    """Score a scan with its mean."""
    return scans.mean(axis=(1, 2))


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(3)
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (40, 50), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    (tmp_path / "data" / "NORMAL" / "damaged.png").write_bytes(b"\x89PNG")
    return tmp_path / "data"


@pytest.fixture
def trained(data, tmp_path):
    files = [data / label / f"{number}.png" for label in ("NORMAL", "PNEUMONIA") for number in range(1, 20)]
    scans = np.stack([read_and_prepare(file.read_bytes(), SPEC, max_pixels=10_000)[0] for file in files])
    digests = tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    targets = np.array([[file.parent.name == "PNEUMONIA"] for file in files])
    return TrainingFolder(tmp_path / "checkpoint.keras", SPEC, ("pneumonia",), (), scans, targets, digests, None, {})


def check(trained, data, compute=score):
    return check_files(trained, data, score, compute, 1e-5)


def test_sixteen_files_with_the_label_and_sixteen_without_are_read_again(trained, data):
    scored = []
    assert check(trained, data, lambda scans: (scored.extend(scans), score(scans))[1]) == 32
    assert np.array_equal(scored[:16], trained.scans[np.argsort([str(n) for n in range(1, 20)])[:16]])


def test_files_are_found_whatever_they_are_called(trained, data):
    for file in sorted((data / "PNEUMONIA").iterdir()):
        file.rename(data / "NORMAL" / f"renamed-{file.name}")
    assert check(trained, data) == 32


def test_pixels_that_are_prepared_otherwise_now_are_refused(trained, data):
    with pytest.raises(ParityMismatch, match=r"prepared differently now: pixels differ by 0\.001 of the value range"):
        check(replace(trained, scans=trained.scans + np.float32(1e-3)), data)


def test_a_score_that_differs_from_the_file_on_is_refused_without_the_files_name(trained, data):
    with pytest.raises(ParityMismatch, match=r"from its file differs from Keras' by 0\.002") as caught:
        check(trained, data, lambda scans: score(scans) + np.float32(2e-3))
    assert ".png" not in str(caught.value)


def test_a_folder_without_the_hold_out_is_refused(trained, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(ExportError, match="none of the hold-out's files: name the folder"):
        check(trained, tmp_path / "other")


def test_a_training_folder_from_before_files_were_told_names_the_remedy(trained, data):
    with pytest.raises(ExportError, match="repeat `nightread train --resume`"):
        check(replace(trained, sha256=None), data)
