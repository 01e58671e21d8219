import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nightread.scan.preprocessing import InputSpec
from trainer.data.load import prepare_scans
from trainer.data.pediatric import list_pediatric
from trainer.data.split import Part, Shares, group_scans, split_by_patient

DATA = os.environ.get("NIGHTREAD_TEST_DATA", "")
FOLDER = Path(DATA) / "chest_xray"
SPEC = InputSpec(height_px=75, width_px=75, channels=3)

pytestmark = pytest.mark.skipif(
    not DATA or not FOLDER.is_dir(), reason="needs the pediatric chest X-rays: NIGHTREAD_TEST_DATA/chest_xray"
)


def ignore(done, total):
    pass


def test_every_scan_of_the_training_part_has_a_patient():
    listing = list_pediatric(FOLDER)
    assert len(listing.scans) == 5216
    assert sum(scan.label == "pneumonia" for scan in listing.scans) == 3875
    assert listing.without_patient == 0
    assert len({scan.patient for scan in listing.scans}) == 2846
    assert Counter(scan.subgroup for scan in listing.scans) == {"": 1341, "bacterial": 2530, "viral": 1345}
    assert len({scan.kin for scan in listing.scans}) == 2635  # 211 numbers are in both series of normal scans


def test_real_scans_split_without_a_patient_on_two_sides():
    listing = list_pediatric(FOLDER)
    scans = prepare_scans(replace(listing, scans=listing.scans[::7]), SPEC, report=ignore)
    assert not scans.unreadable
    assert scans.inputs.min() >= 0
    assert scans.inputs.max() <= 1
    assert 0.3 < float(np.mean(scans.inputs)) < 0.7
    groups = group_scans([scan.kin for scan in scans.scans], scans.sha256)
    split = split_by_patient(groups, scans.targets, listing.task.classes, Shares(0.7, 0.15, 0.15), seed=2018)
    kin = [{scans.scans[index].kin for index in split[part].tolist()} for part in Part]
    assert len(set.union(*kin)) == sum(map(len, kin))
