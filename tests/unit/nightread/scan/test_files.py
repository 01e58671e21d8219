import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightread.errors import StorageError, UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan import files
from nightread.scan.files import decode_path, encode_path, find_root, read_file

file_names = st.binary(min_size=1, max_size=80).filter(lambda name: b"\0" not in name)
tricky_names = st.lists(
    st.sampled_from(
        [b"\\", b"\\x41", b"x41", b"\xff", b"\n", b" ", b"'", b'"', b"%", "ü".encode(), b"\xed\xa0\x80", b"/"]
    ),
    min_size=1,
    max_size=8,
).map(b"".join)


@given(file_names | tricky_names)
def test_any_file_name_survives_being_written_as_text(name):
    path = os.fsdecode(name)

    assert decode_path(encode_path(path)) == path


@given(file_names | tricky_names)
def test_a_path_as_text_is_always_utf8(name):
    assert encode_path(os.fsdecode(name)).encode("utf-8")


@given(file_names | tricky_names, file_names | tricky_names)
def test_two_paths_never_share_a_text(one, other):
    assert (encode_path(os.fsdecode(one)) == encode_path(os.fsdecode(other))) == (one == other)


def test_an_ordinary_path_is_its_own_text():
    assert encode_path('/scans/ward 1/Müller\'s "best".jpg') == '/scans/ward 1/Müller\'s "best".jpg'


def test_find_root_does_not_take_a_name_that_only_begins_alike(tmp_path):
    assert find_root(str(tmp_path / "scans-old" / "a.jpg"), [tmp_path / "scans"]) is None
    assert find_root(str(tmp_path / "scans" / "a.jpg"), [tmp_path / "scans"]) == tmp_path / "scans"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder.resolve()


def read(path, root, max_bytes=1000):
    return read_file(str(path), roots=[root], max_bytes=max_bytes)


def reason_of(error_class, path, root, **limits):
    with pytest.raises(error_class) as caught:
        read(path, root, **limits)
    assert str(root) not in str(caught.value)
    return caught.value.reason


def test_a_file_is_read_whole(root):
    (root / "a").write_bytes(b"abc" * 100)

    assert read(root / "a", root) == b"abc" * 100


@pytest.mark.parametrize("name", [b"sp ace", b"new\nline", b"qu'o\"te", b"back\\slash", b"\xff\xfe"])
def test_a_file_of_any_name_is_read(root, name):
    path = root / os.fsdecode(name)
    path.write_bytes(b"abc")

    assert read(decode_path(encode_path(path)), root) == b"abc"


def test_the_root_may_be_the_file_itself(root):
    (root / "a").write_bytes(b"abc")

    assert read(root / "a", root / "a") == b"abc"


def test_a_link_within_the_roots_is_read(root):
    (root / "ward").mkdir()
    (root / "ward" / "a").write_bytes(b"abc")
    (root / "link").symlink_to(root / "ward")

    assert read(root / "link" / "a", root) == b"abc"


def test_a_link_out_of_the_roots_is_refused(root, tmp_path):
    (tmp_path / "secret").write_bytes(b"abc")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)

    assert reason_of(UnsupportedScan, root / "link", root) is Reason.OUTSIDE_ROOTS
    assert reason_of(UnsupportedScan, root / "folder" / "secret", root) is Reason.OUTSIDE_ROOTS


def test_dots_do_not_lead_out_of_the_roots(root, tmp_path):
    (tmp_path / "secret").write_bytes(b"abc")

    assert reason_of(UnsupportedScan, root / ".." / "secret", root) is Reason.OUTSIDE_ROOTS


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_put_there_after_the_check_is_not_followed(root, tmp_path, monkeypatch, swapped):
    (tmp_path / "secret").write_bytes(b"abc")
    target = root / "ward" / "secret"
    if swapped == "file":
        target.parent.mkdir()
        target.symlink_to(tmp_path / "secret")
    else:
        target.parent.symlink_to(tmp_path)
    monkeypatch.setattr(files.os.path, "realpath", str)  # what was checked is no longer what is there

    assert reason_of(UnsupportedScan, target, root) is Reason.OUTSIDE_ROOTS


def test_a_fifo_is_refused_and_does_not_hang(root):
    os.mkfifo(root / "a.jpg")

    assert reason_of(UnreadableScan, root / "a.jpg", root) is Reason.NOT_A_FILE


def test_a_fifo_put_there_after_the_check_does_not_hang(root, monkeypatch):
    os.mkfifo(root / "a.jpg")
    regular = Path(__file__).stat()
    monkeypatch.setattr(files.os, "stat", lambda *args, **kwargs: regular)

    assert reason_of(UnreadableScan, root / "a.jpg", root) is Reason.NOT_A_FILE


def test_a_socket_a_device_and_a_folder_are_refused(root, monkeypatch):
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert reason_of(UnreadableScan, root / "socket", root) is Reason.NOT_A_FILE
    assert reason_of(UnreadableScan, "/dev/null", Path("/dev")) is Reason.NOT_A_FILE
    (root / "folder").mkdir()
    assert reason_of(UnreadableScan, root / "folder", root) is Reason.NOT_A_FILE


def test_an_empty_file_is_refused(root):
    (root / "a").touch()

    assert reason_of(UnreadableScan, root / "a", root) is Reason.EMPTY_FILE


def test_a_file_over_the_limit_is_refused_unread_and_one_at_the_limit_read(root):
    (root / "a").write_bytes(b"a" * 101)

    assert reason_of(UnreadableScan, root / "a", root, max_bytes=100) is Reason.TOO_LARGE
    assert len(read(root / "a", root, max_bytes=101)) == 101


def test_a_file_that_is_gone_may_come_back(root):
    assert reason_of(StorageError, root / "a", root) is Reason.MISSING_FILE


def test_a_file_that_grows_while_it_is_read_is_tried_again(root, monkeypatch):
    (root / "a").write_bytes(b"a" * 100)
    check = files.check_size_bytes

    def grow(*sizes):
        check(*sizes)
        (root / "a").write_bytes(b"a" * 200)

    monkeypatch.setattr(files, "check_size_bytes", grow)

    assert reason_of(StorageError, root / "a", root) is Reason.STORAGE_ERROR


def test_a_name_with_a_zero_byte_is_no_file(root):
    assert reason_of(UnreadableScan, f"{root}/a\0b", root) is Reason.NOT_A_FILE


def test_an_io_error_may_pass_and_its_message_holds_no_path(root, monkeypatch):
    (root / "a").write_bytes(b"abc")

    def fail(file, max_bytes):
        raise OSError(5, "Input/output error", str(root / "a"))

    monkeypatch.setattr(files, "_read_at_most", fail)

    assert reason_of(StorageError, root / "a", root) is Reason.STORAGE_ERROR
