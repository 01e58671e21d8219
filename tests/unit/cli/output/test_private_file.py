"""Files that commands write: whole or not at all, and nothing but a regular file is replaced."""

import os
import threading

import pytest

from cli.output.private_file import open_private, write_private
from nightread.errors import NightreadError


def list_names(folder):
    return [path.name for path in folder.iterdir()]


def test_a_file_is_for_its_owner_and_alone_in_its_folder(tmp_path):
    write_private(tmp_path / "a", "old")
    write_private(tmp_path / "a", "whole")
    assert (tmp_path / "a").read_text() == "whole"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert list_names(tmp_path) == ["a"]


def test_a_file_that_did_not_become_whole_does_not_appear(tmp_path):
    def stop():
        with open_private(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list_names(tmp_path) == []


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    write_private(tmp_path / "link", "whole")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_text() == "whole"


def test_a_fifo_stays_and_its_reader_gets_the_text(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_text()))
    reader.start()
    write_private(tmp_path / "fifo", "whole")
    reader.join()
    assert read == ["whole"]
    assert (tmp_path / "fifo").is_fifo()


@pytest.mark.parametrize("name", ["", "missing/a", "x" * 300, "file/a"], ids=["folder", "missing", "long", "in-a-file"])
def test_what_cannot_be_written_is_one_line(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(NightreadError, match=r"cannot be written: .*; name a file in a folder that exists"):
        write_private(tmp_path / name, "text")
    assert list_names(tmp_path) == ["file"]


def test_the_longest_name_can_be_written(tmp_path):
    write_private(tmp_path / ("x" * 255), "text")
    assert list_names(tmp_path) == ["x" * 255]
