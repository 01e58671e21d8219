"""The notebook of the library runs from its first cell to its last."""

import json
import subprocess
import sys

from tests.factories import ROOT

NOTEBOOK = ROOT / "docs/notebooks/library.ipynb"


def test_the_notebook_runs_and_shows_what_it_promises(tmp_path):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    program = tmp_path / "notebook.py"
    program.write_text("\n".join("".join(cell["source"]) for cell in cells))
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "NIGHTREAD_DEVICE": "cpu", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for shown in ("demo-000.jpg scored {'pneumonia': ", "not-an-image", "rejected rotated", "(848, 1024)"):
        assert shown in done.stdout
    assert all(cell["outputs"] == [] for cell in cells)  # outputs are made where the page is built
