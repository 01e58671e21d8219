import os

import pytest

from nightread.errors import ScanError
from nightread.scan.files import read_file
from nightread.scan.preprocessing import InputSpec, read_and_prepare
from nightread.scan.walk import Walk, find_scans
from tests.factories import Expected, make_nasty_folder


@pytest.fixture
def nasty(tmp_path):
    folder = tmp_path.resolve() / "nasty"
    expected = make_nasty_folder(folder)
    yield folder, expected
    (folder / "locked").chmod(0o700)


def outcome_of(found, root):
    if found.reason is not None:
        return Expected("rejected" if found.reason.is_rejection else "failed", found.reason)
    try:
        data = read_file(found.path, roots=[root], max_bytes=10**8)
        read_and_prepare(data, InputSpec(height_px=75, width_px=75, channels=1), max_pixels=40_000_000)
    except ScanError as error:
        return Expected("rejected", error.reason)
    return Expected("scored")


def test_everything_that_goes_wrong_with_files_ends_in_one_known_outcome(nasty):
    folder, expected = nasty
    walk = Walk()

    outcomes = {
        os.path.relpath(found.path, folder): outcome_of(found, folder)
        for found in find_scans([folder], walk, roots=[folder])
    }

    assert outcomes == expected
    assert not walk.skipped
