"""The command table agrees with the commands' modules, and imports only the one that is used."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import commands
from cli.main import COMMANDS, GROUPS, app


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
    assert f"Example: nightread {row.name}" in " ".join(shown.stdout.split())


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


def list_imported_commands(arguments):
    code = (
        "import sys\nfrom cli.main import app\ntry:\n    app()\nfinally:\n"
        "    print(*[name for name in sys.modules if name.startswith('cli.commands.')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stderr.split()
