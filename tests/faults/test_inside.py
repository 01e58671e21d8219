"""Every name that the harness replaces inside a worker exists; after a rename a case would test nothing."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests.factories import ROOT

_INSIDE = Path(__file__).parent / "inside"
_ALL = {
    "FOLDER": "{folder}", "READ_S": "0", "VISIBILITY_S": "5", "SOCKET_S": "5", "NEW_TASK": "nightread.other",
    "WITHOUT": "sweeper,fencing,late-acknowledgement",
}  # fmt: skip


def run_inside(code, folder, path=_INSIDE):
    options = {f"FAULTS_{name}": value.format(folder=folder) for name, value in _ALL.items()}
    env = os.environ | options | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_sitecustomize_changes_every_module_that_it_names(tmp_path):
    code = (
        "import importlib, sitecustomize as inside\n"
        "changed = {name: importlib.import_module(name) for name in inside._CHANGES}\n"
        "print(*changed)\n"
    )
    done = run_inside(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) == 9


def test_sitecustomize_ends_the_process_where_a_name_is_gone(tmp_path):
    source = (_INSIDE / "sitecustomize.py").read_text()
    assert '"_configure"' in source
    (tmp_path / "sitecustomize.py").write_text(source.replace('"_configure"', '"_renamed"'))
    done = run_inside(
        "import sitecustomize as inside, importlib; importlib.import_module('worker.queue.celery_app')",
        tmp_path,
        tmp_path,
    )
    assert done.returncode == 70
    assert "has no _renamed" in done.stderr


def test_sitecustomize_names_modules_that_exist(tmp_path):
    spec = importlib.util.spec_from_file_location("inside", _INSIDE / "sitecustomize.py")
    inside = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inside)
    assert [name for name in inside._CHANGES if importlib.util.find_spec(name) is None] == []
