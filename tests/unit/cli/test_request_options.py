"""The paths of a run from a list: one a line, or ended by NUL, from a file or from stdin."""

import io
import os
import sys
from pathlib import Path

import pytest

from cli.options import read_source
from cli.request_options import find_paths
from nightread.scan.object_address import is_address
from worker.errors import WrongPaths


@pytest.fixture
def pipe(monkeypatch):
    """Return a function that puts bytes on stdin."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.fixture
def night(tmp_path):
    for name in (b"a.jpg", b"new\nline.jpg", b"not-utf-8-\xff.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    return os.fsencode(tmp_path)


def test_paths_that_end_in_nul_may_hold_any_other_byte(pipe, night):
    names = [b"a.jpg", b"new\nline.jpg", b"not-utf-8-\xff.jpg"]
    pipe(b"".join(night + b"/" + name + b"\0" for name in names))  # as `find -print0` writes them
    sources, listed = find_paths(None, "-")
    assert [os.fsencode(path) for path in listed] == [night + b"/" + name for name in names]
    assert sources == [Path(os.fsdecode(night))]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_are_paths_and_empty_ones_are_none(pipe, night, end):
    pipe(end.join([night + b"/a.jpg", b"", night + b"/missing.jpg", b""]))
    _, listed = find_paths(None, "-")
    assert [path.name for path in listed] == ["a.jpg", "missing.jpg"]


def test_a_file_lists_paths_beside_those_of_the_command(tmp_path, night):
    (tmp_path / "list").write_bytes(night + b"/a.jpg\n")
    _, listed = find_paths([Path(os.fsdecode(night)) / "missing.jpg"], str(tmp_path / "list"))
    assert [path.name for path in listed] == ["a.jpg", "missing.jpg"]


def test_a_long_list_has_few_sources_that_hold_all_of_it(pipe, tmp_path):
    folders = [tmp_path / f"{number:02}" for number in range(20)]
    for folder in folders:
        folder.mkdir()
    pipe(b"".join(os.fsencode(folder / "a.jpg") + b"\0" for folder in folders))
    assert find_paths(None, "-")[0] == [tmp_path]


@pytest.mark.parametrize(("file", "said"), [("-", "the list on stdin is empty"), ("/nowhere/list", "cannot be read")])
def test_a_list_that_is_none_is_told(pipe, file, said):
    pipe(b"\n\n")
    with pytest.raises(WrongPaths, match=said):
        find_paths(None, file)


def test_a_folder_of_this_machine_that_is_called_like_a_scheme_is_no_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "ward").mkdir(parents=True)
    for text in ("./s3:/ward", "s3:/ward", "./gs:/missing"):
        assert not is_address(read_source(text))
    for text in ("s3://ward", "s3://night/a.dcm", "s3:/night"):
        assert is_address(read_source(text))
