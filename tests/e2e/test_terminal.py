"""The program in a shell: its files are private, its output suits the locale, pipe and exit code."""

import os
import re
import stat
import subprocess
import sys

import pytest

from nightread.example_night import write_example_night
from tests.factories import write_jpeg
from tests.program import hook, last_json, make_environment, run

AS_NOBODY = """\
import os, sys
import cli.commands.runs, cli.main, cli.output.tables, db.schema, sqlalchemy.dialects.sqlite
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv = ["nightread", "runs"]
cli.main.run()
"""


@pytest.fixture
def env(tmp_path):
    return make_environment(tmp_path)


@pytest.fixture
def night(tmp_path, env):
    write_jpeg(tmp_path / "night" / "süd [/x].jpeg")
    run("score", tmp_path / "night", env=env, cwd=tmp_path)
    return tmp_path / "night"


def find_modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def test_what_the_program_writes_is_its_users_alone(night, env, tmp_path):
    run("results", "--format", "csv", "--out", tmp_path / "night.csv", env=env, cwd=tmp_path)
    run("demo", "--folder", tmp_path / "demo", env=env, cwd=tmp_path)

    assert find_modes(tmp_path / "data") == {"nightread": 0o700, "nightread.db": 0o600}
    assert stat.S_IMODE((tmp_path / "night.csv").stat().st_mode) == 0o600
    assert {mode & 0o077 for mode in find_modes(tmp_path / "demo").values()} == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_is_told_how_to_read_the_database(night, env, tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    for parent in (folder, *folder.parents[:-1]):
        parent.chmod(parent.stat().st_mode | 0o055)
    (folder / "n.db").write_bytes((tmp_path / "data" / "nightread" / "nightread.db").read_bytes())
    (folder / "n.db").chmod(0o644)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY], env=env | {"NIGHTREAD_DATABASE_URL": f"sqlite:///{folder / 'n.db'}"},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5
    assert "run as its owner, or read a copy that the owner makes with `nightread db backup`" in done.stderr


@pytest.mark.parametrize("command", [("results",), ("runs",), ("results", "--format", "json"), ("runs", "--json")])
def test_a_pipe_gets_whole_utf8_in_a_locale_without_umlauts(night, env, tmp_path, command):
    done = run(*command, env=env | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, cwd=tmp_path)
    assert "sü" in done.stdout or "s\\u00fc" in done.stdout or "runs" in command


def test_the_first_night_runs(page_lines, env, tmp_path):
    write_example_night(tmp_path / "FOLDER")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/2026-11-20").symlink_to(tmp_path / "FOLDER")
    for line in page_lines:
        run(*(word.replace("~", str(tmp_path)) for word in line.words), env=env, cwd=tmp_path)
    assert (tmp_path / "night.csv").read_text().count("\n") == 16


def test_hints_go_to_stderr(night, env, tmp_path):
    done = run("status", env=env, cwd=tmp_path)
    assert "nightread results" not in done.stdout
    assert "nightread results" in done.stderr
    assert run("-q", "status", env=env, cwd=tmp_path).stderr == ""


def test_a_decision_that_the_run_has_not_is_told_with_those_that_it_has(night, env, tmp_path):
    said = run("results", "--decision", "scord", env=env, cwd=tmp_path).stderr
    assert re.search(r"no rows; the decisions of this run are (normal|pneumonia|uncertain)\n", said)


def test_the_newest_run_without_scans_is_told_as_such(env, tmp_path):
    (tmp_path / "empty").mkdir()
    run("score", tmp_path / "empty", env=env, cwd=tmp_path, expect=6)
    said = "this run holds no scans; `nightread runs` lists the others"
    assert said in run("results", "--decision", "pneumonia", env=env, cwd=tmp_path).stderr


def test_colors_follow_the_option(night, env, tmp_path):
    assert "\x1b[" in run("results", "--color", "always", env=env, cwd=tmp_path).stdout
    assert "\x1b[" not in run("results", env=env, cwd=tmp_path).stdout


def test_a_scan_without_score_is_not_exit_code_0(night, env, tmp_path):
    (tmp_path / "notes.md").write_text("no image")
    run("predict", night / "süd [/x].jpeg", env=env, cwd=tmp_path)
    done = run("predict", tmp_path / "notes.md", "--json", env=env, cwd=tmp_path, expect=3)
    assert last_json(done)[0]["status"] == "rejected"


def test_a_finished_run_cannot_be_cancelled(night, env, tmp_path):
    done = run("cancel", "night", env=env, cwd=tmp_path, expect=1)
    assert "has already finished; nothing to cancel" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("cancel", ""), ("score", ""), ("predict", ""), ("results", "--night", "0001-01-01"),
        ("report", "--night", "9999-12-31"), ("runs", "--limit", str(2**63)),
    ],
)  # fmt: skip
def test_an_argument_at_the_end_of_its_range_is_wrong_usage(night, env, tmp_path, command):
    assert "nightread: " in run(*command, env=env, cwd=tmp_path, expect=2).stderr


def test_a_name_that_is_not_utf8_is_one_line(night, env, tmp_path):
    done = run("runs", "--name", os.fsdecode(b"m\xfcller"), env=env, cwd=tmp_path, expect=1)
    assert done.stderr == "nightread: a name that was asked for is not UTF-8; nothing in the database is called so\n"


@pytest.mark.parametrize("name", ["a%00b", "x" * 300, "~nobody-of-that-name/x.db"], ids=["nul", "long", "home"])
def test_a_database_file_that_cannot_be_is_one_line(env, tmp_path, name):
    done = run("runs", env=env | {"NIGHTREAD_DATABASE_URL": f"sqlite:///{name}"}, cwd=tmp_path, expect=5)
    assert "the file of the database cannot be made" in done.stderr or "names no file that can be" in done.stderr


def test_an_interruption_waits_for_no_thread(night, env, tmp_path):
    busy = "__import__('threading').Thread(target=time.sleep, args=(300,)).start(); raise KeyboardInterrupt"
    env |= hook(tmp_path / "hook", "db.runs", "find_run", "connection", busy)
    done = run("status", "night", env=env, cwd=tmp_path, expect=130)
    assert done.stderr == "nightread: interrupted\n"
