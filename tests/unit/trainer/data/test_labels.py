"""Own labels, from a CSV file or from folders, become a data set; what is wrong with them is said with its row."""

import os
from pathlib import Path

import pytest

from nightread.scan.files import encode_path
from trainer.data.dataset import Choices
from trainer.data.labels import read_labels, refuse_contradictions
from trainer.data.own import list_own
from trainer.errors import DatasetError


@pytest.fixture
def write(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).touch()

    def write(content):
        (tmp_path / "labels.csv").write_text(content)
        return tmp_path / "labels.csv"

    return write


def test_two_labels_with_a_negative_one_are_one_finding(write):
    listing = list_own(write("path,label,patient,split\na.png,TB,p1,train\nb.png,Normal,p2,test\nd.png,TB,p3,val\n"))
    assert (listing.task.labels, listing.task.activation, listing.task.negative_decision) == (
        ("TB",), "sigmoid", "Normal",
    )  # fmt: skip
    assert [(scan.label, scan.patient, scan.part) for scan in listing.scans] == [
        ("TB", "p1", "train"), ("Normal", "p2", "hold-out"),
    ]  # fmt: skip
    assert (listing.missing, listing.without_patient) == (("d.png",), 0)


def test_other_labels_exclude_each_other_unless_one_is_named_the_negative_one(write):
    source = write("path,label\na.png,left\nb.png,right\n")
    assert list_own(source).task.activation == "softmax"
    assert list_own(source, Choices(negative="left")).task.labels == ("right",)
    with pytest.raises(DatasetError, match="no label 'up'"):
        list_own(source, Choices(negative="up"))


def test_a_file_with_two_labels_is_left_out_and_one_that_is_named_twice_counts_once(write):
    listing = list_own(write("path,label\na.png,x\nb.png,y\na.png,x\nc.png,x\nc.png,y\n"))
    assert [scan.label for scan in listing.scans] == ["x", "y"]
    assert listing.left_alone == {"named-twice": 2, "contradicting-labels": 1}


def test_folders_of_any_names_are_labels(tmp_path):
    for name in ("effusion", "no finding"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    listing = list_own(tmp_path)
    assert (listing.task.labels, listing.task.negative_decision) == (("effusion",), "no finding")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("before", ["", "\ufeff"])
def test_the_delimiter_of_a_spreadsheet_is_found(tmp_path, delimiter, before):
    text = before + "path,label\r\na.png,x\r\n".replace(",", delimiter)
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    assert [(row.path, row.label) for row in read_labels(tmp_path / "labels.csv")] == [(str(tmp_path / "a.png"), "x")]


@pytest.mark.parametrize("name", ["line\u2028.png", "next\x85.png", "page\x0c.png", "group\x1d.png"])
def test_a_name_with_a_separator_of_lines_is_one_row(write, name):
    assert [Path(row.path).name for row in read_labels(write(f"path,label\n{name},x\n"))] == [name]


def test_a_path_that_is_too_long_to_be_one_is_a_missing_scan(write):
    (row,) = read_labels(write("path,label\n" + "\\\\a" * 5000 + ".png,x\n"))
    assert row.label == "x"


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"back\\slash.png", b"=1+1.png", "\u202egnp.png".encode()])
def test_a_path_is_found_as_the_database_writes_it(tmp_path, name):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    Path(path).touch()
    (tmp_path / "labels.csv").write_text(f'path,label\n"{encode_path(path)}",x\n', encoding="utf-8")
    assert [row.path for row in read_labels(tmp_path / "labels.csv")] == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\na.png,\n", "row 1: it has no label"),
        ("path,label\n,x\n", "row 1: it has no path"),
        ("path,label,split\na.png,x,train\nb.png,y,exam\n", "row 2: the split is 'exam'; allowed are train"),
        ("path,label,split\na.png,x,train\nb.png,y,\n", "some rows have a split and others have none"),
        ("path,label\na.png,x\n", "has scans of 1 labels"),
        ("path,label\na.png,uncertain\nb.png,x\n", "'uncertain' cannot be a label"),
        ("path,finding\na.png,x\n", "has no column label; it has: path, finding"),
        ("path,label\n", "holds no labelled scans"),
        ("path,label\na,b.png,x\n", "row 1: it has more cells than the header; write a text with a comma in quotes"),
        ("path,label,label\na.png,x,y\n", "has the column label twice"),
        ("path,label\na\0.png,x\n", "row 1: the path contains a null byte"),
        ("path,label\na.png,TB\nb.png,tb\n", "'TB' and 'tb' differ in small and capital letters alone"),
        (
            "path,label\na.png,x\na.png,y\nb.png,y\n",
            "needed. 1 files have two labels and were left out",
        ),
    ],
)
def test_wrong_labels_are_refused_with_their_place(write, content, message):
    with pytest.raises(DatasetError, match=message):
        list_own(write(content))


def test_a_fifo_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(DatasetError, match=r"labels\.csv cannot be read: not a regular file"):
        read_labels(tmp_path / "labels.csv")


def test_a_header_in_capitals_keeps_patients_and_splits(write):
    (row,) = read_labels(write("Path; LABEL ;Patient;Split\na.png;x;p1;test\n"))
    assert (row.label, row.patient, row.part) == ("x", "p1", "hold-out")


def test_blank_lines_and_rows_of_empty_cells_are_passed_over(write):
    rows = read_labels(write("\n\npath,label\n\n , \na.png,x\n,,,\n"))
    assert [row.place for row in rows] == ["row 1"]


def test_a_scan_with_two_labels_is_refused_where_each_counts(write):
    source = write("path,label\na.png,x\na.png,x\nb.png,y\n")
    assert len(refuse_contradictions(source, read_labels(source))) == 2
    source = write("path,label\na.png,x\nb.png,y\na.png,y\n")
    with pytest.raises(DatasetError, match="row 3: the scan has the label 'y', and 'x' in row 1"):
        refuse_contradictions(source, read_labels(source))


def test_labels_in_another_encoding_are_refused_rather_than_read_as_other_labels(write):
    source = write("path,label\na.png,x\n")
    source.write_bytes("path,label\na.png,gr\u00fcn\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"is not UTF-8 throughout \(line 2\); save it as UTF-8"):
        read_labels(source)
