from collections import Counter
from pathlib import Path

import pytest

from trainer.data.dataset import Choices, SplitBy
from trainer.data.pediatric import list_pediatric, parse_patient
from trainer.errors import DatasetError

JPEG_START = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(JPEG_START + name.encode())


@pytest.mark.parametrize(
    ("stem", "patient", "kin"),
    [
        ("person17_bacteria_54", "person17", "person17"),
        ("person17_virus_30", "person17", "person17"),
        ("person1710_virus_2950", "person1710", "person1710"),
        ("person1_virus__7", "person1", "person1"),
        ("IM-0115-0001", "IM-0115", "IM-0115"),
        ("IM-0429-0001-0002", "IM-0429", "IM-0429"),
        ("NORMAL2-IM-0115-0001", "NORMAL2-IM-0115", "IM-0115"),
        ("NORMAL2-IM-0501-0001-0002", "NORMAL2-IM-0501", "IM-0501"),
        ("BACTERIA-1008087-0001", "BACTERIA-1008087", "1008087"),
        ("NORMAL-28501-0001", "NORMAL-28501", "28501"),
    ],
)
def test_names_tell_the_patient_and_who_may_be_the_same_person(stem, patient, kin):
    assert parse_patient(stem) == (patient, kin)


@pytest.mark.parametrize("stem", ["scan", "person_bacteria_3", "1.2.840.1", "personal_virus_3"])
def test_other_names_tell_no_patient(stem):
    assert parse_patient(stem) is None


def test_a_folder_of_the_two_labels_is_read(tmp_path):
    write(tmp_path, "NORMAL/IM-0115-0001.jpeg", "PNEUMONIA/person17_virus_1.jpeg")
    normal, pneumonia = list_pediatric(tmp_path).scans
    assert (normal.patient, normal.label, normal.subgroup) == ("IM-0115", "normal", "")
    assert (pneumonia.patient, pneumonia.label, pneumonia.subgroup) == ("person17", "pneumonia", "viral")


def test_train_and_val_are_pooled_and_the_official_test_part_is_left_alone(tmp_path):
    for part in ("train", "val", "test"):
        write(tmp_path, f"{part}/NORMAL/IM-0115-{part}.jpeg", f"{part}/PNEUMONIA/person17_virus_{part}.jpeg")
    listing = list_pediatric(tmp_path)
    assert {Path(scan.path).parent.parent.name for scan in listing.scans} == {"train", "val"}
    assert listing.left_alone["official-test"] == 2


def test_what_is_no_scan_is_counted(tmp_path):
    write(tmp_path, "NORMAL/IM-0115-0001.jpeg", "NORMAL/.DS_Store", "PNEUMONIA/person17_virus_1.jpeg")
    (tmp_path / "PNEUMONIA/Thumbs.db").write_bytes(b"no scan")
    listing = list_pediatric(tmp_path)
    assert len(listing.scans) == 2
    assert listing.left_alone == {"hidden": 1, "not-a-scan": 1}


def test_names_without_a_patient_are_counted_and_stand_alone(tmp_path):
    write(tmp_path, "NORMAL/a.jpeg", "NORMAL/b.jpeg", "PNEUMONIA/person17_virus_1.jpeg")
    listing = list_pediatric(tmp_path)
    assert listing.without_patient == 2
    assert len({scan.kin for scan in listing.scans}) == 3


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no folder .*gone: name the folder"):
        list_pediatric(tmp_path / "gone")


def test_another_layout_is_explained(tmp_path):
    write(tmp_path, "covid/1.jpeg")
    with pytest.raises(DatasetError, match="holds neither NORMAL/ and PNEUMONIA/"):
        list_pediatric(tmp_path)


@pytest.mark.parametrize("empty", ["NORMAL", "PNEUMONIA"])
def test_a_label_without_scans_is_named(tmp_path, empty):
    write(tmp_path, "NORMAL/IM-0115-0001.jpeg", "PNEUMONIA/person17_virus_1.jpeg")
    for file in (tmp_path / empty).iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match=f"holds no {empty.lower()} scans"):
        list_pediatric(tmp_path)


def test_three_labels_are_told_by_the_names(tmp_path):
    write(
        tmp_path,
        "NORMAL/IM-0115-0001.jpeg",
        "PNEUMONIA/person17_virus_1.jpeg",
        "PNEUMONIA/person18_bacteria_2.jpeg",
        "PNEUMONIA/BACTERIA-1008087-0001.jpeg",
        "PNEUMONIA/scan.jpeg",
    )
    listing = list_pediatric(tmp_path, Choices(subtypes=True))
    assert listing.task.classes == ("bacterial", "normal", "viral")
    assert Counter(scan.label for scan in listing.scans) == {"bacterial": 2, "normal": 1, "viral": 1}
    assert listing.left_alone == {"unknown-subtype": 1}


def test_the_articles_split_joins_all_parts(tmp_path):
    for part in ("train", "val", "test"):
        write(tmp_path, f"{part}/NORMAL/IM-0115-{part}.jpeg", f"{part}/PNEUMONIA/person17_virus_{part}.jpeg")
    listing = list_pediatric(tmp_path, Choices(split_by=SplitBy.ARTICLE))
    assert len(listing.scans) == 6
    assert not listing.left_alone
