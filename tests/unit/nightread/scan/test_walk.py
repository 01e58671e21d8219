import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from nightread.reasons import Reason
from nightread.scan.entry import FoundScan, Skip
from nightread.scan.walk import Walk, find_scans
from tests import factories


@pytest.fixture
def night(tmp_path):
    folder = (tmp_path / "night").resolve()
    folder.mkdir()
    return folder


def find(*paths, roots=None):
    walk = Walk()
    found = list(find_scans(paths, walk, roots=[path.resolve() for path in paths] if roots is None else roots))
    return found, dict(walk.skipped)


def names(found, folder):
    return [(os.path.relpath(scan.path, folder), scan.reason) for scan in found]


def test_scans_are_found_by_content_in_the_order_of_their_names(night):
    factories.write_jpeg(night / "b" / "no-suffix")
    factories.write_dicom(night / "a" / "IM0001")
    factories.write_png16(night / "c.txt")
    (night / "a" / "report.txt").write_text("no scan")

    found, skipped = find(night)

    assert names(found, night) == [("a/IM0001", None), ("b/no-suffix", None), ("c.txt", None)]
    assert skipped == {Skip.NOT_A_SCAN: 1}
    assert found[0].size_bytes == (night / "a" / "IM0001").stat().st_size


def test_a_name_that_claims_a_scan_gets_a_row_whatever_it_holds(night):
    (night / "a.jpg").write_text("text")
    (night / "b.DCM").write_bytes(b"")
    (night / "c.png").write_bytes(b"PK\x03\x04")
    for name in ("d.bmp", "e.webp", "f.jls"):
        (night / name).write_bytes(b"")

    found = ["a.jpg", "b.DCM", "c.png", "d.bmp", "e.webp", "f.jls"]
    assert names(find(night)[0], night) == [(name, None) for name in found]


def test_other_images_and_archives_get_a_row(night):
    (night / "a.gif").write_bytes(factories.encode_image(kind="GIF"))
    (night / "b.zip").write_bytes(b"PK\x03\x04")
    (night / "c.tar").write_bytes(b"\0" * 257 + b"ustar")

    found, skipped = find(night)

    assert names(found, night) == [("a.gif", None), ("b.zip", None), ("c.tar", None)]
    assert skipped == {}


def test_hidden_entries_are_skipped_and_counted_but_a_hidden_path_named_itself_is_searched(night):
    factories.write_jpeg(night / ".hidden" / "a.jpg")
    factories.write_jpeg(night / ".b.jpg")

    assert find(night) == ([], {Skip.HIDDEN: 2})
    assert names(find(night / ".hidden")[0], night) == [(".hidden/a.jpg", None)]


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir"])
def test_a_dicomdir_is_an_index_and_no_scan(night, name):
    factories.write_dicom(night / name)

    assert find(night) == ([], {Skip.NOT_A_SCAN: 1})


def test_a_fifo_and_a_socket_are_skipped_and_do_not_hang(night):
    os.mkfifo(night / "a.jpg")

    assert find(night) == ([], {Skip.SPECIAL: 1})


def test_a_link_within_the_roots_is_followed(night):
    factories.write_jpeg(night / "a.jpg")
    (night / "b.jpg").symlink_to("a.jpg")

    assert names(find(night)[0], night) == [("a.jpg", None), ("b.jpg", None)]


