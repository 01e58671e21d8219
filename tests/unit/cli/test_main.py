"""The command table agrees with the commands' modules, and imports only the one that is used."""

import errno
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import commands, main
from cli.exits import Exit, explain
from cli.main import COMMANDS, GROUPS, app, load_command
from cli.output import console
from cli.request import make_request
from db.changes import read_cursor
from nightread import __version__
from nightread.errors import SettingsError, WrongValue
from nightread.model.bundle import DEFAULT_MODEL
from nightread.reasons import Reason
from nightread.settings import read_settings
from tests.program import PROGRAM, make_environment
from worker.guard_codes import GuardCode
from worker.runs.schedule_times import check_folder, find_timezone, read_time


def find_function(row):
    file, _, function = row.place.partition(":")
    return getattr(import_module(f"cli.commands.{file}"), function)


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_the_table_repeats_the_first_line_of_the_function(row):
    assert row.help == find_function(row).__doc__.splitlines()[0]


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_a_command_has_a_panel_or_a_group(row):
    group = row.name.rpartition(" ")[0]
    assert (group in GROUPS) is (row.panel is None)


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_help_ends_in_an_example(row):
    shown = CliRunner().invoke(app, [*row.name.split(), "--help"])
    assert shown.exit_code == 0
    example = shown.stdout.splitlines()[-1]
    assert example.startswith(f"Example: nightread {row.name}")
    assert len(example) < 100


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_help_fits_the_terminal_with_whole_names(row, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    page = CliRunner().invoke(app, [*row.name.split(), "--help"]).stdout
    assert max(map(len, page.splitlines()[:-1])) <= min(width, 100)
    assert "…" not in page
    assert not re.search(r"<\w", page)  # no Python types
    shown = [parameter for parameter in load_command(row).params if not getattr(parameter, "hidden", False)]
    options = {name for parameter in shown for name in (*parameter.opts, *parameter.secondary_opts)}
    long = {name for name in options if name.startswith("--")}
    assert long <= set(re.findall(r"--[a-z][a-z0-9-]*", page))


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_a_page_with_many_options_has_panels(row):
    page = CliRunner().invoke(app, [*row.name.split(), "--help"]).stdout
    panels = re.split(r"(?m)^(?=[A-Z][a-z ]+:$)", page)
    counts = {panel.partition(":")[0]: len(re.findall(r"(?m)^  -", panel)) for panel in panels[1:]}
    assert {name: count for name, count in counts.items() if count > 12} == {}


def test_every_file_of_commands_is_in_the_table():
    files = {file.stem for file in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {row.place.partition(":")[0] for row in COMMANDS}


@pytest.mark.parametrize("arguments", [["--help"], ["models", "--help"], ["--version"]])
def test_a_page_of_help_imports_no_command(arguments):
    assert list_imported_commands(arguments) == []


@pytest.mark.parametrize(("arguments", "module"), [(["runs", "--help"], "runs"), (["db", "upgrade", "--help"], "db")])
def test_the_help_of_a_command_imports_that_one(arguments, module):
    assert list_imported_commands(arguments) == [f"cli.commands.{module}"]


def test_an_unknown_command_is_wrong_usage_and_the_nearest_one_is_named():
    shown = CliRunner().invoke(app, ["scord"])
    assert shown.exit_code == 2
    assert "score" in shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scord"], "No such command 'scord'. Did you mean 'score'? (see `nightread --help`)"),
        (["runs", "--limit", "x"], "--limit: 'x' is not a whole number (see `nightread runs --help`)"),
        (["runs", "--limit", "0"], "--limit: '0' is too small; the least is 1 (see `nightread runs --help`)"),
        (["predict"], "Missing argument 'SCAN...' (see `nightread predict --help`)"),
        (["explain", "demaged"], "there is no code 'demaged'; did you mean damaged? (see `nightread explain --help`)"),
        (["score", "/x", "--color", "red"],
         "--color: 'red' is not one of 'auto', 'always', 'never' (see `nightread score --help`)"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(arguments, said, monkeypatch, capsys):
    assert call(arguments, monkeypatch) == 2
    assert capsys.readouterr().err == f"nightread: {said}\n"


@pytest.mark.parametrize(
    "read",
    [
        lambda: make_request(max_rejected="many"), lambda: make_request(max_failed="-1"),
        lambda: make_request(expect="x"), lambda: make_request(key=""), lambda: read_cursor("x"),
        lambda: read_settings(device="tpu"), lambda: find_timezone("Mars/Base"), lambda: read_time("25:00"),
        lambda: check_folder("/scans/%Q"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_an_option_is_wrong_usage(read):
    with pytest.raises(WrongValue) as wrong:
        read()
    assert explain(wrong.value)[1] == Exit.USAGE


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5_000), f"{'x' * 300} cannot", Exit.USAGE),
        (OSError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b cannot be used: Not a directory", Exit.USAGE),
        (OSError(errno.EROFS, "Read-only file system", "a"), "a cannot be used: Read-only file system", Exit.ERROR),
        (OSError(errno.ENOSPC, "No space left"), "a file cannot be used: No space left", Exit.ERROR),
        (OSError(errno.ENOSPC, "No space left", b"a\xff"), "a\\udcff cannot be used: No space left", Exit.ERROR),
    ],
    ids=lambda value: getattr(value, "strerror", ""),
)
def test_what_a_file_system_refuses_is_one_line(error, said, code):
    found = explain(error)
    assert found[0].startswith(said)
    assert found[1] == code


def test_an_unforeseen_error_of_the_system_is_a_fault_of_the_program():
    assert explain(OSError(errno.ENOENT, "No such file", "a")) is None


def test_a_wrong_setting_is_no_wrong_usage(monkeypatch):
    monkeypatch.setenv("NIGHTREAD_THREADS", "x")
    with pytest.raises(SettingsError) as wrong:
        read_settings(device="tpu")
    assert explain(wrong.value)[1] == Exit.ERROR


@pytest.mark.parametrize("command", [[], ["score"], ["models"], ["models", "promote"]])
def test_the_word_help_asks_for_a_page(command):
    wanted = CliRunner().invoke(app, [*command, "--help"]).stdout
    asked = CliRunner().invoke(app, ["help", *command])
    assert (asked.exit_code, asked.stdout) == (0, wanted)


@pytest.mark.parametrize("arguments", [["runs"], ["models", "list"]])
@pytest.mark.parametrize("made_of_it", [None, ImportError("initialization failed")], ids=["plain", "in-an-import"])
def test_an_interruption_is_told(arguments, made_of_it, monkeypatch, capsys):
    def load(row):
        raise made_of_it or KeyboardInterrupt from KeyboardInterrupt()

    monkeypatch.setattr(main, "load_command", load)
    assert call(arguments, monkeypatch) == Exit.INTERRUPTED
    assert capsys.readouterr().err == "nightread: interrupted\n"


def test_a_fault_of_the_program_ends_in_an_address(monkeypatch, capsys):
    monkeypatch.setattr("cli.commands.config.read_sourced_settings", lambda: 1 / 0)
    assert call(["config"], monkeypatch) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("nightread: this is a fault of Nightread. Please report it at https://")


@pytest.mark.parametrize("arguments", [["-V"], ["--version"]])
def test_the_version_is_told(arguments):
    assert CliRunner().invoke(app, arguments).stdout == f"nightread {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--color", "always"], {"FORCE_COLOR": "1"}), (["--color", "never"], {"NO_COLOR": "1"}),
        (["--color", "auto"], {}), (["-v"], {"NIGHTREAD_LOG_LEVEL": "INFO"}),
        (["-vv"], {"NIGHTREAD_LOG_LEVEL": "DEBUG"}), (["-q"], {"NIGHTREAD_LOG_LEVEL": "ERROR"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [True, False])
def test_global_options_stand_before_or_after_the_command(arguments, variables, before, monkeypatch, capsys):
    monkeypatch.setattr(console, "_quiet", False)
    for name in ("FORCE_COLOR", "NO_COLOR", "NIGHTREAD_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # restored at the end
        monkeypatch.delenv(name)
    line = [*arguments, "explain", "3"] if before else ["explain", "3", *arguments]
    assert call(line, monkeypatch) == 0
    assert {
        name: os.environ[name] for name in ("FORCE_COLOR", "NO_COLOR", "NIGHTREAD_LOG_LEVEL") if name in os.environ
    } == variables
    console.say("hint")
    assert ("hint" in capsys.readouterr().err) is (arguments != ["-q"])


def test_explain_knows_every_code(capsys, monkeypatch):
    for code in [*Reason, *GuardCode, *(str(one.value) for one in Exit)]:
        assert call(["explain", str(code), "--json"], monkeypatch) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["code"] == code
        assert told["meaning"]
        assert told["what_to_do"]


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("nightread sta", ["status"]), ("nightread explain dam", ["damaged"]),
        ("nightread models check pneumonia-lite", [DEFAULT_MODEL]),
        ("nightread results --oper", ["--operating-point"]),
        ("nightread status ", []),  # a database that is not there is not made
    ],
)  # fmt: skip
def test_the_shell_completes(line, offers, tmp_path):
    assert complete(line, tmp_path) == offers
    assert list(tmp_path.rglob("*.db")) == []


def complete(line, folder):
    words = line.split(" ")
    env = make_environment(folder) | {
        "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_NIGHTREAD_COMPLETE": "complete_bash",
    }  # fmt: skip
    done = subprocess.run([PROGRAM], env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def call(arguments, monkeypatch):
    """Run the program in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["nightread", *arguments])
    with pytest.raises(SystemExit) as ended:
        main._call()
    return int(ended.value.code)


def list_imported_commands(arguments):
    code = (
        "import sys\nfrom cli.main import app\ntry:\n    app()\nfinally:\n"
        "    print(*[name for name in sys.modules if name.startswith('cli.commands.')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stderr.split()
