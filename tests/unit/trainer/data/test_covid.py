import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from trainer.data.covid import list_covid
from trainer.data.dataset import Choices, Rare
from trainer.data.tables import read_table
from trainer.errors import DatasetError

COLUMNS = ("patientid", "finding", "view", "modality", "folder", "filename")

#: patient, finding, file; each an X-ray that is there.
ROWS = (
    ("2", "COVID-19", "a.jpg"),
    ("2", "COVID-19", "b.png"),
    ("3", "SARS", "c.jpg"),
    ("4", "COVID-19, ARDS", "d.jpg"),
)


def write_table(path, columns, rows, encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def folder(tmp_path):
    """Return a data set with scans of four findings, beside three healthy ones."""
    data = tmp_path / "covid-chestxray"
    (data / "images").mkdir(parents=True)
    for _, _, name in ROWS:
        (data / "images" / name).write_bytes(b"scan")
    write_findings(data)
    healthy = tmp_path / "chest_xray/train/NORMAL"
    healthy.mkdir(parents=True)
    names = ["IM-0115-0001.jpeg", "NORMAL2-IM-0501-0001.jpeg", "IM-0117-0001.jpeg"]
    for name in names:
        (healthy / name).write_bytes(b"scan")
    rows = [(number, name, "Normal") for number, name in enumerate(names)]
    write_table(
        tmp_path / "Chest_xray_Corona_Metadata.csv",
        ("", "X_ray_image_name", "Label"),
        [*rows, (3, "person1_virus_1.jpeg", "Pnemonia")],
    )
    return data


def write_findings(data, *more, encoding="utf-8"):
    rows = [(patient, finding, "PA", "X-ray", "images", name) for patient, finding, name in ROWS]
    write_table(data / "metadata.csv", COLUMNS, [*rows, *more], encoding)


def test_labels_are_the_findings_and_normal_in_sorted_order(folder):
    listing = list_covid(folder)
    assert listing.task.labels == ("COVID-19", "COVID-19, ARDS", "Normal", "SARS")
    assert listing.task.activation == "softmax"
    assert Counter(scan.label for scan in listing.scans) == {
        "COVID-19": 2, "COVID-19, ARDS": 1, "Normal": 3, "SARS": 1,
    }  # fmt: skip
    assert all(Path(scan.path).is_file() for scan in listing.scans)
    assert listing.without_patient == 0
    assert not listing.missing


def test_patients_come_from_the_table_and_from_the_names_of_healthy_scans(folder):
    patients = {Path(scan.path).name: (scan.patient, scan.kin) for scan in list_covid(folder).scans}
    assert patients["a.jpg"] == patients["b.png"] == ("covid 2", "covid 2")
    assert patients["NORMAL2-IM-0501-0001.jpeg"] == ("NORMAL2-IM-0501", "IM-0501")


def test_a_row_without_a_patient_is_a_patient_of_its_own(folder):
    for name in ("e.jpg", "f.jpg"):
        (folder / "images" / name).write_bytes(b"scan")
    write_findings(folder, *[("", "SARS", "PA", "X-ray", "images", name) for name in ("e.jpg", "f.jpg")])
    listing = list_covid(folder)
    assert listing.without_patient == 2
    assert len({scan.kin for scan in listing.scans if Path(scan.path).name in {"e.jpg", "f.jpg"}}) == 2


@pytest.mark.parametrize(("normals", "expected"), [(0, 0), (2, 2), (3, 3), (1300, 3), (5000, 3)])
def test_the_first_healthy_scans_are_taken(folder, normals, expected):
    names = [
        Path(scan.path).name for scan in list_covid(folder, Choices(normals=normals)).scans if scan.label == "Normal"
    ]
    assert sorted(names) == sorted(["IM-0115-0001.jpeg", "NORMAL2-IM-0501-0001.jpeg", "IM-0117-0001.jpeg"][:expected])


def test_without_healthy_scans_no_table_of_them_is_needed(folder):
    (folder.parent / "Chest_xray_Corona_Metadata.csv").unlink()
    assert len(list_covid(folder, Choices(normals=0)).scans) == 4
    with pytest.raises(DatasetError, match="name it with --healthy, or train without healthy scans: --normals 0"):
        list_covid(folder)


def test_the_table_of_healthy_scans_can_be_named(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "chest_xray").rename(elsewhere / "chest_xray")
    table = (tmp_path / "Chest_xray_Corona_Metadata.csv").rename(elsewhere / "healthy.csv")
    listing = list_covid(folder, Choices(healthy=table))
    assert sum(scan.label == "Normal" for scan in listing.scans) == 3
    assert listing.roots == (folder, elsewhere)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("9", "todo", "PA", "X-ray", "images", "a.jpg"), "no-finding-told"),
        (("9", "Unknown", "PA", "X-ray", "images", "a.jpg"), "no-finding-told"),
        (("9", "", "PA", "X-ray", "images", "a.jpg"), "no-finding-told"),
        (("9", "COVID-19", "Axial", "CT", "images", "ct.jpg"), "not-x-ray"),
        (("9", "COVID-19", "PA", "X-ray", "images", "../../secret.jpg"), "path-outside"),
        (("9", "COVID-19", "PA", "X-ray", "../..", "secret.jpg"), "path-outside"),
        (("9", "COVID-19", "PA", "X-ray", "images", "/etc/hosts"), "path-outside"),
        (("9", "COVID-19", "PA", "X-ray", "images", ""), "path-outside"),
        (("9", "x" * 65, "PA", "X-ray", "images", "a.jpg"), "finding-is-no-label"),
        (("9", "uncertain", "PA", "X-ray", "images", "a.jpg"), "finding-is-no-label"),
        (("2", "COVID-19", "PA", "X-ray", "images", "a.jpg"), "named-twice"),
        (("9",), "not-x-ray"),
    ],
)
def test_rows_that_cannot_be_used_are_counted(folder, row, reason):
    write_findings(folder, row)
    listing = list_covid(folder)
    assert listing.left_alone == {reason: 1}
    assert len(listing.scans) == 7