def test_links_out_of_the_roots_are_refused_with_a_row(night, tmp_path):
    factories.write_jpeg(tmp_path / "elsewhere" / "a.jpg")
    (night / "file.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    (night / "folder").symlink_to(tmp_path / "elsewhere")

    assert names(find(night)[0], night) == [("file.jpg", Reason.OUTSIDE_ROOTS), ("folder", Reason.OUTSIDE_ROOTS)]


def test_a_start_outside_the_roots_is_not_looked_into(night, tmp_path):
    factories.write_jpeg(tmp_path / "elsewhere" / "a.jpg")

    found, _ = find(tmp_path / "elsewhere", roots=[night])

    assert found == [FoundScan(str(tmp_path / "elsewhere"), 0, Reason.OUTSIDE_ROOTS)]


def test_a_loop_of_links_ends_and_is_counted(night):
    factories.write_jpeg(night / "ward" / "a.jpg")
    (night / "ward" / "up").symlink_to(night)

    found, skipped = find(night)

    assert names(found, night) == [("ward/a.jpg", None)]
    assert skipped == {Skip.LINK_LOOP: 1}


def test_a_link_to_itself_is_no_file_and_a_link_to_nothing_is_missing(night):
    (night / "a.jpg").symlink_to("a.jpg")
    (night / "b.jpg").symlink_to("gone.jpg")

    assert names(find(night)[0], night) == [("a.jpg", Reason.NOT_A_FILE), ("b.jpg", Reason.MISSING_FILE)]


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["outer-first", "inner-first"])
def test_overlapping_paths_find_and_count_everything_once(night, order):
    factories.write_jpeg(night / "ward-1" / "a.jpg")
    (night / "ward-1" / "note.txt").write_text("no scan")
    (night / "ward-1" / ".hidden").touch()
    paths = [night, night / "ward-1", night / "ward-1" / "a.jpg", night / "ward-1" / "note.txt"][order]

    found, skipped = find(*paths)

    assert names(found, night) == [("ward-1/a.jpg", None)]
    assert skipped == {Skip.NOT_A_SCAN: 1, Skip.HIDDEN: 1}


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["outer-first", "inner-first"])
def test_what_cannot_be_looked_into_gets_one_row_though_it_is_named_twice(night, order):
    (night / "a.jpg").symlink_to("gone.jpg")

    found, _ = find(*[night, night / "a.jpg"][order], roots=[night])

    assert names(found, night) == [("a.jpg", Reason.MISSING_FILE)]


def test_a_folder_of_many_scans_takes_no_memory_for_those_that_were_yielded(night):
    for number in range(2_000):
        (night / f"{number:04}-{'x' * 200}.jpg").touch()
    found = find_scans([night], Walk(), roots=[night])
    next(found)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    count = sum(1 for _ in found)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert count == 1_999
    assert grown < 100 * 200  # of 2,000 paths of more than 200 characters


@pytest.mark.parametrize(
    "name", [b"sp ace.jpg", b"new\nline.jpg", b"qu'o\"te.jpg", b"back\\slash.jpg", b"\xff\xfe.jpg"]
)
def test_a_scan_of_any_name_is_found(night, name):
    (night / os.fsdecode(name)).write_bytes(factories.encode_jpeg())

    assert names(find(night)[0], night) == [(os.fsdecode(name), None)]


def test_a_fifo_put_in_the_place_of_a_file_does_not_hang(night, monkeypatch):
    os.mkfifo(night / "a.jpg")
    regular = Path(__file__).stat()
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: regular if path == str(night / "a.jpg") else lstat(path))

    assert names(find(night)[0], night) == [("a.jpg", None)]


def test_a_folder_that_vanishes_during_the_walk_is_missing(night, monkeypatch):
    (night / "ward").mkdir()
    listdir = os.listdir

    def list_late(path):
        if path == str(night / "ward"):
            raise FileNotFoundError(2, "gone")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", list_late)

    assert names(find(night)[0], night) == [("ward", Reason.MISSING_FILE)]


_FIND = """
import os, sys
from pathlib import Path
from nightread.scan.walk import Walk, find_scans
night = Path(sys.argv[1])
for scan in find_scans([night], Walk(), roots=[night]):
    print(os.path.relpath(scan.path, night), scan.reason)
"""


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root reads all; setpriv is missing")
def test_what_may_not_be_read_gets_a_row_that_says_so(night):
    factories.write_jpeg(night / "locked" / "a.jpg")
    (night / "locked").chmod(0)
    factories.write_jpeg(night / "unreadable.jpg").chmod(0)
    command = [sys.executable, "-c", _FIND, str(night)]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]

    listed = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True).stdout

    assert listed == "locked permission-denied\nunreadable.jpg permission-denied\n"
