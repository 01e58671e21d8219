import hashlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nightread.reasons import Reason
from nightread.scan.preprocessing import InputSpec, read_and_prepare
from trainer.data.dataset import LabelledScan, Listing, Task
from trainer.data.load import MAX_PIXELS, prepare_scans, select_scans
from trainer.errors import DatasetError

SPEC = InputSpec(height_px=16, width_px=16, channels=3)


def encode_png(seed):
    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_scans(folder, contents):
    scans = []
    for number, content in enumerate(contents):
        path = folder / f"person{number}_virus_1.png"
        path.write_bytes(content)
        label = "normal" if number % 2 else "pneumonia"
        scans.append(LabelledScan(str(path), label, f"person{number}", f"person{number}"))
    return scans


def prepare_all(scans, folder, *, report=lambda done, total: None):
    listing = Listing(Task(("pneumonia",), "sigmoid"), tuple(scans), {}, 0, roots=(folder,))
    return prepare_scans(listing, SPEC, report=report)


def test_scans_are_prepared_by_the_function_that_workers_use(tmp_path):
    contents = [encode_png(seed) for seed in range(600)]  # more than are decoded ahead
    told = []
    prepared = prepare_all(
        write_scans(tmp_path, contents), tmp_path, report=lambda done, total: told.append((done, total))
    )
    for number in (0, 255, 256, 599):
        expected, _ = read_and_prepare(contents[number], SPEC, max_pixels=MAX_PIXELS)
        assert np.array_equal(prepared.inputs[number], expected)
        assert prepared.sha256[number] == hashlib.sha256(contents[number]).hexdigest()
        assert prepared.targets[number] == (number % 2 == 0)
    assert prepared.inputs.shape == (600, 16, 16, 3)
    assert told == [(done, 600) for done in range(1, 601)]


def test_larger_scans_to_crop_from_stay_in_line_with_their_inputs(tmp_path):
    scans = write_scans(tmp_path, [encode_png(0), b"", encode_png(1)])
    listing = Listing(Task(("pneumonia",), "sigmoid"), tuple(scans), {}, 0, roots=(tmp_path,))
    prepared = prepare_scans(listing, SPEC, source_scale=2, report=lambda done, total: None)
    assert prepared.sources.shape == (2, 32, 32)
    larger = SPEC.model_copy(update={"height_px": 32, "width_px": 32})
    for number, seed in enumerate((0, 1)):
        expected, _ = read_and_prepare(encode_png(seed), larger, max_pixels=MAX_PIXELS)
        assert np.array_equal(prepared.sources[number], np.rint(expected[:, :, 0] * 255))
    chosen = select_scans(prepared, [1], ("normal", "pneumonia"))
    assert np.array_equal(chosen.sources[0], prepared.sources[1])


def test_unreadable_scans_are_named_and_the_others_stay_in_line(tmp_path):
    good = [encode_png(seed) for seed in range(3)]
    scans = write_scans(tmp_path, [good[0], b"", good[1], good[2][:200], b"text", good[2]])
    scans.append(LabelledScan(str(tmp_path / "gone.png"), label="pneumonia", patient="gone", kin="gone"))
    prepared = prepare_all(scans, tmp_path)
    assert prepared.sha256 == tuple(hashlib.sha256(content).hexdigest() for content in good)
    assert prepared.targets.tolist() == [1, 1, 0]
    assert len(prepared.inputs) == len(prepared.scans) == 3
    assert [scan.reason for scan in prepared.unreadable] == [
        Reason.EMPTY_FILE,
        Reason.DAMAGED,
        Reason.NOT_AN_IMAGE,
        Reason.MISSING_FILE,
    ]


def test_a_data_set_without_one_readable_scan_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"none of the 2 scans .* can be read; the first is empty-file"):
        prepare_all(write_scans(tmp_path, [b"", b""]), tmp_path)