def test_a_scan_with_two_findings_is_left_out(folder):
    write_findings(folder, ("2", "SARS", "PA", "X-ray", "images", "a.jpg"))
    listing = list_covid(folder)
    assert listing.left_alone == {"named-twice": 1, "contradicting-findings": 1}
    assert "a.jpg" not in {Path(scan.path).name for scan in listing.scans}


def test_scans_that_are_not_there_are_told(folder, tmp_path):
    (folder / "images/a.jpg").unlink()
    (tmp_path / "chest_xray/train/NORMAL/IM-0117-0001.jpeg").unlink()
    listing = list_covid(folder)
    assert listing.missing == ("IM-0117-0001.jpeg", "a.jpg")
    assert len(listing.scans) == 5


def test_rare_labels_are_dropped_or_merged(folder):
    dropped = list_covid(folder, Choices(min_per_label=2))
    assert dropped.task.labels == ("COVID-19", "Normal")
    assert dropped.left_alone == {"rare-label COVID-19, ARDS": 1, "rare-label SARS": 1}
    merged = list_covid(folder, Choices(min_per_label=2, rare=Rare.MERGE))
    assert merged.task.labels == ("COVID-19", "Normal", "Other")
    assert len(merged.scans) == 7


def test_one_label_is_too_few(folder):
    with pytest.raises(DatasetError, match=r"holds scans of 1 labels \(COVID-19\); at least two are needed"):
        list_covid(folder, Choices(normals=0, min_per_label=2))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no .*metadata.csv: name the folder"):
        list_covid(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_tables_are_read_in_the_encodings_that_they_come_in(tmp_path, encoding):
    write_table(tmp_path / "table.csv", ("finding", "place"), [(" SARS ", "北京"), ("Lipoid", "Zürich")], encoding)
    assert read_table(tmp_path / "table.csv", ("finding",)) == [
        {"finding": "SARS", "place": "北京"},
        {"finding": "Lipoid", "place": "Zürich"},
    ]


def test_mixed_encodings_are_refused_with_the_line(tmp_path):
    (tmp_path / "table.csv").write_bytes("finding\nSARS\n北京\n".encode() + b"\xff\xff\n")
    with pytest.raises(DatasetError, match=r"is not UTF-8 or GB18030 throughout \(line 4\)"):
        read_table(tmp_path / "table.csv", ("finding",))


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    write_table(tmp_path / "table.csv", ("label", "file"), [])
    with pytest.raises(DatasetError, match="has no column finding; it has: label, file"):
        read_table(tmp_path / "table.csv", ("finding", "file"))


def test_an_empty_table_and_one_with_an_open_quote_are_refused(tmp_path):
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(DatasetError, match="it has: none"):
        read_table(tmp_path / "empty.csv", ("finding",))
    (tmp_path / "open.csv").write_text('finding\n"SARS\n')
    with pytest.raises(DatasetError, match="is no table of comma-separated values"):
        read_table(tmp_path / "open.csv", ("finding",))


@pytest.mark.skipif(
    not Path(os.environ.get("NIGHTREAD_TEST_DATA", ""), "covid-chestxray/metadata.csv").is_file(),
    reason="needs the COVID-19 chest X-rays: NIGHTREAD_TEST_DATA/covid-chestxray",
)
def test_the_real_tables_are_read():
    listing = list_covid(Path(os.environ["NIGHTREAD_TEST_DATA"], "covid-chestxray"))
    counts = Counter(scan.label for scan in listing.scans)
    assert len(listing.task.labels) == 18
    assert (counts["COVID-19"], counts["Normal"], counts["SARS"], counts["Chlamydophila"]) == (388, 150, 16, 1)
    assert listing.left_alone["no-finding-told"] == 85
    assert (listing.missing, listing.without_patient) == ((), 0)
