import hashlib
from collections import Counter

import numpy as np
import pydicom
import pytest

from nightread.errors import ScanError
from nightread.reasons import Reason
from nightread.scan import drawn_chest
from nightread.scan.decode import read_scan
from nightread.scan.drawn_chest import draw_chest, write_demo_night
from nightread.scan.walk import Walk, find_scans


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo").resolve()
    write_demo_night(folder)
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_night_holds_every_format_a_copy_and_two_files_that_go_wrong(night):
    outcomes = Counter()
    walk = Walk()
    for found in find_scans([night], walk, roots=[night]):
        with open(found.path, "rb") as file:  # noqa: PTH123
            try:
                outcomes[read_scan(file.read(), max_pixels=10**7).format.value] += 1
            except ScanError as error:
                outcomes[error.reason] += 1

    assert outcomes == {"jpeg": 13, "png": 6, "dicom": 6, Reason.DAMAGED: 1, Reason.NOT_AN_IMAGE: 1}
    assert not walk.skipped
    assert sorted(path.name for path in night.iterdir()) == ["ward-1", "ward-2"]


def test_one_scan_is_there_twice_and_all_others_once(night):
    digests = Counter(hashlib.sha256(content).hexdigest() for content in files(night).values())

    assert sorted(digests.values(), reverse=True)[:2] == [2, 1]


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_chest, "_SCANS_PER_WARD", 2)
    monkeypatch.setattr(drawn_chest, "_DEMO_PX", (160, 192))
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_demo_night(tmp_path / name, seed=seed)

    assert files(tmp_path / "one") == files(tmp_path / "same")
    assert all(
        content != files(tmp_path / "other")[path]
        for path, content in files(tmp_path / "one").items()
        if "demo" in path
    )


def test_dicom_identifiers_are_made_up_and_unique(night):
    instances = [pydicom.dcmread(path) for path in sorted(night.rglob("*.dcm"))]

    assert {str(instance.PatientName) for instance in instances} == {"SYNTHETIC^DEMO"}
    assert len({instance.SOPInstanceUID for instance in instances}) == len(instances)
    assert all(instance.StudyInstanceUID.is_valid for instance in instances)


def test_a_chest_has_dark_lungs_beside_a_bright_spine():
    chest = draw_chest(1, 400, 480).astype(float)
    spine, lung = chest[150:250, 225:255].mean(), chest[150:250, 110:170].mean()

    assert spine > lung + 60


def test_an_opacity_brightens_a_lung_and_nothing_else():
    clear, opaque = (draw_chest(1, 400, 480, has_opacity=has_opacity).astype(int) for has_opacity in (False, True))
    brighter = opaque - clear

    assert brighter.max() > 20
    assert (brighter > 10).mean() < 0.2
    assert brighter.min() >= -3


def test_chests_differ_by_seed_and_are_neither_black_nor_white():
    chests = [draw_chest(seed, 64, 80) for seed in range(4)]

    assert len({chest.tobytes() for chest in chests}) == 4
    assert all(50 < chest.mean() < 150 and np.ptp(chest) > 120 for chest in chests)
