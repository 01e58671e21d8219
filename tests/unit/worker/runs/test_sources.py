"""What may be named as the source of a run."""

import pytest

from worker.errors import WrongPaths
from worker.runs.enqueue import resolve_source


@pytest.mark.parametrize("name", ["secret", "missing", "secret/missing", "scans/../missing", "scans/link/missing"])
def test_whoever_names_a_path_learns_nothing_of_what_lies_outside_the_roots(tmp_path, name):
    for folder in ("scans", "secret"):
        (tmp_path / folder).mkdir()
    (tmp_path / "scans" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(WrongPaths, match="lies outside the folders that may be read"):
        resolve_source(tmp_path / name, [tmp_path / "scans"])
