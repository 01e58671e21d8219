"""The start of the program, beside packages of the same names."""

import subprocess
import sys

import pytest

import nightread.__main__
from nightread.__main__ import _PACKAGES, find_foreign, main
from tests.factories import ROOT
from tests.project import read_packages


def start(folder, **variables):
    return subprocess.run(
        [sys.executable, "-P", "-m", "nightread", "--version"], cwd=folder, env={"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_package_of_the_wheel_is_looked_for():
    assert {*_PACKAGES, "nightread"} == set(read_packages())
    assert find_foreign() == []


@pytest.mark.parametrize("name", ["db.py", "worker/__init__.py", "web/__init__.py", "cli/__init__.py"])
def test_a_folder_with_packages_of_the_same_names_changes_nothing(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('foreign code ran')")
    assert start(tmp_path).stdout.startswith("nightread ")


@pytest.mark.parametrize("name", ["db.py", "worker/__init__.py", "web/__init__.py", "cli/__init__.py"])
def test_a_foreign_package_is_refused_and_not_run(tmp_path, name):
    (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "site" / name).write_text("raise SystemExit('foreign code ran')")
    done = start(tmp_path, PYTHONPATH=f"{tmp_path / 'site'}:{ROOT}")
    assert (done.returncode, done.stdout) == (1, "")
    package = name.partition("/")[0].removesuffix(".py")
    assert done.stderr.startswith(
        f"nightread: another package hides one of Nightread's: {package} in {tmp_path / 'site'}"
    )
    assert done.stderr.count("\n") == 1


def test_an_interruption_before_the_command_line_is_read_is_told(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(nightread.__main__, "find_foreign", interrupt)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "nightread: interrupted\n"
